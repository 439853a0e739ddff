// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/detail/visit_check.hpp>
#include <foresightkv/policy.hpp>

namespace foresightkv::inline v0::detail::kernels {

FORESIGHTKV_HOST_DEVICE constexpr int divide_up(int a, int b) { return a / b + (a % b != 0); }

/// Whether a list names more sequences than the call was promised.
FORESIGHTKV_HOST_DEVICE inline bool is_cut(sequence_list const& list) {
  return list.count != nullptr && *list.count > list.max_count;
}

/// One row that a call visits.
struct visited_row {
  int place = -1;  // among the rows of the call: index into its workspace; negative: not visited
  row_index at{};
  int row = 0;  // index into every [rows] array
  int length = 0;

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE bool visited() const { return place >= 0; }
};

/// The rows of a call: those of the sequences that passed every check, in the order of the call's list. The grid
/// follows from max_count alone; the blocks of a sequence that was not accepted end at once.
struct visited_rows {
  cache_shape shape{};
  length_domain domain{};
  row_state state{};
  std::int32_t const* accepted = nullptr;  // [max_count] sequence, or negative
  std::int32_t const* lengths = nullptr;   // [place] as they were when the call began
  int max_count = 0;

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int per_sequence() const { return shape.num_layers * shape.num_kv_heads; }
  /// Blocks of a grid with so many per row.
  [[nodiscard]] std::int64_t blocks(int per_row) const { return std::int64_t{max_count} * per_sequence() * per_row; }

  /// Neighbouring places are heads of one layer and sequence.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE visited_row at(int place) const {
    visited_row found;
    found.at.sequence = accepted[place / per_sequence()];
    if (found.at.sequence < 0) return found;
    found.place = place;
    found.at.kv_head = place % shape.num_kv_heads;
    found.at.layer = place / shape.num_kv_heads % shape.num_layers;
    found.row = shape.row(found.at);
    found.length = lengths[place];
    return found;
  }
  /// Apart from `at`: a block that moves keys must not read the state, which another block of its row advances.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE row_positions positions(visited_row const& of) const {
    return positions_of(state, of.row);
  }
};

/// A row's part of an array [place or row][width]; null if there is no array.
template <class Element>
FORESIGHTKV_HOST_DEVICE Element* part_of(Element* array, int index, std::int64_t width) {
  return array == nullptr ? nullptr : array + index * width;
}

/// Rows of one length domain agree, so one of them writes.
FORESIGHTKV_HOST_DEVICE inline void store_length(std::int32_t* new_lengths, visited_rows const& rows,
                                                 visited_row const& row, int new_length) {
  bool const first_layer = row.at.layer == 0 || rows.domain != length_domain::sequence;
  bool const first_head = row.at.kv_head == 0 || rows.domain == length_domain::row;
  if (new_lengths != nullptr && first_layer && first_head)
    new_lengths[length_index(rows.domain, rows.shape, row.at)] = new_length;
}

/// What a block does for a row, or for its tokens [first, last), before or after a kernel's own work: a struct with
/// `template <class Context> shared` and operator()(context, shared, row, first, last), called by all threads. This is
/// none.
struct no_stage {
  template <class Context>
  struct shared {};
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const&, shared<Context>&, visited_row const&, int, int) const {}
};

}  // namespace foresightkv::inline v0::detail::kernels
