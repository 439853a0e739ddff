// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstring>
#include <foresightkv/foresightkv.hpp>
#include <foresightkv/verbs/reset.hpp>
#include <vector>

#include "support/harness.hpp"
#include "support/state_fixture.hpp"

namespace fkv = foresightkv;
using policy = testing::carried_policy<fkv::ordered>;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 3,
                                 .num_kv_heads = 2,
                                 .group = 1,
                                 .key_head_dim = 4,
                                 .value_head_dim = 4,
                                 .capacity = 64};

}  // namespace

TEST_CASE("reset starts the listed sequences anew and leaves the others alone") {
  testing::state_fixture<policy> fixture(shape, 8);
  auto const& state = fixture.state;
  for (int row = 0; row < shape.num_rows(); ++row) fixture.after_eviction(row, {1, 3}, 7);
  for (int sequence = 0; sequence < 3; ++sequence) state.flags[sequence] = 3;

  std::vector<std::int32_t> const slots{2, 0};
  std::vector<std::uint32_t> const ids{100, 101, 102};
  std::vector<std::uint64_t> const seeds{7, 8, 9};
  CHECK(fkv::reset(testing::exec, state, {slots.data(), nullptr, 2, 0}, ids.data(), seeds.data()).ok());
  for (int layer = 0; layer < 2; ++layer)
    for (int sequence = 0; sequence < 3; ++sequence)
      for (int head = 0; head < 2; ++head) {
        int const row = state.row({layer, sequence, head});
        CHECK(state.seen_length[row] == (sequence == 1 ? 2 : 0));
        CHECK(state.next_position[row] == (sequence == 1 ? 7 : 0));
        CHECK(state.step[row] == (sequence == 1 ? 1 : 0));
      }
  CHECK(state.flags[0] == 0);
  CHECK(state.flags[1] == 3);
  CHECK(state.request_id[2] == 102);
  CHECK(state.seed[2] == 9);
  CHECK(state.request_id[1] == 1);  // the default of the first reset: the slot number
  CHECK(state.seed[1] == 0);
}

TEST_CASE("reset refuses bad arguments and writes nothing") {
  testing::state_fixture<policy> fixture(shape, 8);
  auto const before = fixture.snapshot();
  CHECK(fkv::reset(testing::exec, fkv::row_state{}, {nullptr, nullptr, 3, 0}).code == fkv::errc::null_pointer);
  CHECK(fkv::reset(testing::exec, fixture.state, {nullptr, nullptr, -3, 0}).code == fkv::errc::invalid_shape);
  CHECK(fixture.snapshot() == before);
}

TEST_CASE("reset: without it verbs leave a sequence alone and say so, whatever its memory holds") {
  auto const rule = testing::carried_policy<fkv::ordered>{{.budget = 8, .interval = 4}, {}, {}, {}, {}};
  auto const not_reset = static_cast<std::uint32_t>(fkv::sequence_flag::not_reset);
  for (int const fill : {0x00, 0xAB, 0xFF, 0x7F}) {
    CAPTURE(fill);
    testing::owned_cache<float> cache(shape, 20);
    testing::owned_state<policy> state(shape, 20);
    std::memset(state.memory.data(), fill, state.memory.bytes());
    std::vector<std::int32_t> const second{1}, counts(3, 1);
    REQUIRE(fkv::reset(testing::exec, state.view, {second.data(), nullptr, 1, 20}).ok());
    auto tokens = cache;
    std::vector<std::int32_t> new_lengths(3, -7), due(3), due_count(1);
    fkv::sequence_list const all{nullptr, nullptr, 3, 20};
    std::vector<float> queries(3 * 2 * 2 * 4 * 4, 0.5f);
    auto const window = fkv::observation<float>::hnd(queries.data(), shape, 4);
    auto work = testing::workspace_for<policy>(shape, all, 4);
    fkv::batch const rows{rule, cache.view(), all, state.view, work.view()};

    auto const flags_are_set = [&] {  // by each verb anew
      for (int const sequence : {0, 2}) {
        CHECK((state.view.flags[sequence] & not_reset) != 0);
        state.view.flags[sequence] = 0;
      }
    };
    REQUIRE(fkv::collect_due(testing::exec, rows, due.data(), due_count.data()).ok());
    CHECK(due_count[0] == 1);
    CHECK(due[0] == 1);
    flags_are_set();
    REQUIRE(fkv::append(testing::exec, rows, counts.data()).ok());
    flags_are_set();
    REQUIRE(fkv::evict(testing::exec, rows, window, {new_lengths.data()}).ok());
    CHECK(new_lengths == std::vector<std::int32_t>{-7, 8, -7});
    for (int layer = 0; layer < 2; ++layer)
      for (int head = 0; head < 2; ++head)
        for (int slot = 0; slot < 20; ++slot)
          CHECK(testing::same_token(cache.view(), {layer, 0, head}, slot, tokens.view(), slot));
    flags_are_set();
    CHECK(state.view.flags[1] == 0);

    // A copy of what was never reset is none the better for it, and restore gives back what was saved.
    std::vector<std::int32_t> const sources{0}, targets{1};
    REQUIRE(fkv::fork(testing::exec, state.view, {sources.data(), targets.data(), 1}).ok());
    REQUIRE(fkv::evict(testing::exec, rows, window, {new_lengths.data()}).ok());
    CHECK((state.view.flags[1] & not_reset) != 0);
  }
}

TEST_CASE("reset: a saved sequence needs none where it is restored") {
  testing::owned_state<policy> source(shape, 20), target(shape, 20);
  std::memset(target.memory.data(), 0xAB, target.memory.bytes());
  std::vector<std::byte> saved(fkv::save_bytes(source.view));
  REQUIRE(fkv::save(testing::exec, source.view, 1, saved).ok());
  REQUIRE(fkv::restore(testing::exec, target.view, 2, saved).ok());
  CHECK(fkv::detail::is_started(target.view, 2));
  REQUIRE(fkv::save(testing::exec, target.view, 0, saved).ok());
  CHECK_FALSE(fkv::detail::is_started(target.view, 0));
}
