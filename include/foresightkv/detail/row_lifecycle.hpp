// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/state.hpp>

namespace foresightkv::inline v0::detail {

// What tokens that come and go ask of a row, and do to its slots, on every backend.

/// Whether `count` tokens can join a row with so many empty slots. A pristine row has implicit positions and any length.
/// More empty slots never make it impossible.
FORESIGHTKV_HOST_DEVICE inline bool can_append(row_state const& state, int row, int count, int empty) {
  int const behind = count - empty;
  if (count > 0x7fffffff - state.next_position[row] || behind > 0x7fffffff - state.seen_length[row]) return false;
  return state.step[row] == 0 || behind <= 0 || state.seen_length[row] + behind <= state.capacity;
}

FORESIGHTKV_HOST_DEVICE inline void clear_carried(row_state const& state, int row, int slot) {
  for (int i = 0; i < state.num_carried * state.group; ++i) state.carried_at(row, slot)[i] = 0.0f;
}

/// Puts a new token into a slot; a negative position makes the slot empty.
FORESIGHTKV_HOST_DEVICE inline void place_token(row_state const& state, int row, int slot, int position) {
  state.position[state.column(row, slot)] = position;
  clear_carried(state, row, slot);
}

}  // namespace foresightkv::inline v0::detail
