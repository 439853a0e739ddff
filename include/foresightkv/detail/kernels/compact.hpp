// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <foresightkv/compactions/fill_holes.hpp>
#include <foresightkv/compactions/ordered.hpp>
#include <foresightkv/compactions/slot_list.hpp>
#include <foresightkv/detail/kernels/token_moves.hpp>
#include <foresightkv/detail/partition_point.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// First index of an ascending list whose entry is at least `value`.
template <class Slot>
FORESIGHTKV_HOST_DEVICE int lower_bound(Slot const* list, int count, int value) {
  return partition_point(count, [&](int i) { return list[i] < value; });
}

/// Tokens that stay where they are when a row closes up: list[i] == i below, and never again above.
FORESIGHTKV_HOST_DEVICE inline int unmoved_prefix(std::int32_t const* list, int count) {
  return partition_point(count, [&](int i) { return list[i] == i; });
}

/// The moves of a row whose holes are filled: the i-th slot below the new length that is not kept takes the i-th kept
/// token from above it. Sources and destinations are disjoint.
template <class Slot>
struct hole_moves {
  Slot const* kept = nullptr;
  int num_kept = 0;
  int num_stays = 0;  // kept tokens below the new length

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int count() const { return num_kept - num_stays; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int source(int move) const { return kept[num_stays + move]; }
  /// The move-th hole: kept[i] - i holes lie below kept[i].
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int hole(int move) const {
    return move + partition_point(num_stays, [&](int i) { return kept[i] - i <= move; });
  }
  /// Where the token comes from that stands in `slot` afterwards.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int source_of(int slot) const {
    int const stays = lower_bound(kept, num_stays, slot);
    return stays < num_stays && kept[stays] == slot ? slot : source(slot - stays);
  }
};

template <class Slot>
FORESIGHTKV_HOST_DEVICE hole_moves<Slot> moves_of(Slot const* kept, int num_kept) {
  return {kept, num_kept, lower_bound(kept, num_kept, num_kept)};
}

/// Moves what select chose to keep. Several blocks per row: each moves a strip of all tokens; one moves the columns and
/// advances the state, which the others do not read.
template <class Cache, class Compaction>
struct compact_kernel {
  static constexpr int threads = 256;
  static constexpr int strip = 16;  // vectors of a token that one block moves
  enum sync : int { columns_read };

  visited_rows rows{};
  Cache cache{};
  std::int32_t const* kept = nullptr;  // [place or row][list_capacity]
  std::int32_t const* evicted = nullptr;
  std::int32_t const* evicted_count = nullptr;  // [place or row]
  std::int32_t const* kept_count = nullptr;     // [place] negative: the row stays as it is
  int list_capacity = 0;
  bool lists_by_row = false;
  float const* carried = nullptr;  // [place][max_length][num_carried][group] before the move
  int max_length = 0;
  std::int32_t* new_lengths = nullptr;  // null: already written

  /// Blocks per row.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int parts() const {
    return Compaction::moves_tokens ? 1 + divide_up(vectors_of(cache), strip) : 1;
  }

  template <class Context>
  using shared = token_ring<2 * threads, 4>;

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    visited_row const row = rows.at(c.block() / parts());
    if (!row.visited()) return;
    int const part = c.block() % parts();
    int const num_kept = kept_count[row.place];
    std::int32_t const* const list = part_of(kept, lists_by_row ? row.row : row.place, list_capacity);
    if (part == 0) {
      bool const shortens = Compaction::moves_tokens && num_kept >= 0;
      if (c.rank() == 0) store_length(new_lengths, rows, row, shortens ? num_kept : row.length);
      if (num_kept >= 0) move_columns(c, row, list, num_kept);
    } else if (num_kept >= 0) {
      move_strip(c, memory, row.at, {(part - 1) * strip, vectors_of(cache), strip}, list, num_kept);
    }
  }

 private:
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void move_strip(Context const& c, shared<Context>& memory, row_index at,
                                          vector_strip const& part, std::int32_t const* list, int num_kept) const {
    if constexpr (std::same_as<Compaction, ordered>) {
      close_up(c, memory, cache, at, part, list, unmoved_prefix(list, num_kept), num_kept, no_column{});
    } else {
      auto const moves = moves_of(list, num_kept);
      copy_tokens(
          c, cache, at, part, moves.count(), [&](int i) { return moves.source(i); },
          [&](int i) { return moves.hole(i); });
    }
  }

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void move_columns(Context const& c, visited_row const& row, std::int32_t const* list,
                                            int num_kept) const {
    row_columns const columns(rows.state, row, rows.positions(row), carried, max_length);
    auto const move = [&](auto const& from, auto const& to) {
      kernels::move_columns(c, columns, num_kept, from, to, columns_read);
    };
    auto const same = [](int slot) { return slot; };
    auto const listed = [&](int i) { return list[i]; };
    if constexpr (std::same_as<Compaction, ordered>) {
      move(listed, same);
    } else if constexpr (std::same_as<Compaction, fill_holes>) {
      auto const moves = moves_of(list, num_kept);
      move([&](int slot) { return moves.source_of(slot); }, same);
    } else {
      move(listed, listed);
      int const index = lists_by_row ? row.row : row.place;
      columns.empty(c, part_of(evicted, index, list_capacity), evicted_count[index]);
    }
    if (c.rank() == 0) columns.advance(rows.state, row, Compaction::moves_tokens ? num_kept : row.length);
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
