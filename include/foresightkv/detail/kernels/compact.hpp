// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <foresightkv/compactions/fill_holes.hpp>
#include <foresightkv/compactions/ordered.hpp>
#include <foresightkv/compactions/slot_list.hpp>
#include <foresightkv/detail/kernels/rows.hpp>
#include <foresightkv/detail/kernels/vector_copy.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// First index of an ascending list whose entry is at least `value`.
FORESIGHTKV_HOST_DEVICE inline int lower_bound(std::int32_t const* list, int count, int value) {
  int low = 0;
  int high = count;
  while (low < high) {
    int const middle = low + (high - low) / 2;
    if (list[middle] < value)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/// Tokens that stay where they are when a row closes up: list[i] == i below, and never again above.
FORESIGHTKV_HOST_DEVICE inline int unmoved_prefix(std::int32_t const* list, int count) {
  int low = 0;
  int high = count;
  while (low < high) {
    int const middle = low + (high - low) / 2;
    if (list[middle] == middle)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/// The moves of a row whose holes are filled: the i-th slot below the new length that is not kept takes the i-th kept
/// token from above it. Sources and destinations are disjoint.
struct hole_moves {
  std::int32_t const* kept = nullptr;
  int num_kept = 0;
  int num_stays = 0;  // kept tokens below the new length

  FORESIGHTKV_HOST_DEVICE hole_moves(std::int32_t const* list, int count)
      : kept(list), num_kept(count), num_stays(lower_bound(list, count, count)) {}

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int count() const { return num_kept - num_stays; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int source(int move) const { return kept[num_stays + move]; }
  /// The move-th hole: kept[i] - i holes lie below kept[i].
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int hole(int move) const {
    int low = 0;
    int high = num_stays;
    while (low < high) {
      int const middle = low + (high - low) / 2;
      if (kept[middle] - middle <= move)
        low = middle + 1;
      else
        high = middle;
    }
    return move + low;
  }
  /// Where the token comes from that stands in `slot` afterwards.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int source_of(int slot) const {
    int const stays = lower_bound(kept, num_stays, slot);
    return stays < num_stays && kept[stays] == slot ? slot : source(slot - stays);
  }
};

/// Moves what select chose to keep. Several blocks per row: each moves up to `strip` bytes of every key, or of every
/// value; one moves the columns and advances the state, which the others do not read.
///
/// Closing up in place is safe because sources never lie before destinations: a tile is stored when all loads of this
/// and of earlier tiles have landed, and what is still on its way comes from behind the tile.
template <class Cache, class Compaction>
struct compact_kernel {
  static constexpr int threads = 256;
  static constexpr int strip = 256;                     // bytes of a token that one block moves
  static constexpr int tile = 32;                       // tokens of a stage
  static constexpr int stages = 4;                      // of which all but one are on their way
  static constexpr int vectors = strip / vector_bytes;  // of a token
  static constexpr int copies = tile * vectors / threads;
  enum sync : int { tile_landed, columns_read };

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

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int key_bytes() const {
    return static_cast<int>(sizeof(typename Cache::element_type)) * cache.shape().key_head_dim;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int value_bytes() const {
    return static_cast<int>(sizeof(typename Cache::element_type)) * cache.shape().value_head_dim;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int key_strips() const { return divide_up(key_bytes(), strip); }
  /// Blocks per row.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int parts() const {
    return Compaction::moves_tokens ? 1 + key_strips() + divide_up(value_bytes(), strip) : 1;
  }

  template <class Context>
  struct shared {
    alignas(vector_bytes) std::byte stage[stages][tile][strip];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    visited_row const row = rows.at(c.block() / parts());
    if (!row.visited()) return;
    int const part = c.block() % parts();
    int const num_kept = kept_count[row.place];
    std::int32_t const* const list = part_of(kept, lists_by_row ? row.row : row.place, list_capacity);
    if (part == 0) {
      if (c.rank() == 0) store_length(new_lengths, rows.lengths, row, num_kept < 0 || !Compaction::moves_tokens ? row.length : num_kept);
      if (num_kept >= 0) move_columns(c, row, list, num_kept);
    } else if (num_kept >= 0) {
      bool const of_key = part <= key_strips();
      int const first = (of_key ? part - 1 : part - 1 - key_strips()) * strip;
      int const bytes = smaller((of_key ? key_bytes() : value_bytes()) - first, strip);
      auto const at = [&](int slot) {
        auto* const token = of_key ? cache.key(row.at, slot) : cache.value(row.at, slot);
        return reinterpret_cast<std::byte*>(token) + first;
      };
      move_strip(c, memory, list, num_kept, bytes, at);
    }
  }

 private:
  template <class Context, class At>
  FORESIGHTKV_HOST_DEVICE void move_strip(Context const& c, shared<Context>& memory, std::int32_t const* list, int num_kept,
                                          int bytes, At const& at) const {
    if constexpr (std::same_as<Compaction, ordered>)
      close_up(c, memory, list, num_kept, bytes, at);
    else
      fill(c, hole_moves(list, num_kept), bytes, at);
  }

  /// A ring of stages: a thread stores the vectors that it fetched, so that only the order between tiles needs a barrier.
  template <class Context, class At>
  FORESIGHTKV_HOST_DEVICE void close_up(Context const& c, shared<Context>& memory, std::int32_t const* list, int num_kept,
                                        int bytes, At const& at) const {
    int const start = unmoved_prefix(list, num_kept);
    int const tiles = divide_up(num_kept - start, tile);
    auto const each = [&](int of_tile, auto const& body) {
      for (int copy = 0; copy < copies; ++copy) {
        int const token = copy * (threads / vectors) + c.rank() / vectors;
        int const offset = c.rank() % vectors * vector_bytes;
        int const to = start + of_tile * tile + token;
        if (to < num_kept && offset < bytes)
          body(to, offset, smaller(bytes - offset, vector_bytes), memory.stage[of_tile % stages][token] + offset);
      }
    };
    auto const fetch = [&](int of_tile) {
      if (of_tile < tiles)
        each(of_tile, [&](int to, int offset, int size, std::byte* stage) {
          fetch_vector(c, stage, at(list[to]) + offset, size);
        });
      c.commit();
    };
    for (int ahead = 0; ahead < stages - 1; ++ahead) fetch(ahead);
    for (int now = 0; now < tiles; ++now) {
      fetch(now + stages - 1);
      c.template wait<stages - 1>();
      c.sync(tile_landed);
      each(now, [&](int to, int offset, int size, std::byte* stage) { copy_vector(at(to) + offset, stage, size); });
    }
    c.template wait<0>();
  }

  template <class Context, class At>
  FORESIGHTKV_HOST_DEVICE static void fill(Context const& c, hole_moves const& moves, int bytes, At const& at) {
    int const offset = c.rank() % vectors * vector_bytes;
    if (offset >= bytes) return;
    int const size = smaller(bytes - offset, vector_bytes);
    for (int move = c.rank() / vectors; move < moves.count(); move += threads / vectors)
      copy_vector(at(moves.hole(move)) + offset, at(moves.source(move)) + offset, size);
  }

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void move_columns(Context const& c, visited_row const& row, std::int32_t const* list,
                                            int num_kept) const {
    row_state const& state = rows.state;
    row_positions const positions = rows.positions(row);
    std::int32_t* const column = state.position + state.column(row.row, 0);
    int const width = state.num_carried * state.group;
    float const* const from = part_of(carried, row.place, std::int64_t{max_length} * width);
    float* const to = width > 0 ? state.carried_at(row.row, 0) : nullptr;
    auto const copy = [&](auto const& source_of, auto const& target_of) {
      int first = 0;
      do {
        int const i = first + c.rank();
        std::int32_t const position = i < num_kept ? positions.at(source_of(i)) : 0;
        c.sync(columns_read);  // positions close up in place too; and all threads know the state as it was
        if (i < num_kept) column[target_of(i)] = position;
        first += threads;
      } while (first < num_kept);
      for (int i = c.rank(); i < num_kept * width; i += threads)
        to[std::int64_t{target_of(i / width)} * width + i % width] =
            from[std::int64_t{source_of(i / width)} * width + i % width];
    };
    auto const same = [](int slot) { return slot; };
    auto const listed = [&](int i) { return list[i]; };
    if constexpr (std::same_as<Compaction, ordered>) {
      copy(listed, same);
    } else if constexpr (std::same_as<Compaction, fill_holes>) {
      hole_moves const moves(list, num_kept);
      copy([&](int slot) { return moves.source_of(slot); }, same);
    } else {
      copy(listed, listed);
      int const index = lists_by_row ? row.row : row.place;
      std::int32_t const* const gone = part_of(evicted, index, list_capacity);
      for (int i = c.rank(); i < evicted_count[index]; i += threads) column[gone[i]] = -1;
      for (int i = c.rank(); i < evicted_count[index] * width; i += threads)
        to[std::int64_t{gone[i / width]} * width + i % width] = 0.0f;
    }
    if (c.rank() != 0) return;
    state.next_position[row.row] = positions.end(row.length);
    state.seen_length[row.row] = Compaction::moves_tokens ? num_kept : row.length;
    ++state.step[row.row];
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
