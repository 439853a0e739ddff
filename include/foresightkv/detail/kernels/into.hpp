// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/detail/kernels/lanes.hpp>
#include <foresightkv/detail/kernels/token_moves.hpp>
#include <foresightkv/detail/transfer.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// What rows keep, as select or the caller has listed it.
struct kept_lists {
  std::int32_t const* slots = nullptr;  // [place or row][capacity]
  int capacity = 0;
  bool by_row = false;
  std::int32_t const* counts = nullptr;  // [place] tokens, kept_whole or kept_too_many
};

/// Copies what a sequence keeps to another cache, as a whole or not at all. Several blocks per row, each of which finds
/// out for itself whether the sequence has room: one moves the columns and advances the state, which the others do not
/// read, and each of these copies some tokens.
template <class Cache, class Target>
struct into_kernel {
  static constexpr int threads = 256;
  static constexpr int tile = 64;  // tokens of a block
  enum sync : int { room_counted, columns_read };

  visited_rows rows{};  // the domain is the target's
  Cache cache{};
  Target target{};
  kept_lists kept{};
  float const* carried = nullptr;  // [place][max_length][num_carried][group] before the move
  int max_length = 0;
  std::int32_t* new_lengths = nullptr;
  std::int32_t* moved = nullptr;  // [max_count] sequences that had room, or -1
  bool copies = true;             // false: a dry run

  /// Blocks per row.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int parts() const {
    return copies ? 1 + divide_up(smaller(max_length, target.shape().capacity), tile) : 1;
  }

  template <class Context>
  struct shared {
    int no_room[Context::threads / warp_size];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    int const part = c.block() % parts(), place = c.block() / parts();
    bool const leads = part == 0 && place % rows.per_sequence() == 0;
    visited_row const row = rows.at(place);
    if (!row.visited()) return store_moved(c, leads, place, -1);
    int const num_kept = kept.counts[row.place];
    int const new_length = num_kept < 0 ? row.length : num_kept;
    int const first = (part - 1) * tile;
    if (part > 0 && first >= new_length) return;
    bool const fits = has_room(c, memory, row, leads);
    store_moved(c, leads, place, fits ? row.at.sequence : -1);
    if (!fits) return;
    std::int32_t const* const listed = part_of(kept.slots, kept.by_row ? row.row : row.place, kept.capacity);
    std::int32_t const* const list = num_kept < 0 ? nullptr : listed;
    if (part > 0) return copy_tile(c, row.at, list, first, smaller(first + tile, new_length));
    if (c.rank() == 0) store_length(new_lengths, rows, row, new_length);
    if (!copies || list == nullptr) return;
    row_columns const columns(rows.state, row, rows.positions(row), carried, max_length);
    kernels::move_columns(
        c, columns, num_kept, [&](int i) { return list[i]; }, [](int i) { return i; }, columns_read);
    if (c.rank() == 0) columns.advance(rows.state, row, num_kept);
  }

 private:
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void store_moved(Context const& c, bool leads, int place, int sequence) const {
    if (leads && c.rank() == 0) moved[place / rows.per_sequence()] = sequence;
  }

  /// Whether every row of the sequence has; one block says so where it has not.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE bool has_room(Context const& c, shared<Context>& memory, visited_row const& of,
                                        bool leads) const {
    int const first = of.place - of.place % rows.per_sequence();
    bool mine = false;
    for (int index = c.rank(); index < rows.per_sequence(); index += Context::threads) {
      visited_row const row = rows.at(first + index);
      int const num_kept = kept.counts[row.place];
      bool const too_long = (num_kept < 0 ? row.length : num_kept) > target.length(row.at);
      if (leads && too_long && num_kept != kept_too_many)
        c.raise(rows.state.flags + row.at.sequence, static_cast<std::uint32_t>(sequence_flag::bad_length));
      mine = mine || too_long || num_kept == kept_too_many;
    }
    return !block_any(c, memory.no_room, mine, room_counted);
  }

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void copy_tile(Context const& c, row_index at, std::int32_t const* list, int first,
                                         int end) const {
    auto const slot = [&](int i) { return list == nullptr ? i : list[i]; };
    auto const copy = [&](auto const& from, auto const& to, int bytes) {
      copy_part(c, from, to, bytes, slot, first, end);
    };
    auto const convert = [&](auto const& from, auto const& to, int dim) {
      for (int i = first + c.rank() / warp_size; i < end; i += Context::threads / warp_size)
        convert_token(row_lanes<Context>{c}, from, slot(i), to, i, dim);
    };
    visit_parts(cache, target, at, copy, convert);
  }

  /// Several vectors of a thread are on their way at a time.
  template <class Context, class From, class To, class Slot>
  FORESIGHTKV_HOST_DEVICE static void copy_part(Context const& c, From const& from, To const& to, int bytes,
                                                Slot const& slot, int first, int end) {
    constexpr int together = 4;
    int const vectors = divide_up(bytes, vector_bytes);
    for (int begin = 0; begin < vectors; begin += warp_size) {
      vector_strip const strip(begin, vectors, warp_size);
      int const vector = strip.first + c.rank() % strip.lanes;
      if (vector >= strip.end) continue;
      int const offset = vector * vector_bytes, size = smaller(bytes - offset, vector_bytes);
      vector_path<From> const source(from, offset, size);
      vector_path<To> const path(to, offset, size);
      int const step = Context::threads / strip.lanes;
      for (int i = first + c.rank() / strip.lanes; i < end; i += together * step) {
        vector16 held[together];
        bool whole = true;
        for (int j = 0; j < together; ++j) {
          int const token = i + j * step;
          if (token >= end) continue;
          whole = whole && source.is_whole(slot(token)) && path.is_whole(token);
          if (whole) held[j] = *reinterpret_cast<vector16 const*>(source(slot(token)));
        }
        for (int j = 0; j < together; ++j) {
          int const token = i + j * step;
          if (token >= end) continue;
          if (whole)
            *reinterpret_cast<vector16*>(path(token)) = held[j];
          else
            copy_vector(path(token), source(slot(token)), size);
        }
      }
    }
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
