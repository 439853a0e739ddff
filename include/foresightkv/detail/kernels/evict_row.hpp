// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <foresightkv/detail/kernels/compact.hpp>
#include <foresightkv/detail/kernels/select.hpp>
#include <type_traits>

namespace foresightkv::inline v0::detail::kernels {

/// Chooses what goes of every row, writes the lists that are wanted and the new lengths, moves tokens and columns, and
/// advances the state. A block per row, whose keys are in registers and whose lists are in shared memory. Before it
/// chooses it may do something else for its row that ends in a barrier; the numbers of those are below 48.
template <class Cache, class Compaction, class Chooser, class Before = no_stage>
struct evict_kernel {
  static constexpr int threads = Chooser::threads;
  // Rows that share a multiprocessor hide each other's latency; a stage takes more registers.
  static constexpr int min_blocks = threads > 256 ? 1 : (std::same_as<Before, no_stage> ? 768 : 512) / threads;
  static constexpr int longest = Chooser::longest;
  static constexpr std::size_t shared_limit = 48 * 1024;
  static_assert(Chooser::keys_type::in_registers);
  enum sync : int { listed = 56, holes_found };

  Chooser chooser{};
  Cache cache{};
  Before before{};
  selection wanted{};  // any pointer may be null
  std::int32_t* new_lengths = nullptr;
  bool moves = true;               // false: a dry run
  float const* carried = nullptr;  // [place][max_length][num_carried][group] before the move
  std::int32_t* slots = nullptr;   // [place][max_length] lists that shared memory has no room for
  int max_length = 0;

  using ring = std::conditional_t<std::same_as<Compaction, ordered>, token_ring<512, 4>, no_stage::shared<void>>;

  /// What is in use one after the other.
  template <class Context>
  union phases {
    typename Before::template shared<Context> stage;
    typename Chooser::template shared<Context> choosing;
    evict_kernel::ring moving;
  };
  template <class Context>
  static constexpr bool shares_lists = sizeof(phases<Context>) + longest * sizeof(std::uint16_t) + 64 <= shared_limit;

  template <class Context>
  struct shared {
    phases<Context> now;
    int split;  // kept slots that stay: before the first one that goes (ordered), below the new length (fill_holes)
    std::uint16_t slots[shares_lists<Context> ? longest : 1];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    visited_row const row = chooser.rows.at(c.block());
    if (!row.visited()) return;
    before(c, memory.now.stage, row, 0, row.length);
    row_positions const positions = chooser.rows.positions(row);
    auto own = chooser.keys_of(c, row);
    row_choice const choice = chooser.choose(c, memory.now.choosing, own, row, positions);
    list_targets const lists{wanted};
    if (c.rank() == 0) lists.write_counts(row, choice);
    int const new_length = Chooser::new_length(row, choice);
    if (c.rank() == 0) store_length(new_lengths, chooser.rows, row, new_length);
    if (!choice.storable) return;

    bool const cuts = moves && choice.num_evicted > 0;
    row_columns const columns(chooser.rows.state, row, positions, carried, max_length);
    if (cuts) store_stays(c, columns, new_length);
    auto* const list = lists_of(memory, row);
    chooser.place(c, memory.now.choosing, own, choice, [&](placed_slot const& at) {
      add_slot(list, choice, at);
      if (is_split(choice, at)) memory.split = at.kept;
    });
    c.sync(listed);
    lists.write_all(c, row, positions, choice, list);
    if (!cuts) return;
    if (c.rank() == 0) columns.advance(chooser.rows.state, row, new_length);
    move_row(c, memory, row, columns, choice, list);
  }

 private:
  template <class Context>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE auto* lists_of(shared<Context>& memory, visited_row const& row) const {
    if constexpr (shares_lists<Context>)
      return memory.slots;
    else
      return part_of(slots, row.place, max_length);
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static bool is_split(row_choice const& choice, placed_slot const& at) {
    if constexpr (std::same_as<Compaction, ordered>) return at.fate != slot_fate::kept && at.slot == at.kept;
    return at.slot == choice.num_kept();
  }

  /// Columns of tokens that stay in their slots. Some slots will take another token, later.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE static void store_stays(Context const& c, row_columns const& columns, int new_length) {
    columns.store_implied(c, new_length);
    auto const same = [](int slot) { return slot; };
    if constexpr (std::same_as<Compaction, fill_holes>) columns.carry(c, new_length, same, same);
  }

  /// What a thread has written to the caller's lists of evicted slots it may overwrite here: it is the same thread.
  template <class Context, class Slot>
  FORESIGHTKV_HOST_DEVICE void move_row(Context const& c, shared<Context>& memory, visited_row const& row,
                                        row_columns const& columns, row_choice const& choice, Slot* list) const {
    int const vectors = vectors_of(cache);
    int const num_kept = choice.num_kept();
    auto const kept = [&](int i) { return list[i]; };
    if constexpr (std::same_as<Compaction, fill_holes>) {
      hole_moves<Slot> const moves{list, num_kept, memory.split};
      Slot* const holes = list + num_kept;  // evicted slots: the first ones of them, or empty ones among them
      if (choice.has_empties) {
        for (int i = c.rank(); i < moves.count(); i += threads) holes[i] = static_cast<Slot>(moves.hole(i));
        c.sync(holes_found);
      }
      auto const from = [&](int i) { return moves.source(i); };
      auto const to = [&](int i) { return holes[i]; };
      for (int i = c.rank(); i < moves.count(); i += threads) columns.move_position(to(i), from(i));
      columns.carry(c, moves.count(), from, to);
      for (int first = 0; first < vectors; first += warp_size)
        copy_tokens(c, cache, row.at, {first, vectors, warp_size}, moves.count(), from, to);
    } else if constexpr (std::same_as<Compaction, ordered>) {
      for (int first = 0; first < vectors; first += warp_size) {
        vector_strip const strip(first, vectors, warp_size);
        if (first == 0)
          close_up(c, memory.now.moving, cache, row.at, strip, list, memory.split, num_kept, columns);
        else
          close_up(c, memory.now.moving, cache, row.at, strip, list, memory.split, num_kept, no_column{});
      }
      columns.carry(c, num_kept, kept, [](int slot) { return slot; });
    } else {
      columns.carry(c, num_kept, kept, kept);
      columns.empty(c, list + num_kept, choice.num_evicted);
    }
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
