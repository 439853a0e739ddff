// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include <foresightkv/foresightkv.hpp>
#include <foresightkv/verbs/append.hpp>

#include "support/random.hpp"
#include "support/state_fixture.hpp"

namespace fkv = foresightkv;
using testing::carried_policy;
using testing::state_fixture;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 3,
                                 .num_kv_heads = 2,
                                 .group = 2,
                                 .key_head_dim = 4,
                                 .value_head_dim = 4,
                                 .capacity = 64};
constexpr fkv::sequence_list everyone{nullptr, nullptr, 3, 64};

bool has_flag(fkv::row_state const& state, int sequence, fkv::sequence_flag flag) {
  return (state.flags[sequence] & static_cast<std::uint32_t>(flag)) != 0;
}

/// Appends, the engine's lengths being as they are to be.
template <class Policy>
fkv::status append(fkv::eviction_state<Policy> const& state, std::vector<std::int32_t> lengths,
                   std::vector<std::int32_t> const& counts, fkv::sequence_list const& list = everyone) {
  std::vector<float> token(1);
  auto const cache = fkv::dense_cache<float>::hnd(token.data(), token.data(), lengths.data(), shape);
  return fkv::append(testing::exec, fkv::batch{Policy{}, cache, list, state}, counts.data());
}

template <class State>
void for_rows(State const& state, int sequence, auto const& body) {
  for (int layer = 0; layer < state.num_layers; ++layer)
    for (int head = 0; head < state.num_kv_heads; ++head) body(state.row({layer, sequence, head}));
}

}  // namespace

TEST_CASE("append to fresh rows advances positions, in any pieces") {
  state_fixture<carried_policy<fkv::ordered>> fixture(shape, 16);
  CHECK(append(fixture.state, {5, 0, 40}, {5, 0, 40}).ok());
  CHECK(append(fixture.state, {8, 1, 42}, {3, 1, 2}).ok());
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
  CHECK(append(fixture.state, {0, 6, 0}, {0, 3, 0}).ok());
  for_rows(fixture.state, 1, [&](int row) {
    CHECK(fixture.positions(row) == std::vector<int>{0, 4, 7, 9, 10, 11});
    CHECK(fixture.state.carried_at(row, 1)[0] == 4.0f);
    CHECK(fixture.state.carried_at(row, 3)[0] == 0.0f);
    CHECK(fixture.state.next_position[row] == 12);
  });
  auto const before = fixture.state.flags[1];
  CHECK(before == 0);

  CHECK(append(fixture.state, {0, 7, 0}, {0, 1, 0}).ok());  // one token too many for the columns
  CHECK(has_flag(fixture.state, 1, fkv::sequence_flag::state_overflow));
  for_rows(fixture.state, 1, [&](int row) { CHECK(fixture.positions(row) == std::vector<int>{0, 4, 7, 9, 10, 11}); });
}

TEST_CASE("append fills empty slots first, lowest first") {
  state_fixture<carried_policy<fkv::slot_list>> fixture(shape, 6);
  for_rows(fixture.state, 0, [&](int row) { fixture.after_eviction(row, {-1, 4, -1, 8}, 9); });
  CHECK(append(fixture.state, {5, 0, 0}, {3, 0, 0}).ok());
  for_rows(fixture.state, 0, [&](int row) {
    CHECK(fixture.positions(row) == std::vector<int>{9, 4, 10, 8, 11});
    CHECK(fixture.state.carried_at(row, 0)[0] == 0.0f);
    CHECK(fixture.state.carried_at(row, 1)[0] == 4.0f);
  });
}

TEST_CASE("append refuses lengths that are none") {
  for (int const none : {-1, -0x7fffffff - 1, 65, 0x7fffffff}) {
    CAPTURE(none);
    for (int const count : {1, 900, -1}) {
      state_fixture<carried_policy<fkv::ordered>> fixture(shape, 16);
      for_rows(fixture.state, 1, [&](int row) { fixture.after_eviction(row, {0, 4, 7}, 9); });
      CHECK(append(fixture.state, {none, none, 5}, {count, count, 5}).ok());
      for (int s : {0, 1}) CHECK(fixture.state.flags[s] == static_cast<std::uint32_t>(fkv::sequence_flag::bad_length));
      for_rows(fixture.state, 0, [&](int row) { CHECK(fixture.state.seen_length[row] == 0); });
      for_rows(fixture.state, 1, [&](int row) { CHECK(fixture.positions(row) == std::vector<int>{0, 4, 7}); });
      CHECK(fixture.state.flags[2] == 0);
    }
  }
}

TEST_CASE("append refuses more tokens than the cache has") {
  SUBCASE("in pristine rows") {
    state_fixture<carried_policy<fkv::ordered>> fixture(shape, 16);
    CHECK(append(fixture.state, {5, 7, 40}, {5, 8, 40}).ok());
    CHECK(fixture.state.flags[0] == 0);
    CHECK(fixture.state.flags[1] == static_cast<std::uint32_t>(fkv::sequence_flag::length_mismatch));
    CHECK(fixture.state.flags[2] == 0);
    for_rows(fixture.state, 1, [&](int row) { CHECK(fixture.state.seen_length[row] == 0); });
    for_rows(fixture.state, 1, [&](int row) { CHECK(fixture.state.next_position[row] == 0); });
    for_rows(fixture.state, 2, [&](int row) { CHECK(fixture.state.seen_length[row] == 40); });
  }
  SUBCASE("behind evicted rows, if one of them alone has no room") {
    state_fixture<carried_policy<fkv::ordered>> fixture(shape, 6);
    for_rows(fixture.state, 1, [&](int row) { fixture.after_eviction(row, {0, 4}, 9); });
    int const longer = fixture.state.row({1, 1, 1});
    fixture.after_eviction(longer, {0, 4, 7}, 9);
    CHECK(append(fixture.state, {0, 4, 0}, {0, 2, 0}).ok());
    CHECK(fixture.state.flags[1] == static_cast<std::uint32_t>(fkv::sequence_flag::length_mismatch));
    CHECK(fixture.positions(longer) == std::vector<int>{0, 4, 7});
    for_rows(fixture.state, 1, [&](int row) { CHECK(fixture.state.next_position[row] == 9); });
  }
  SUBCASE("after empty slots are full") {
    state_fixture<carried_policy<fkv::slot_list>> fixture(shape, 6);
    for_rows(fixture.state, 0, [&](int row) { fixture.after_eviction(row, {-1, 4, -1, 8}, 9); });
    CHECK(append(fixture.state, {4, 0, 0}, {3, 0, 0}).ok());
    CHECK(fixture.state.flags[0] == static_cast<std::uint32_t>(fkv::sequence_flag::length_mismatch));
    for_rows(fixture.state, 0, [&](int row) { CHECK(fixture.positions(row) == std::vector<int>{-1, 4, -1, 8}); });
    fixture.state.flags[0] = 0;
    CHECK(append(fixture.state, {4, 0, 0}, {2, 0, 0}).ok());
    CHECK(fixture.state.flags[0] == 0);
    for_rows(fixture.state, 0, [&](int row) { CHECK(fixture.positions(row) == std::vector<int>{9, 4, 10, 8}); });
  }
}

TEST_CASE("a negative count takes the newest tokens back") {
  SUBCASE("from a pristine row") {
    state_fixture<carried_policy<fkv::ordered>> fixture(shape, 16);
    CHECK(append(fixture.state, {5, 5, 5}, {5, 5, 5}).ok());
    CHECK(append(fixture.state, {3, 0, 3}, {-2, -5, -1}).ok());  // of the third more are gone than are taken back
    CHECK(fixture.state.seen_length[fixture.state.row({1, 0, 1})] == 3);
    CHECK(fixture.state.next_position[fixture.state.row({1, 1, 1})] == 0);
    CHECK(fixture.state.flags[0] == 0);
    CHECK(has_flag(fixture.state, 2, fkv::sequence_flag::length_mismatch));
    CHECK(fixture.state.seen_length[fixture.state.row({0, 2, 0})] == 5);
  }
  SUBCASE("from the end of an evicted row, not from inside it") {
    state_fixture<carried_policy<fkv::fill_holes>> fixture(shape, 16);
    for_rows(fixture.state, 0, [&](int row) { fixture.after_eviction(row, {0, 6, 2, 7, 8}, 9); });
    CHECK(append(fixture.state, {3, 0, 0}, {-2, 0, 0}).ok());
    for_rows(fixture.state, 0, [&](int row) {
      CHECK(fixture.positions(row) == std::vector<int>{0, 6, 2});
      CHECK(fixture.state.next_position[row] == 7);
    });
    CHECK(append(fixture.state, {2, 0, 0}, {-1, 0, 0}).ok());  // position 6 moved into a hole
    CHECK(has_flag(fixture.state, 0, fkv::sequence_flag::length_mismatch));
    for_rows(fixture.state, 0, [&](int row) { CHECK(fixture.positions(row) == std::vector<int>{0, 6, 2}); });
  }
  SUBCASE("and nothing older, where the state has not seen them") {
    state_fixture<carried_policy<fkv::ordered>> fixture(shape, 16);
    for_rows(fixture.state, 0, [&](int row) { fixture.after_eviction(row, {2, 5, 7}, 8); });
    CHECK(append(fixture.state, {4, 0, 0}, {-2, 0, 0}).ok());  // of three new tokens two are gone: none was seen
    CHECK(append(fixture.state, {2, 0, 0}, {-3, 0, 0}).ok());  // of two new tokens both, and one that was
    CHECK(fixture.state.flags[0] == 0);
    for_rows(fixture.state, 0, [&](int row) {
      CHECK(fixture.positions(row) == std::vector<int>{2, 5});
      CHECK(fixture.state.next_position[row] == 7);
    });
  }
  SUBCASE("of rows that have seen different lengths") {
    state_fixture<carried_policy<fkv::ordered>> fixture(shape, 16);
    auto const& state = fixture.state;
    for_rows(state, 1, [&](int row) { fixture.after_eviction(row, {0, 3, 4, 5}, 6); });
    int const behind = state.row({1, 1, 0});  // has lost no token since two of them came
    fixture.after_eviction(behind, {0, 3}, 4);
    CHECK(append(state, {0, 2, 0}, {0, -2, 0}).ok());
    CHECK(state.flags[1] == 0);
    for_rows(state, 1, [&](int row) {
      CHECK(fixture.positions(row) == std::vector<int>{0, 3});
      CHECK(state.next_position[row] == 4);
    });
  }
  SUBCASE("but never the smallest integer of them") {
    state_fixture<carried_policy<fkv::ordered>> fixture(shape, 16);
    CHECK(append(fixture.state, {0, 0, 0}, {std::numeric_limits<std::int32_t>::min(), 0, 0}).ok());
    CHECK(has_flag(fixture.state, 0, fkv::sequence_flag::length_mismatch));
  }
}

// Rows of a sequence are as long as each other whatever they lost, so that no slot may go with a token.
TEST_CASE("under slot_list tokens that are taken back leave empty slots, at a row's end too") {
  state_fixture<carried_policy<fkv::slot_list>> fixture(shape, 16);
  auto const& state = fixture.state;
  int const inside = state.row({0, 0, 0}), at_end = state.row({1, 0, 1});
  for_rows(state, 0, [&](int row) { fixture.after_eviction(row, {16, 17, 18, 19, -1, -1, -1, -1, 8, 9, 10, 11}, 20); });
  fixture.after_eviction(at_end, {12, 13, 14, 15, 4, 16, 17, 18, 8, 9, 10, 19}, 20);
  CHECK(append(state, {12, 0, 0}, {-1, 0, 0}).ok());
  CHECK(state.flags[0] == 0);
  CHECK(fixture.positions(inside) == std::vector<int>{16, 17, 18, -1, -1, -1, -1, -1, 8, 9, 10, 11});
  CHECK(fixture.positions(at_end) == std::vector<int>{12, 13, 14, 15, 4, 16, 17, 18, 8, 9, 10, -1});
  for_rows(state, 0, [&](int row) { CHECK(state.next_position[row] == 19); });
  CHECK(state.carried_at(at_end, 11)[0] == 0.0f);

  CHECK(append(state, {13, 0, 0}, {2, 0, 0}).ok());
  CHECK(fixture.positions(inside) == std::vector<int>{16, 17, 18, 19, 20, -1, -1, -1, 8, 9, 10, 11});
  CHECK(fixture.positions(at_end) == std::vector<int>{12, 13, 14, 15, 4, 16, 17, 18, 8, 9, 10, 19, 20});

  CHECK(append(state, {12, 0, 0}, {-1, 0, 0}).ok());  // one row is shorter than it has to be, and none changes
  CHECK(has_flag(state, 0, fkv::sequence_flag::length_mismatch));
  CHECK(fixture.positions(at_end).back() == 20);
}

TEST_CASE("append keeps what a chunked prompt has carried, though it gets longer than the columns") {
  constexpr fkv::cache_shape one{.group = 1, .key_head_dim = 8, .value_head_dim = 8, .capacity = 40};
  constexpr fkv::eviction_config config{.budget = 16, .interval = 4};
  using policy_type = fkv::policy<fkv::eviction_config, fkv::accumulated_sum, fkv::top_k, fkv::ordered>;
  policy_type const policy{config, {}, {}, {}, {}};
  testing::random_source random(3);
  std::vector<float> keys(40 * 8), values(keys), queries(20 * 8);
  random.fill_normal<float>(keys, 2.0f);
  random.fill_normal<float>(queries);
  auto const evicted = [&](bool told) {
    auto moved = keys;
    std::vector<std::int32_t> lengths{20}, new_lengths{0}, gone(40), count{0};
    state_fixture<policy_type> fixture(one, 20);
    auto const cache = fkv::dense_cache<float>::hnd(moved.data(), values.data(), lengths.data(), one);
    fkv::sequence_list const list{nullptr, nullptr, 1, 40};
    std::vector<std::byte> work(fkv::evict_bytes(testing::exec, policy_type{}, one, list, 20));
    fkv::workspace const scratch{work.data(), work.size()};
    auto const first = fkv::observation<float>::hnd(queries.data(), one, 20);
    REQUIRE(fkv::carry(testing::exec, fkv::batch{policy, cache, list, fixture.state, scratch}, first).ok());
    lengths[0] = 32;
    std::vector<std::int32_t> const joined{12};
    if (told) REQUIRE(fkv::append(testing::exec, fkv::batch{policy, cache, list, fixture.state}, joined.data()).ok());
    auto const second = fkv::observation<float>::hnd(queries.data(), one, 12);
    fkv::selection lists;
    lists.evicted = gone.data();
    lists.evicted_count = count.data();
    lists.capacity = 40;
    REQUIRE(fkv::evict(testing::exec, fkv::batch{policy, cache, list, fixture.state, scratch}, second,
                       {new_lengths.data(), lists})
                .ok());
    CHECK(fixture.state.flags[0] == 0);
    gone.resize(static_cast<std::size_t>(count[0]));
    return gone;
  };
  // The definition, in double precision: every query's softmax over the keys up to its own.
  std::vector<double> sums(32);
  auto const add = [&](int queries_of_chunk, int length) {
    for (int r = 0; r < queries_of_chunk; ++r) {
      int const visible = length - queries_of_chunk + r + 1;
      std::vector<double> weight(static_cast<std::size_t>(visible));
      double total = 0.0;
      for (int k = 0; k < visible; ++k) {
        double product = 0.0;
        for (int d = 0; d < 8; ++d)
          product +=
              double{queries[static_cast<std::size_t>(r * 8 + d)]} * double{keys[static_cast<std::size_t>(k * 8 + d)]};
        total += weight[static_cast<std::size_t>(k)] = std::exp(product / std::sqrt(8.0));
      }
      for (int k = 0; k < visible; ++k)
        sums[static_cast<std::size_t>(k)] += weight[static_cast<std::size_t>(k)] / total;
    }
  };
  add(20, 20);
  add(12, 32);
  std::vector<std::int32_t> expected(28);  // the newest four are protected
  std::iota(expected.begin(), expected.end(), 0);
  std::sort(expected.begin(), expected.end(),
            [&](int a, int b) { return sums[static_cast<std::size_t>(a)] < sums[static_cast<std::size_t>(b)]; });
  expected.resize(16);
  std::sort(expected.begin(), expected.end());
  CHECK(evicted(false) == expected);
  CHECK(evicted(true) == expected);
}

TEST_CASE("append visits the listed sequences only, each once") {
  state_fixture<carried_policy<fkv::ordered>> fixture(shape, 16);
  std::vector<std::int32_t> const slots{2, -1, 3, 2};
  CHECK(append(fixture.state, {1, 1, 1}, {1, 1, 1}, {slots.data(), nullptr, 4, 64}).ok());
  CHECK(fixture.state.seen_length[fixture.state.row({0, 0, 0})] == 0);
  CHECK(fixture.state.seen_length[fixture.state.row({0, 2, 0})] == 1);
  CHECK(has_flag(fixture.state, 2, fkv::sequence_flag::duplicate));
}

TEST_CASE("append says when a list is cut") {
  state_fixture<carried_policy<fkv::ordered>> fixture(shape, 16);
  std::vector<std::int32_t> const slots{2, 0, 1}, three{3};
  CHECK(append(fixture.state, {1, 1, 1}, {1, 1, 1}, {slots.data(), three.data(), 2, 64}).ok());
  CHECK(has_flag(fixture.state, 0, fkv::sequence_flag::list_cut));
  CHECK(has_flag(fixture.state, 2, fkv::sequence_flag::list_cut));
  CHECK(fixture.state.flags[1] == 0);
  CHECK(fixture.state.seen_length[fixture.state.row({0, 0, 0})] == 1);
  CHECK(fixture.state.seen_length[fixture.state.row({0, 1, 0})] == 0);
}

TEST_CASE("append refuses bad arguments and writes nothing") {
  using policy_type = carried_policy<fkv::ordered>;
  state_fixture<policy_type> fixture(shape, 16);
  auto const before = fixture.snapshot();
  std::vector<std::int32_t> const counts{1, 1, 1};
  std::vector<std::int32_t> lengths{1, 1, 1};
  std::vector<float> token(1);
  auto const cache = fkv::dense_cache<float>::hnd(token.data(), token.data(), lengths.data(), shape);
  auto const expect = [&](fkv::errc code, auto const& tokens, fkv::eviction_state<policy_type> const& state,
                          fkv::sequence_list const& list, std::int32_t const* given) {
    CHECK(fkv::append(testing::exec, fkv::batch{policy_type{}, tokens, list, state}, given).code == code);
  };
  expect(fkv::errc::null_pointer, cache, fixture.state, everyone, nullptr);
  expect(fkv::errc::invalid_shape, cache, fixture.state, {nullptr, nullptr, -1, 0}, counts.data());
  expect(fkv::errc::null_pointer, cache, {}, everyone, counts.data());
  expect(fkv::errc::null_pointer, fkv::dense_cache<float>::hnd(token.data(), token.data(), nullptr, shape),
         fixture.state, everyone, counts.data());
  auto other = shape;
  other.num_kv_heads = 1;
  expect(fkv::errc::invalid_shape, fkv::dense_cache<float>::hnd(token.data(), token.data(), lengths.data(), other),
         fixture.state, everyone, counts.data());
  auto broken = fixture.state;
  broken.capacity = 0;
  expect(fkv::errc::invalid_shape, cache, broken, everyone, counts.data());
  CHECK(fixture.snapshot() == before);
}
