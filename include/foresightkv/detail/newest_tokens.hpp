// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/row_lifecycle.hpp>
#include <foresightkv/detail/row_view.hpp>
#include <foresightkv/detail/visit_check.hpp>
#include <foresightkv/state.hpp>

namespace foresightkv::inline v0::detail {

// Newest tokens that leave a row wherever they stand, once for every backend.

/// How a row gives its newest tokens back. Those that the state has not seen stand at its end; others may stand anywhere.
struct newest_tokens {
  sequence_flag flag = no_flag;  // why they cannot go
  int length = 0;                // slots afterwards; where tokens move, less one for every token that columns lose
  int columns = 0;               // slots that lose their token
  int limit = no_limit;          // from this position on; no_limit: none does
};

/// Of a row with `length` slots. Under slot_list slots stay, once a row was evicted from: the columns then describe all
/// of them. No other row has to be stored, since what its columns have not seen leaves first.
FORESIGHTKV_HOST_DEVICE inline newest_tokens newest_of(row_state const& state, int row, int count, int length,
                                                       bool slots_stay) {
  row_positions const positions = positions_of(state, row);
  int const end = positions.end(length);
  if (count < 0 || count > end) return {sequence_flag::length_mismatch};
  bool const pristine = positions.column == nullptr;
  bool const unseen = !slots_stay && count <= length - positions.seen;
  if (pristine || count == 0 || unseen) return {no_flag, length - count};
  if (slots_stay && length > state.capacity) return {sequence_flag::state_overflow};
  int const columns = slots_stay ? length : positions.seen;
  return {no_flag, columns, columns, end - count};
}

/// Last of all, by one lane. No step is counted: nothing was evicted.
FORESIGHTKV_HOST_DEVICE inline void settle_newest(row_state const& state, int row, newest_tokens const& newest,
                                                  int new_length) {
  bool const pristine = state.step[row] == 0;
  if (pristine ? new_length >= state.seen_length[row] : newest.limit == no_limit) return;
  state.seen_length[row] = new_length;
  state.next_position[row] = pristine ? new_length : newest.limit;
}

}  // namespace foresightkv::inline v0::detail
