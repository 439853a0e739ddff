// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <foresightkv/compactions/fill_holes.hpp>
#include <foresightkv/compactions/ordered.hpp>
#include <foresightkv/compactions/slot_list.hpp>
#include <foresightkv/detail/host/row.hpp>

namespace foresightkv::inline v0::detail::host {

/// A row whose tokens move: keys, values, and the columns as they stand before (`positions`, `carried`) and
/// after (the state's own). Columns may be moved in place: destinations never lie behind sources still to be
/// read.
template <class Cache>
struct moving_row {
  Cache const* cache = nullptr;
  row_index at{};
  row_positions positions{};
  float const* carried = nullptr;  // [slot][width], updated by this call
  int width = 0;                   // num_carried * group
  std::int32_t* position_column = nullptr;
  float* carried_column = nullptr;

  void move(int to, int from) const {
    if (to != from) {
      using element = typename Cache::element_type;
      std::memcpy(cache->key(at, to), cache->key(at, from),
                  sizeof(element) * static_cast<std::size_t>(cache->shape().key_head_dim));
      std::memcpy(cache->value(at, to), cache->value(at, from),
                  sizeof(element) * static_cast<std::size_t>(cache->shape().value_head_dim));
    }
    move_columns(to, from);
  }
  void move_columns(int to, int from) const {
    position_column[to] = positions.at(from);
    if (width == 0) return;
    float const* const source = carried + static_cast<std::ptrdiff_t>(from) * width;
    float* const target = carried_column + static_cast<std::ptrdiff_t>(to) * width;
    if (source != target) std::memcpy(target, source, sizeof(float) * static_cast<std::size_t>(width));
  }
};

/// Kept tokens close up. Ascending, so a destination is at or before its source and everything before it has
/// moved.
template <class Row>
void compact_row(ordered, Row const& row, std::int32_t const* kept, int num_kept, std::int32_t const*, int) {
  for (int i = 0; i < num_kept; ++i) row.move(i, kept[i]);
}

/// Kept tokens beyond the new length fill the slots below it that are not kept: sources and destinations are disjoint.
template <class Row>
void compact_row(fill_holes, Row const& row, std::int32_t const* kept, int num_kept, std::int32_t const*, int) {
  int filler = num_kept;
  while (filler > 0 && kept[filler - 1] >= num_kept) --filler;
  for (int slot = 0, stays = 0; slot < num_kept; ++slot) {
    if (kept[stays] == slot)
      row.move_columns(slot, kept[stays++]);
    else
      row.move(slot, kept[filler++]);
  }
}

/// Evicted slots become empty.
template <class Row>
void compact_row(slot_list, Row const& row, std::int32_t const* kept, int num_kept,
                 std::int32_t const* evicted, int num_evicted) {
  for (int i = 0; i < num_kept; ++i) row.move_columns(kept[i], kept[i]);
  for (int i = 0; i < num_evicted; ++i) {
    row.position_column[evicted[i]] = -1;
    for (int w = 0; w < row.width; ++w)
      row.carried_column[static_cast<std::ptrdiff_t>(evicted[i]) * row.width + w] = 0.0f;
  }
}

}  // namespace foresightkv::inline v0::detail::host
