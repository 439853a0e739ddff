// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <foresightkv/append.hpp>
#include <foresightkv/foresightkv.hpp>
#include <limits>
#include <vector>

#include "support/state_fixture.hpp"

namespace fkv = foresightkv;
using testing::carried_policy;
using testing::state_fixture;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2, .num_sequences = 3, .num_kv_heads = 2, .group = 2, .key_head_dim = 4, .value_head_dim = 4, .capacity = 64};
constexpr fkv::sequence_list everyone{nullptr, nullptr, 3, 64};

bool has_flag(fkv::row_state const& state, int sequence, fkv::sequence_flag flag) {
  return (state.flags[sequence] & static_cast<std::uint32_t>(flag)) != 0;
}

template <class State>
void for_rows(State const& state, int sequence, auto const& body) {
  for (int layer = 0; layer < state.num_layers; ++layer)
    for (int head = 0; head < state.num_kv_heads; ++head) body(state.row({layer, sequence, head}));
}

}  // namespace

TEST_CASE("append to fresh rows advances positions, in any pieces") {
  state_fixture<carried_policy<fkv::ordered>> fixture(shape, 16);
  std::vector<std::int32_t> counts{5, 0, 40};
  CHECK(fkv::append(testing::exec, fixture.state, everyone, counts.data()).ok());
  counts = {3, 1, 2};
  CHECK(fkv::append(testing::exec, fixture.state, everyone, counts.data()).ok());
  int const expected[] = {8, 1, 42};  // the third is longer than the state's capacity: pristine rows may be
  for (int sequence = 0; sequence < 3; ++sequence) {
    for_rows(fixture.state, sequence, [&](int row) {
      CHECK(fixture.state.seen_length[row] == expected[sequence]);
      CHECK(fixture.state.next_position[row] == expected[sequence]);
    });
    CHECK(fixture.state.flags[sequence] == 0);
  }
  for_rows(fixture.state, 0, [&](int row) {
    for (int slot = 0; slot < 8; ++slot)
      for (int i = 0; i < 4; ++i) CHECK(fixture.state.carried_at(row, slot)[i] == 0.0f);
  });
}

TEST_CASE("append behind evicted rows writes the next positions and clears their carried statistics") {
  state_fixture<carried_policy<fkv::ordered>> fixture(shape, 6);
  for_rows(fixture.state, 1, [&](int row) { fixture.after_eviction(row, {0, 4, 7}, 9); });
  std::vector<std::int32_t> counts{0, 3, 0};
  CHECK(fkv::append(testing::exec, fixture.state, everyone, counts.data()).ok());
  for_rows(fixture.state, 1, [&](int row) {
    CHECK(fixture.positions(row) == std::vector<int>{0, 4, 7, 9, 10, 11});
    CHECK(fixture.state.carried_at(row, 1)[0] == 4.0f);
    CHECK(fixture.state.carried_at(row, 3)[0] == 0.0f);
    CHECK(fixture.state.next_position[row] == 12);
  });
  auto const before = fixture.state.flags[1];
  CHECK(before == 0);

  counts = {0, 1, 0};  // one token too many for the columns
  CHECK(fkv::append(testing::exec, fixture.state, everyone, counts.data()).ok());
  CHECK(has_flag(fixture.state, 1, fkv::sequence_flag::state_overflow));
  for_rows(fixture.state, 1, [&](int row) { CHECK(fixture.positions(row) == std::vector<int>{0, 4, 7, 9, 10, 11}); });
}

TEST_CASE("append fills empty slots first, lowest first") {
  state_fixture<carried_policy<fkv::slot_list>> fixture(shape, 6);
  for_rows(fixture.state, 0, [&](int row) { fixture.after_eviction(row, {-1, 4, -1, 8}, 9); });
  std::vector<std::int32_t> counts{3, 0, 0};
  CHECK(fkv::append(testing::exec, fixture.state, everyone, counts.data()).ok());
  for_rows(fixture.state, 0, [&](int row) {
    CHECK(fixture.positions(row) == std::vector<int>{9, 4, 10, 8, 11});
    CHECK(fixture.state.carried_at(row, 0)[0] == 0.0f);
    CHECK(fixture.state.carried_at(row, 1)[0] == 4.0f);
  });
}

TEST_CASE("a negative count takes the newest tokens back") {
  SUBCASE("from a pristine row") {
    state_fixture<carried_policy<fkv::ordered>> fixture(shape, 16);
    std::vector<std::int32_t> counts{5, 5, 5};
    CHECK(fkv::append(testing::exec, fixture.state, everyone, counts.data()).ok());
    counts = {-2, -5, -6};
    CHECK(fkv::append(testing::exec, fixture.state, everyone, counts.data()).ok());
    CHECK(fixture.state.seen_length[fixture.state.row({1, 0, 1})] == 3);
    CHECK(fixture.state.next_position[fixture.state.row({1, 1, 1})] == 0);
    CHECK(has_flag(fixture.state, 2, fkv::sequence_flag::length_mismatch));
    CHECK(fixture.state.seen_length[fixture.state.row({0, 2, 0})] == 5);
  }
  SUBCASE("from the end of an evicted row, not from inside it") {
    state_fixture<carried_policy<fkv::fill_holes>> fixture(shape, 16);
    for_rows(fixture.state, 0, [&](int row) { fixture.after_eviction(row, {0, 6, 2, 7, 8}, 9); });
    std::vector<std::int32_t> counts{-2, 0, 0};
    CHECK(fkv::append(testing::exec, fixture.state, everyone, counts.data()).ok());
    for_rows(fixture.state, 0, [&](int row) {
      CHECK(fixture.positions(row) == std::vector<int>{0, 6, 2});
      CHECK(fixture.state.next_position[row] == 7);
    });
    counts = {-1, 0, 0};  // position 6 moved into a hole
    CHECK(fkv::append(testing::exec, fixture.state, everyone, counts.data()).ok());
    CHECK(has_flag(fixture.state, 0, fkv::sequence_flag::length_mismatch));
    for_rows(fixture.state, 0, [&](int row) { CHECK(fixture.positions(row) == std::vector<int>{0, 6, 2}); });
  }
  SUBCASE("and their slots become empty again under slot_list") {
    state_fixture<carried_policy<fkv::slot_list>> fixture(shape, 16);
    for_rows(fixture.state, 0, [&](int row) { fixture.after_eviction(row, {9, 4, 10, 8, 11}, 12); });
    std::vector<std::int32_t> counts{-3, 0, 0};
    CHECK(fkv::append(testing::exec, fixture.state, everyone, counts.data()).ok());
    for_rows(fixture.state, 0, [&](int row) {
      CHECK(fixture.positions(row) == std::vector<int>{-1, 4, -1, 8});
      CHECK(fixture.state.next_position[row] == 9);
    });
  }
  SUBCASE("but never the smallest integer of them") {
    state_fixture<carried_policy<fkv::ordered>> fixture(shape, 16);
    std::vector<std::int32_t> counts{std::numeric_limits<std::int32_t>::min(), 0, 0};
    CHECK(fkv::append(testing::exec, fixture.state, everyone, counts.data()).ok());
    CHECK(has_flag(fixture.state, 0, fkv::sequence_flag::length_mismatch));
  }
}

TEST_CASE("append visits the listed sequences only, each once") {
  state_fixture<carried_policy<fkv::ordered>> fixture(shape, 16);
  std::vector<std::int32_t> const slots{2, -1, 3, 2};
  std::vector<std::int32_t> const counts{1, 1, 1};
  CHECK(fkv::append(testing::exec, fixture.state, {slots.data(), nullptr, 4, 64}, counts.data()).ok());
  CHECK(fixture.state.seen_length[fixture.state.row({0, 0, 0})] == 0);
  CHECK(fixture.state.seen_length[fixture.state.row({0, 2, 0})] == 1);
  CHECK(has_flag(fixture.state, 2, fkv::sequence_flag::duplicate));
}

TEST_CASE("append refuses bad arguments and writes nothing") {
  state_fixture<carried_policy<fkv::ordered>> fixture(shape, 16);
  auto const before = fixture.snapshot();
  std::vector<std::int32_t> const counts{1, 1, 1};
  CHECK(fkv::append(testing::exec, fixture.state, everyone, nullptr).code == fkv::errc::null_pointer);
  CHECK(fkv::append(testing::exec, fixture.state, {nullptr, nullptr, -1, 0}, counts.data()).code == fkv::errc::invalid_shape);
  CHECK(fkv::append(testing::exec, fkv::eviction_state<carried_policy<fkv::ordered>>{}, everyone, counts.data()).code == fkv::errc::null_pointer);
  auto broken = fixture.state;
  broken.capacity = 0;
  CHECK(fkv::append(testing::exec, broken, everyone, counts.data()).code == fkv::errc::invalid_shape);
  CHECK(fixture.snapshot() == before);
}
