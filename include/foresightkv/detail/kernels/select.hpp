// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/detail/kernels/row_keys.hpp>
#include <foresightkv/detail/kernels/rows.hpp>
#include <foresightkv/detail/kernels/vector_copy.hpp>
#include <foresightkv/detail/random.hpp>
#include <foresightkv/selection.hpp>
#include <type_traits>

namespace foresightkv::inline v0::detail::kernels {

/// Key of a slot without a token: above every score's, too.
inline constexpr std::uint32_t empty_key = protected_key - 1;

FORESIGHTKV_HOST_DEVICE inline void protect(std::uint32_t& key) {
  if (key != empty_key) key = protected_key;
}

enum selection_sync : int { ties_counted = 52, chunk_counted };

/// Protects all candidates of the block but the lowest; ties may be fewer than none.
template <class Context, class Keys>
FORESIGHTKV_HOST_DEVICE void keep_lowest(Context const& c, typename Context::template scan<std::uint32_t>& scan,
                                         Keys& keys, lowest_keys lowest) {
  int earlier = 0;  // ties
  keys.each_chunk([&](int first) {
    std::uint32_t mine = 0;
    keys.in_chunk(first, [&](int, std::uint32_t key) { mine += key == lowest.threshold; });
    std::uint32_t all = 0;
    int left = lowest.ties - earlier - static_cast<int>(c.exclusive_sum(scan, mine, all));
    if constexpr (!Keys::in_registers) c.sync(ties_counted);  // the scratch serves again
    keys.in_chunk(first, [&](int, std::uint32_t& key) {
      bool const tie = key == lowest.threshold;
      if (tie ? left <= 0 : key > lowest.threshold) protect(key);
      left -= tie;
    });
    earlier += static_cast<int>(all);
  });
}

/// One row of scores as a selector sees it: see detail::archetype::selection_row. All threads make the same calls.
template <class Context, class Keys>
class block_selection {
 public:
  using scan = typename Context::template scan<std::uint32_t>;

  FORESIGHTKV_HOST_DEVICE block_selection(Context const& context, radix_search<Context, Keys>& search, scan& scratch,
                                          Keys& keys, float const* scores, row_positions const& positions,
                                          draw_source const& source, int count, int candidates)
      : context_(context),
        search_(search),
        scratch_(scratch),
        keys_(keys),
        scores_(scores),
        positions_(positions),
        source_(source),
        count_(count),
        candidates_(candidates) {}

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int length() const { return keys_.length; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int count() const { return count_; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int candidates() const { return candidates_; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float score(int slot) const { return scores_[slot]; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float uniform(int slot) const { return uniform_float(bits(slot)); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float gumbel(int slot) const { return gumbel_float(bits(slot)); }

  FORESIGHTKV_HOST_DEVICE void restrict_to_lowest(int count) {
    if (count >= candidates_) return;
    candidates_ = count > 0 ? count : 0;
    if (candidates_ == 0) {
      keys_.each([](int, std::uint32_t& key) { protect(key); });
      return search_.keys_change();
    }
    lowest_keys lowest = search_.find_lowest(count);
    lowest.ties -= search_.ties_before();
    keep_lowest(context_, scratch_, keys_, lowest);
  }
  template <class Score>
  FORESIGHTKV_HOST_DEVICE void rescore(Score const& score) {
    keys_.each([&](int slot, std::uint32_t& key) {
      if (key < empty_key) key = order_key(score(slot));
    });
    search_.keys_change();
  }
  FORESIGHTKV_HOST_DEVICE void evict_lowest(int count) {
    evicted_ = count < 0 ? 0 : smaller(count, candidates_);
    if (evicted_ > 0) lowest_ = search_.find_lowest(evicted_);
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int evicted() const { return evicted_; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE lowest_keys lowest() const { return lowest_; }

 private:
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::uint32_t bits(int slot) const {
    return draw(source_.seed, positions_.at(slot), source_.request, source_.model_row, source_.step);
  }

  Context const& context_;
  radix_search<Context, Keys>& search_;
  scan& scratch_;
  Keys& keys_;
  float const* scores_;
  row_positions const& positions_;
  draw_source const& source_;
  int count_;
  int candidates_;
  int evicted_ = 0;
  lowest_keys lowest_{};
};

/// What is decided of a row.
struct row_choice {
  int num_tokens = 0;
  int num_evicted = 0;
  lowest_keys lowest{};      // whose tokens go
  bool has_empties = false;  // slots without a token
  bool storable = true;      // what stays fits into the state's columns

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int num_kept() const { return num_tokens - num_evicted; }
};

/// What a block of a cluster has of its row, and what lies before that.
struct block_share {
  row_choice choice{};  // of the block's tokens
  int slots_before = 0;
  int kept_before = 0;
  int evicted_before = 0;
};

enum class slot_fate : int { kept, evicted, empty };

/// A slot among those of its block.
struct placed_slot {
  int slot = 0;     // of the row
  int kept = 0;     // before it
  int evicted = 0;  // before it
  slot_fate fate{};
};

/// How a block, or a cluster of blocks, chooses what goes of its row. Threads * Items is a block's chunk; in registers
/// no row may be longer than that of all blocks.
template <class Selector, class Budget, bool MovesTokens, int Threads, int Items, bool InRegisters, int Cluster = 1>
struct row_chooser {
  static constexpr int threads = Threads;
  static constexpr int cluster = Cluster;
  using keys_type = row_keys<Threads, Items, InRegisters>;
  static constexpr int longest = InRegisters ? Cluster * keys_type::chunk : no_limit;  // row
  static_assert(Cluster == 1 || InRegisters);

  visited_rows rows{};
  eviction_config config{};
  Selector selector{};
  Budget budget{};
  float const* scores = nullptr;  // [place or row][scores_capacity]
  int scores_capacity = 0;
  bool scores_by_row = false;
  std::uint32_t* keys = nullptr;  // [place][max_length], where keys are not in registers
  int max_length = 0;

 private:
  // Two counts of a row's slots, a half each.
  using counter = std::conditional_t<(longest < 1 << 16), std::uint32_t, std::uint64_t>;
  static constexpr int half = sizeof(counter) * 4;

 public:
  template <class Context>
  struct shared {
    radix_memory_of<Context> radix;
    counter counted[Threads / warp_size];
    std::uint64_t shares[Cluster > 1 ? Threads / warp_size : 1];
    typename Context::template scan<std::uint32_t> tie_scan;
    typename Context::template scan<std::uint32_t> scan;
    typename Context::template scan<std::uint32_t> empty_scan;
  };

  template <class Context>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE keys_type keys_of(Context const& c, visited_row const& row) const {
    keys_type own;
    own.memory = part_of(keys, row.place, max_length);
    own.length = row.length;
    if constexpr (Cluster > 1) own.begin = c.cluster_rank() * keys_type::chunk;
    own.rank = c.rank();
    return own;
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static int new_length(visited_row const& row, row_choice const& choice) {
    return MovesTokens && choice.storable && choice.num_evicted > 0 ? choice.num_kept() : row.length;
  }

  /// Sets the keys and decides what goes.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE row_choice choose(Context const& c, shared<Context>& memory, keys_type& own,
                                            visited_row const& row, row_positions const& positions) const {
    float const* const row_scores = part_of(scores, scores_by_row ? row.row : row.place, scores_capacity);
    radix_search<Context, keys_type> search(c, memory.radix, own);
    counter const mine = warp_sum(c, make_keys(own, row_scores, positions, pins_of(rows.state, row.at.sequence)));
    if (c.rank() % warp_size == 0) memory.counted[c.rank() / warp_size] = mine;
    search.count_ahead();
    counter const all = sum_of(c, memory.counted);
    auto const candidates = static_cast<int>(all & ((counter{1} << half) - 1));
    auto const empties = static_cast<int>(all >> half);

    row_choice made;
    made.num_tokens = row.length - empties;
    made.has_empties = empties > 0;
    int const wanted = made.num_tokens - budget(config, rows.shape, row.at);
    if (wanted <= 0) return made;
    if (wanted > candidates) flag(c, row, sequence_flag::over_budget);
    int const count = smaller(wanted, candidates);
    draw_source const source = source_of(row);
    block_selection<Context, keys_type> choice(c, search, memory.tie_scan, own, row_scores, positions, source, count,
                                               candidates);
    if (count > 0) selector(choice);
    made.num_evicted = choice.evicted();
    made.lowest = choice.lowest();
    made.storable = !MovesTokens || made.num_kept() <= rows.state.capacity;
    if (!made.storable) flag(c, row, sequence_flag::state_overflow);
    return made;
  }

  /// What this block has of it. Others of its cluster read its shared memory until they meet again.
  template <class Context>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE block_share share_of(Context const& c, shared<Context>& memory, keys_type& own,
                                                             row_choice const& choice) const {
    block_share share{choice};
    if constexpr (Cluster > 1) {
      std::uint64_t mine = 0;
      own.each([&](int, std::uint32_t key) { mine += key_counts::of(key, choice.lowest.threshold); });
      mine = warp_sum(c, mine);
      if (c.rank() % warp_size == 0) memory.shares[c.rank() / warp_size] = mine;
      c.sync_cluster(shares_counted);
      auto const counted = sum_cells(c, memory.shares);
      key_counts const before(counted.before), block(counted.own);
      int const end = smaller(own.begin + keys_type::chunk, own.length);
      share.slots_before = smaller(own.begin, own.length);
      share.evicted_before = before.below + smaller(before.equal, choice.lowest.ties);
      share.kept_before = share.slots_before - before.empty - share.evicted_before;
      int const ties_left = choice.lowest.ties - smaller(before.equal, choice.lowest.ties);
      share.choice.lowest.ties = ties_left;
      share.choice.num_tokens = end - share.slots_before - block.empty;
      share.choice.num_evicted = block.below + smaller(block.equal, ties_left);
      share.choice.has_empties = block.empty > 0;
    }
    return share;
  }

  /// body(placed_slot) for every slot of this thread, ascending: what is below the threshold goes, and the first ties
  /// of what equals it.
  template <class Context, class Body>
  FORESIGHTKV_HOST_DEVICE void place(Context const& c, shared<Context>& memory, keys_type& own,
                                     row_choice const& choice, Body const& body) const {
    static_assert(keys_type::chunk < 1 << 16);
    lowest_keys const lowest = choice.lowest;
    auto const is_lower = [&](std::uint32_t key) { return key < lowest.threshold; };
    auto const is_tie = [&](std::uint32_t key) { return key == lowest.threshold && lowest.ties > 0; };
    int below = 0, equal = 0, empty = 0;  // before this chunk
    own.each_chunk([&](int first) {
      std::uint32_t mine = 0, mine_empty = 0;
      own.in_chunk(first, [&](int, std::uint32_t key) {
        mine += (is_lower(key) ? 1u : 0u) + (is_tie(key) ? 1u << 16 : 0u);
        mine_empty += key == empty_key;
      });
      std::uint32_t all = 0, all_empty = 0, empty_before = 0;
      std::uint32_t const before = c.exclusive_sum(memory.scan, mine, all);
      if (choice.has_empties) empty_before = c.exclusive_sum(memory.empty_scan, mine_empty, all_empty);
      if constexpr (!InRegisters) c.sync(chunk_counted);  // the scratch serves again
      int b = below + static_cast<int>(before & 0xffffu);
      int e = equal + static_cast<int>(before >> 16);
      int n = empty + static_cast<int>(empty_before);
      own.in_chunk(first, [&](int slot, std::uint32_t key) {
        bool const lower = is_lower(key);
        bool const tie = is_tie(key);
        bool const none = key == empty_key;
        int const gone = b + smaller(e, lowest.ties);
        bool const goes = lower || (tie && e < lowest.ties);
        body(placed_slot{slot, slot - own.begin - gone - n, gone,
                         goes ? slot_fate::evicted : (none ? slot_fate::empty : slot_fate::kept)});
        b += lower;
        e += tie;
        n += none;
      });
      below += static_cast<int>(all & 0xffffu);
      equal += static_cast<int>(all >> 16);
      empty += static_cast<int>(all_empty);
    });
  }

 private:
  enum sync : int { shares_counted = 55 };

  /// Keys of a block or of several, counted in one word.
  struct key_counts {
    static constexpr int bits = 20;
    static_assert(Cluster * keys_type::chunk < 1 << bits || Cluster == 1);

    int below, equal, empty;

    FORESIGHTKV_HOST_DEVICE explicit key_counts(std::uint64_t word)
        : below(static_cast<int>(word & ((1u << bits) - 1))),
          equal(static_cast<int>(word >> bits & ((1u << bits) - 1))),
          empty(static_cast<int>(word >> 2 * bits)) {}
    [[nodiscard]] FORESIGHTKV_HOST_DEVICE static std::uint64_t of(std::uint32_t key, std::uint32_t threshold) {
      return (key < threshold ? std::uint64_t{1} : 0) + (key == threshold ? std::uint64_t{1} << bits : 0) +
             (key == empty_key ? std::uint64_t{1} << 2 * bits : 0);
    }
  };

  template <class Context>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static counter sum_of(Context const& c,
                                                              counter (&counted)[Threads / warp_size]) {
    counter all = 0;
    if constexpr (Cluster > 1)
      all = sum_cells(c, counted).all;
    else
      for (counter const part : counted) all += part;
    return all;
  }

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void flag(Context const& c, visited_row const& row, sequence_flag which) const {
    if (c.rank() == 0) c.raise(rows.state.flags + row.at.sequence, static_cast<std::uint32_t>(which));
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE draw_source source_of(visited_row const& row) const {
    cache_shape const& shape = rows.shape;
    return {rows.state.seed[row.at.sequence], rows.state.request_id[row.at.sequence],
            model_row(shape.model_layer(row.at.layer), shape.model_kv_heads(), shape.model_kv_head(row.at.kv_head)),
            rows.state.step[row.row]};
  }

  /// Scores in order, with every token that may not go protected. Counts candidates and, above them, empty slots.
  FORESIGHTKV_HOST_DEVICE counter make_keys(keys_type& own, float const* row_scores, row_positions const& positions,
                                            row_pins const& pins) const {
    int const protected_from = positions.end(own.length) - config.recent();
    counter mine = 0;
    own.each_chunk([&](int first) {
      int const begin = first + own.rank * Items;
      float score[Items] = {};
      std::int32_t position[Items];
      load_neighbours(row_scores + begin, own.length - begin, score);
      load_positions(positions, begin, position);
      std::uint32_t made[Items];
      for (int i = 0; i < Items; ++i) {  // what is behind the row is neither: its positions are behind the newest one
        bool const empty = position[i] < 0;
        bool const free = position[i] >= config.sink_tokens && position[i] < protected_from && !pins.at(position[i]);
        std::uint32_t const ordered = order_key(score[i]);
        made[i] = free ? ordered : (empty ? empty_key : protected_key);
        mine += (empty ? counter{1} << half : 0) + (free ? 1u : 0u);
      }
      own.set(first, made);
    });
    return mine;
  }
  FORESIGHTKV_HOST_DEVICE static void load_positions(row_positions const& positions, int begin,
                                                     std::int32_t (&to)[Items]) {
    bool const stored = positions.column != nullptr;
    int const implied = stored ? positions.next + (begin - positions.seen) : begin;
    for (int i = 0; i < Items; ++i) to[i] = implied + i;
    if (stored && begin < positions.seen) load_neighbours(positions.column + begin, positions.seen - begin, to);
  }
};

/// Enters a slot into its row's lists, which share an array: kept slots, and evicted ones behind them.
template <class Slot>
FORESIGHTKV_HOST_DEVICE void add_slot(Slot* slots, row_choice const& choice, placed_slot const& at) {
  if (at.fate == slot_fate::empty) return;
  int const index = at.fate == slot_fate::kept ? at.kept : choice.num_kept() + at.evicted;
  slots[index] = static_cast<Slot>(at.slot);
}

/// Lists that a call asked for, and those that its next kernel reads.
struct list_targets {
  selection wanted{};            // by row; any pointer may be null
  std::int32_t* kept = nullptr;  // [place][max_length]
  std::int32_t* evicted = nullptr;
  std::int32_t* evicted_count = nullptr;  // [place]
  std::int32_t* kept_count = nullptr;     // [place] negative: the row stays as it is
  int max_length = 0;

  FORESIGHTKV_HOST_DEVICE void write(visited_row const& row, row_positions const& positions,
                                     placed_slot const& at) const {
    if (at.fate == slot_fate::kept) keep(row, at.kept, at.slot);
    if (at.fate == slot_fate::evicted) evict(row, at.evicted, at.slot, positions);
  }
  /// The same out of shared memory, by all threads of a row.
  template <class Context, class Lists>
  FORESIGHTKV_HOST_DEVICE void write_all(Context const& c, visited_row const& row, row_positions const& positions,
                                         row_choice const& choice, Lists const& lists) const {
    write_share(c, row, positions, block_share{choice}, lists);
  }
  /// The same by each block of a cluster: its lists count from its first slot.
  template <class Context, class Lists>
  FORESIGHTKV_HOST_DEVICE void write_share(Context const& c, visited_row const& row, row_positions const& positions,
                                           block_share const& share, Lists const& lists) const {
    int const num_kept = share.choice.num_kept();
    bool const keeps = wanted.kept != nullptr || kept != nullptr;
    bool const evicts = wanted.evicted != nullptr || wanted.evicted_positions != nullptr || evicted != nullptr;
    for (int i = c.rank(); keeps && i < num_kept; i += Context::threads)
      keep(row, share.kept_before + i, share.slots_before + lists[i]);
    for (int i = c.rank(); evicts && i < share.choice.num_evicted; i += Context::threads)
      evict(row, share.evicted_before + i, share.slots_before + lists[num_kept + i], positions);
  }
  /// By one thread of the row. Rows that cannot be stored have no lists.
  FORESIGHTKV_HOST_DEVICE void write_counts(visited_row const& row, row_choice const& choice) const {
    bool const compacts = choice.storable && choice.num_evicted > 0;
    int const stays = choice.storable ? kept_whole : kept_too_many;
    if (kept_count != nullptr) kept_count[row.place] = compacts ? choice.num_kept() : stays;
    if (!choice.storable) return;
    if (wanted.evicted_count != nullptr) wanted.evicted_count[row.row] = choice.num_evicted;
    if (evicted_count != nullptr) evicted_count[row.place] = choice.num_evicted;
  }

 private:
  FORESIGHTKV_HOST_DEVICE void keep(visited_row const& row, int index, int slot) const {
    if (wanted.kept != nullptr) wanted.kept[wanted.at(row.row) + static_cast<std::size_t>(index)] = slot;
    if (kept != nullptr) kept[std::int64_t{row.place} * max_length + index] = slot;
  }
  FORESIGHTKV_HOST_DEVICE void evict(visited_row const& row, int index, int slot,
                                     row_positions const& positions) const {
    auto const at = wanted.at(row.row) + static_cast<std::size_t>(index);
    if (wanted.evicted != nullptr) wanted.evicted[at] = slot;
    if (wanted.evicted_positions != nullptr) wanted.evicted_positions[at] = positions.at(slot);
    if (evicted != nullptr) evicted[std::int64_t{row.place} * max_length + index] = slot;
  }
};

/// Chooses what goes of every row, writes the lists and the new lengths. A block or a cluster per row, one launch for
/// all.
template <class Chooser>
struct select_kernel {
  static constexpr int threads = Chooser::threads;
  static constexpr int cluster = Chooser::cluster;
  static constexpr bool in_registers = Chooser::keys_type::in_registers;
  enum sync : int { listed = 54, shared_memory_read = 58 };

  Chooser chooser{};
  list_targets lists{};
  std::int32_t* new_lengths = nullptr;  // null: not wanted

  template <class Context>
  struct shared {
    typename Chooser::template shared<Context> choosing;
    std::uint16_t slots[in_registers ? Chooser::keys_type::chunk : 1];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    visited_row const row = chooser.rows.at(c.block() / cluster);
    if (!row.visited()) return;
    select(c, memory, row);
    if constexpr (cluster > 1) c.sync_cluster(shared_memory_read);
  }

 private:
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void select(Context const& c, shared<Context>& memory, visited_row const& row) const {
    row_positions const positions = chooser.rows.positions(row);
    auto own = chooser.keys_of(c, row);
    row_choice const choice = chooser.choose(c, memory.choosing, own, row, positions);
    bool const first = c.rank() == 0 && (cluster == 1 || c.cluster_rank() == 0);
    if (first) lists.write_counts(row, choice);
    if (first) store_length(new_lengths, chooser.rows, row, Chooser::new_length(row, choice));
    if (!choice.storable) return;
    if constexpr (in_registers) {
      block_share const share = chooser.share_of(c, memory.choosing, own, choice);
      chooser.place(c, memory.choosing, own, share.choice, [&](placed_slot at) {
        at.slot -= own.begin;
        add_slot(memory.slots, share.choice, at);
      });
      c.sync(listed);
      lists.write_share(c, row, positions, share, memory.slots);
    } else {
      chooser.place(c, memory.choosing, own, choice, [&](placed_slot const& at) { lists.write(row, positions, at); });
    }
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
