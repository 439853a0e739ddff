// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/detail/kernels/collectives.hpp>
#include <foresightkv/detail/kernels/lanes.hpp>
#include <foresightkv/detail/kernels/launches.hpp>
#include <foresightkv/detail/kernels/rows.hpp>
#include <foresightkv/detail/kernels/token_moves.hpp>
#include <foresightkv/detail/newest_tokens.hpp>
#include <foresightkv/detail/partition_point.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// What rows lose when their sequences give tokens back, as one kernel finds it for the other.
struct newest_lists {
  std::int32_t const* wanted = nullptr;  // [sequence] how many tokens
  std::int32_t* slots = nullptr;         // [place][max_length] that lose their token in the columns, ascending
  std::int32_t* counts = nullptr;        // [place] of those; negative: tokens may not move there
  std::int32_t* lengths = nullptr;       // [place] of the row afterwards; negative: minus the flag why not
  int max_length = 0;

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::int32_t* slots_of(visited_row const& row) const {
    return part_of(slots, row.place, max_length);
  }
};

/// Finds them. A block per row.
template <class Cache, class Compaction>
struct newest_kernel {
  static constexpr int threads = 256;
  static constexpr int together = 8;  // slots that a thread reads at once
  enum sync : int { tile_listed, owners_read };

  visited_rows rows{};
  Cache cache{};
  newest_lists lists{};

  template <class Context>
  struct shared {
    typename Context::template scan<int> scan;
    int is_shared[Context::threads / warp_size];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    visited_row const row = rows.at(c.block());
    if (!row.visited()) return;
    int const wanted = lists.wanted[row.at.sequence];
    newest_tokens const newest = newest_of(rows.state, row.row, wanted, row.length, !Compaction::moves_tokens);
    int const found = list_slots(c, memory, row, newest);
    bool const shared_hole =
        Compaction::moves_tokens && found > 0 && may_not_fill(c, memory, row, newest.length - found);
    int const new_length = newest.length - (Compaction::moves_tokens ? found : 0);
    if (c.rank() != 0) return;
    lists.lengths[row.place] = newest.flag == no_flag ? new_length : -static_cast<int>(newest.flag);
    lists.counts[row.place] = shared_hole ? -1 : found;
  }

 private:
  template <class Context>
  FORESIGHTKV_HOST_DEVICE int list_slots(Context const& c, shared<Context>& memory, visited_row const& row,
                                         newest_tokens const& newest) const {
    row_positions const positions = rows.positions(row);
    std::int32_t* const list = lists.slots_of(row);
    int listed = 0;
    for (int first = 0; first < newest.columns; first += threads * together) {
      int const mine = first + c.rank() * together;
      bool leaves[together];
      int count = 0, all = 0;
      for (int i = 0; i < together; ++i) {
        leaves[i] = mine + i < newest.columns && positions.at(mine + i) >= newest.limit;
        count += leaves[i] ? 1 : 0;
      }
      int place = listed + c.exclusive_sum(memory.scan, count, all);
      for (int i = 0; i < together; ++i)
        if (leaves[i]) list[place++] = mine + i;
      listed += all;
      c.sync(tile_listed);  // the scan's scratch is free again, and all threads see the list
    }
    return listed;
  }
  /// Whether tokens would have to move in pages that others read.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE bool may_not_fill(Context const& c, shared<Context>& memory, visited_row const& row,
                                            int new_length) const {
    if constexpr (requires { cache.is_shared(row_threads<Context>{c}, row.at, 0); }) {
      int const first = lists.slots_of(row)[0];
      bool const mine = first < new_length && cache.is_shared(row_threads<Context>{c}, row.at, first);
      return block_any(c, memory.is_shared, mine, owners_read);
    }
    return false;
  }
};

/// The moves of a row that fills the holes below its new length, by the slots that it loses.
struct refill_moves {
  std::int32_t const* lost = nullptr;  // ascending
  int num_lost = 0;
  int new_length = 0;
  int num_holes = 0;

  FORESIGHTKV_HOST_DEVICE refill_moves(std::int32_t const* slots, int count, int length)
      : lost(slots), num_lost(count), new_length(length) {
    num_holes = partition_point(count, [&](int i) { return slots[i] < length; });
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int hole(int move) const { return lost[move]; }
  /// The move-th token that stays above: lost[h] - new_length - (h - num_holes) of them stand below a lost slot.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int source(int move) const {
    return new_length + move +
           partition_point(num_lost - num_holes, [&](int i) { return lost[num_holes + i] - new_length - i <= move; });
  }
};

/// Takes the tokens back where all rows of their sequence can give them, which every block finds out for itself. A block
/// per row: few tokens move.
template <class Cache, class Compaction>
struct take_back_kernel {
  static constexpr int threads = 256;
  enum sync : int { rows_asked, state_read };

  visited_rows rows{};
  Cache cache{};
  newest_lists lists{};
  std::int32_t* new_lengths = nullptr;

  template <class Context>
  struct shared {
    int answers[Context::threads / warp_size];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    visited_row const row = rows.at(c.block());
    if (!row.visited() || !is_granted(c, memory, row)) return;
    row_state const& state = rows.state;
    int const wanted = lists.wanted[row.at.sequence], new_length = lists.lengths[row.place];
    newest_tokens const newest = newest_of(state, row.row, wanted, row.length, !Compaction::moves_tokens);
    if (c.rank() == 0) store_length(new_lengths, rows, row, new_length);
    if constexpr (Compaction::moves_tokens)
      refill(c, row, {lists.slots_of(row), lists.counts[row.place], new_length});
    else if (newest.columns > 0)
      empty_newest(row_threads<Context>{c}, state, row.row, row.length, newest.limit);
    c.sync(state_read);
    if (c.rank() == 0) settle_newest(state, row.row, newest, new_length);
  }

 private:
  enum answer : int { refused = 1, differs = 2, is_shared = 4 };

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int answer_of(int place) const {
    int const begin = place - place % rows.per_sequence(), heads = rows.shape.num_kv_heads;
    int const index = place - begin;
    row_index const first = first_of_length(rows.domain, {index / heads, 0, index % heads});
    int const other = begin + first.layer * heads + first.kv_head;
    int const length = lists.lengths[place], count = lists.counts[place];
    // Slots that stay must be as empty as each other, so that rows get longer together.
    bool const alike = length == lists.lengths[other] && (Compaction::moves_tokens || count == lists.counts[other]);
    return (length < 0 ? refused : 0) | (alike ? 0 : differs) | (count < 0 ? is_shared : 0);
  }
  template <class Context>
  FORESIGHTKV_HOST_DEVICE bool is_granted(Context const& c, shared<Context>& memory, visited_row const& row) const {
    int const begin = row.place - row.place % rows.per_sequence();
    int answers = 0;
    for (int index = c.rank(); index < rows.per_sequence(); index += threads) answers |= answer_of(begin + index);
    answers = block_or(c, memory.answers, answers, rows_asked);
    if (c.rank() == 0) say_why(c, row, answers, row.place == begin);
    return answers == 0;
  }
  /// A row its own reason; of all rows together the first one.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void say_why(Context const& c, visited_row const& row, int answers, bool leads) const {
    int const length = lists.lengths[row.place];
    std::uint32_t* const flags = rows.state.flags + row.at.sequence;
    if (length < 0) c.raise(flags, static_cast<std::uint32_t>(-length));
    if (!leads || answers == 0 || (answers & refused) != 0) return;
    auto const which = (answers & differs) != 0 ? sequence_flag::length_mismatch : sequence_flag::shared_page;
    c.raise(flags, static_cast<std::uint32_t>(which));
  }

  /// Sources and destinations are disjoint, in tokens and columns.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void refill(Context const& c, visited_row const& row, refill_moves const& moves) const {
    row_state const& state = rows.state;
    int const width = state.num_carried * state.group, vectors = vectors_of(cache);
    auto const from = [&](int i) { return moves.source(i); };
    auto const to = [&](int i) { return moves.hole(i); };
    for (int i = c.rank(); i < moves.num_holes; i += threads)
      state.position[state.column(row.row, to(i))] = state.position[state.column(row.row, from(i))];
    for (int i = c.rank(); i < moves.num_holes * width; i += threads)
      state.carried_at(row.row, to(i / width))[i % width] = state.carried_at(row.row, from(i / width))[i % width];
    for (int first = 0; first < vectors; first += warp_size)
      copy_tokens(c, cache, row.at, {first, vectors, warp_size}, moves.num_holes, from, to);
  }
};

/// Both, over rows that were visited. Two launches.
template <class Compaction, class Exec, class Cache>
void take_newest_back(launches<Exec>& launch, visited_rows const& rows, Cache const& cache, newest_lists const& lists,
                      std::int32_t* new_lengths) {
  launch(rows.blocks(1), newest_kernel<Cache, Compaction>{rows, cache, lists});
  launch(rows.blocks(1), take_back_kernel<Cache, Compaction>{rows, cache, lists, new_lengths});
}

}  // namespace foresightkv::inline v0::detail::kernels
