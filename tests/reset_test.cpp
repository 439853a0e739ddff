// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <foresightkv/foresightkv.hpp>
#include <foresightkv/reset.hpp>
#include <vector>

#include "support/state_fixture.hpp"

namespace fkv = foresightkv;
using policy = testing::carried_policy<fkv::ordered>;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2, .num_sequences = 3, .num_kv_heads = 2, .group = 1, .key_head_dim = 4, .value_head_dim = 4, .capacity = 64};

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
