// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstring>
#include <vector>

#include "support/execution.hpp"

namespace testing {

/// Reads a carried statistic, so that a policy's state has a float column.
struct carried_scorer {
  using reads = foresightkv::statistics<foresightkv::accumulated, foresightkv::decayed>;
  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const& token) const {
    return token.mean(foresightkv::accumulated{});
  }
};

template <class Compaction>
using carried_policy =
    foresightkv::policy<foresightkv::eviction_config, carried_scorer, foresightkv::top_k, Compaction>;

/// A state and its buffer, every byte of which can be compared.
template <class Policy>
class state_fixture {
 public:
  state_fixture(foresightkv::cache_shape const& shape, int capacity)
      : bytes_(foresightkv::state_bytes(Policy{}, shape, capacity), std::byte{0x5a}),
        state(foresightkv::make_state(Policy{}, shape, capacity, {bytes_.data(), bytes_.size()})) {
    (void)foresightkv::reset(testing::exec, state, {nullptr, nullptr, shape.num_sequences, 0});
  }
  state_fixture(state_fixture const&) = delete;

  [[nodiscard]] std::vector<std::byte> snapshot() const { return bytes_; }

  [[nodiscard]] std::vector<int> positions(int row) const {
    std::vector<int> slots;
    for (int slot = 0; slot < state.seen_length[row]; ++slot) slots.push_back(state.position[state.column(row, slot)]);
    return slots;
  }
  /// Makes a row look as it does after evictions: these positions, this next position.
  void after_eviction(int row, std::vector<int> const& positions, int next) const {
    for (std::size_t slot = 0; slot < positions.size(); ++slot) {
      state.position[state.column(row, static_cast<int>(slot))] = positions[slot];
      for (int i = 0; i < state.num_carried * state.group; ++i)
        state.carried_at(row, static_cast<int>(slot))[i] =
            static_cast<float>(positions[slot]) + 0.25f * static_cast<float>(i);
    }
    state.seen_length[row] = static_cast<int>(positions.size());
    state.next_position[row] = next;
    state.step[row] = 1;
  }

 private:
  std::vector<std::byte> bytes_;

 public:
  foresightkv::eviction_state<Policy> state;
};

}  // namespace testing
