// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <foresightkv/foresightkv.hpp>
#include <foresightkv/verbs/fork.hpp>
#include <vector>

#include "support/harness.hpp"
#include "support/state_fixture.hpp"

namespace fkv = foresightkv;
using policy = testing::carried_policy<fkv::ordered>;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 4,
                                 .num_kv_heads = 3,
                                 .group = 2,
                                 .key_head_dim = 4,
                                 .value_head_dim = 4,
                                 .capacity = 64};

}  // namespace

TEST_CASE("fork copies every row of a sequence, and not its request") {
  testing::state_fixture<policy> fixture(shape, 8);
  auto const& state = fixture.state;
  for (int layer = 0; layer < 2; ++layer)
    for (int head = 0; head < 3; ++head) fixture.after_eviction(state.row({layer, 1, head}), {layer, 5 + head, 9}, 12);
  state.flags[1] = static_cast<std::uint32_t>(fkv::sequence_flag::over_budget);

  std::vector<std::int32_t> const sources{1, 1, 2}, targets{0, 3, 9};
  CHECK(fkv::fork(testing::exec, state, {sources.data(), targets.data(), 3}).ok());
  for (int target : {0, 3})
    for (int layer = 0; layer < 2; ++layer)
      for (int head = 0; head < 3; ++head) {
        int const from = state.row({layer, 1, head});
        int const to = state.row({layer, target, head});
        CHECK(fixture.positions(to) == fixture.positions(from));
        CHECK(state.next_position[to] == 12);
        CHECK(state.step[to] == 1);
        for (int slot = 0; slot < 3; ++slot)
          for (int i = 0; i < 4; ++i) CHECK(state.carried_at(to, slot)[i] == state.carried_at(from, slot)[i]);
      }
  CHECK(state.flags[3] == state.flags[1]);
  CHECK(state.request_id[3] == 3);
  CHECK(state.seen_length[state.row({0, 2, 0})] == 0);
}

TEST_CASE("fork flags a target that is also used otherwise, whatever the order") {
  for (bool swapped : {false, true}) {
    testing::state_fixture<policy> fixture(shape, 8);
    auto const& state = fixture.state;
    for (int row = 0; row < shape.num_rows(); ++row) fixture.after_eviction(row, {row}, row + 1);
    std::vector<std::int32_t> sources{0, 1}, targets{1, 2};
    if (swapped) {
      std::swap(sources[0], sources[1]);
      std::swap(targets[0], targets[1]);
    }
    CHECK(fkv::fork(testing::exec, state, {sources.data(), targets.data(), 2}).ok());
    CHECK(state.flags[1] == static_cast<std::uint32_t>(fkv::sequence_flag::duplicate));
    CHECK(fixture.positions(state.row({0, 1, 0})) == std::vector<int>{state.row({0, 1, 0})});
    CHECK(fixture.positions(state.row({0, 2, 0})) == std::vector<int>{state.row({0, 1, 0})});
  }
}

TEST_CASE("fork with a workspace: a beam step in one call, slots change places and are copied more than once") {
  testing::state_fixture<policy> fixture(shape, 8);
  auto const& state = fixture.state;
  for (int row = 0; row < shape.num_rows(); ++row) fixture.after_eviction(row, {row, 3 + row, 90}, 100 + row);
  for (int s = 0; s < 4; ++s) state.flags[s] = 1u << s;
  fkv::row_index const old_of[4] = {{0, 2, 0}, {0, 0, 0}, {0, 0, 0}, {0, 3, 0}};  // new slot <- old slot
  std::vector<std::int32_t> const sources{2, 0, 0, 3}, targets{0, 1, 2, 3};
  std::vector<std::byte> scratch(fkv::fork_bytes(state, 4));
  CHECK(fkv::fork(testing::exec, state, {sources.data(), targets.data(), 4}, scratch).ok());
  for (int s = 0; s < 4; ++s) {
    CHECK(state.flags[s] == 1u << old_of[s].sequence);
    CHECK(state.request_id[s] == static_cast<std::uint32_t>(s));
    for (int layer = 0; layer < 2; ++layer)
      for (int head = 0; head < 3; ++head) {
        int const was = state.row({layer, old_of[s].sequence, head}), is = state.row({layer, s, head});
        CHECK(fixture.positions(is) == std::vector<int>{was, 3 + was, 90});
        CHECK(state.next_position[is] == 100 + was);
        CHECK(state.carried_at(is, 1)[3] == static_cast<float>(3 + was) + 0.75f);
      }
  }
  // One target twice is refused; a slot that is its source as well is read as it was.
  std::vector<std::int32_t> const again{0, 1, 2}, into{3, 3, 0};
  int const kept = state.row({0, 3, 0}), wanted = state.row({0, 2, 0});
  auto const before = fixture.positions(kept), second = fixture.positions(wanted);
  CHECK(fkv::fork(testing::exec, state, {again.data(), into.data(), 3}, scratch).ok());
  CHECK(fixture.positions(kept) == before);
  CHECK((state.flags[3] & static_cast<std::uint32_t>(fkv::sequence_flag::duplicate)) != 0);
  CHECK(fixture.positions(state.row({0, 0, 0})) == second);

  auto const snapshot = fixture.snapshot();
  fkv::workspace const small{scratch.data(), fkv::fork_bytes(state, 4) - 1};
  CHECK(fkv::fork(testing::exec, state, {sources.data(), targets.data(), 4}, small).code ==
        fkv::errc::workspace_too_small);
  CHECK(fixture.snapshot() == snapshot);
}

TEST_CASE("fork with a workspace: prompts longer than the columns, and slots that were never reset") {
  testing::owned_state<policy> made(shape, 8);
  fkv::row_state const& state = made.view;
  for (int row = 0; row < shape.num_rows(); ++row) {
    state.seen_length[row] = state.next_position[row] = 20 + row;  // pristine
    for (int i = 0; i < 8 * 4; ++i) state.carried_at(row, 0)[i] = static_cast<float>(row * 100 + i);
  }
  state.started[2] = 7;
  std::vector<std::int32_t> const sources{1, 0, 2}, targets{0, 1, 3};
  std::vector<std::byte> scratch(fkv::fork_bytes(state, 3));
  CHECK(fkv::fork(testing::exec, state, {sources.data(), targets.data(), 3}, scratch).ok());
  for (auto const& [is, was] : {std::pair{0, 1}, {1, 0}}) {
    int const to = state.row({1, is, 2}), from = state.row({1, was, 2});
    CHECK(state.seen_length[to] == 20 + from);
    CHECK(state.carried_at(to, 7)[3] == static_cast<float>(from * 100 + 31));
  }
  CHECK(state.seen_length[state.row({1, 3, 2})] == 20 + state.row({1, 3, 2}));
  CHECK(state.flags[3] == static_cast<std::uint32_t>(fkv::sequence_flag::not_reset));
  CHECK(state.started[3] == 0);
}

TEST_CASE("fork refuses bad arguments and writes nothing") {
  testing::state_fixture<policy> fixture(shape, 8);
  auto const before = fixture.snapshot();
  std::vector<std::int32_t> const slot{0};
  CHECK(fkv::fork(testing::exec, fixture.state, {slot.data(), nullptr, 1}).code == fkv::errc::null_pointer);
  CHECK(fkv::fork(testing::exec, fixture.state, {nullptr, slot.data(), 1}).code == fkv::errc::null_pointer);
  CHECK(fkv::fork(testing::exec, fixture.state, {slot.data(), slot.data(), -1}).code == fkv::errc::invalid_shape);
  CHECK(fkv::fork(testing::exec, fixture.state, {}).ok());
  CHECK(fkv::fork(testing::exec, fixture.state, {slot.data(), slot.data(), 1}).ok());  // onto itself: nothing to do
  CHECK(fixture.snapshot() == before);
}
