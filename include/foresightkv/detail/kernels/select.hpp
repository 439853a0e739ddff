// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/detail/kernels/row_keys.hpp>
#include <foresightkv/detail/kernels/rows.hpp>
#include <foresightkv/detail/random.hpp>
#include <foresightkv/selection.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// One row of scores as a selector sees it: see detail::archetype::selection_row. All threads make the same calls.
template <class Context, class Keys>
class block_selection {
 public:
  FORESIGHTKV_HOST_DEVICE block_selection(Context const& context, radix_memory<Context>& memory, Keys& keys,
                                          float const* scores, row_positions const& positions, draw_source const& source,
                                          int count, int candidates)
      : context_(context),
        memory_(memory),
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
      keys_.each([](int, std::uint32_t& key) { key = protected_key; });
      return;
    }
    lowest_keys const lowest = find_lowest(context_, memory_, keys_, count);
    rank_ties(context_, memory_, keys_, lowest.threshold, [&](int, std::uint32_t& key, int ties) {
      bool const stays = ties >= 0 ? ties < lowest.ties : key < lowest.threshold;
      if (!stays) key = protected_key;
    });
  }
  template <class Score>
  FORESIGHTKV_HOST_DEVICE void rescore(Score const& score) {
    keys_.each([&](int slot, std::uint32_t& key) {
      if (key != protected_key) key = order_key(score(slot));
    });
  }
  FORESIGHTKV_HOST_DEVICE void evict_lowest(int count) {
    evicted_ = count < 0 ? 0 : smaller(count, candidates_);
    if (evicted_ > 0) lowest_ = find_lowest(context_, memory_, keys_, evicted_);
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int evicted() const { return evicted_; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE lowest_keys lowest() const { return lowest_; }

 private:
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::uint32_t bits(int slot) const {
    return draw(source_.seed, positions_.at(slot), source_.request, source_.model_row, source_.step);
  }

  Context const& context_;
  radix_memory<Context>& memory_;
  Keys& keys_;
  float const* scores_;
  row_positions const& positions_;
  draw_source const& source_;
  int count_;
  int candidates_;
  int evicted_ = 0;
  lowest_keys lowest_{};
};

/// Lists that a select kernel writes: the caller's, and those that the next kernel reads.
struct list_targets {
  selection wanted{};             // by row; any pointer may be null
  std::int32_t* kept = nullptr;   // [place][max_length]
  std::int32_t* evicted = nullptr;
  std::int32_t* evicted_count = nullptr;  // [place]
  std::int32_t* kept_count = nullptr;     // [place] negative: the row stays as it is
  int max_length = 0;

  FORESIGHTKV_HOST_DEVICE void keep(visited_row const& row, int index, int slot) const {
    if (wanted.kept != nullptr) wanted.kept[wanted.at(row.row) + static_cast<std::size_t>(index)] = slot;
    if (kept != nullptr) kept[std::int64_t{row.place} * max_length + index] = slot;
  }
  FORESIGHTKV_HOST_DEVICE void evict(visited_row const& row, int index, int slot, int position) const {
    auto const at = wanted.at(row.row) + static_cast<std::size_t>(index);
    if (wanted.evicted != nullptr) wanted.evicted[at] = slot;
    if (wanted.evicted_positions != nullptr) wanted.evicted_positions[at] = position;
    if (evicted != nullptr) evicted[std::int64_t{row.place} * max_length + index] = slot;
  }
};

/// Chooses what goes of every row, writes the lists and the new lengths. A block per row, one launch for all of them.
/// Threads * Items is a row's chunk; in registers no row may be longer.
template <class Selector, class Budget, bool MovesTokens, int Threads, int Items, bool InRegisters>
struct select_kernel {
  static constexpr int threads = Threads;
  enum sync : int { row_counted, chunk_counted };
  using keys_type = row_keys<Threads, Items, InRegisters>;

  visited_rows rows{};
  eviction_config config{};
  Selector selector{};
  Budget budget{};
  float const* scores = nullptr;  // [place or row][scores_capacity]
  int scores_capacity = 0;
  bool scores_by_row = false;
  std::uint32_t* keys = nullptr;  // [place][max_length], where keys are not in registers
  list_targets lists{};
  std::int32_t* new_lengths = nullptr;  // null: not wanted
  bool compacts = false;                // the next kernel moves tokens

  template <class Context>
  struct shared {
    radix_memory<Context> radix;
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    visited_row const row = rows.at(c.block());
    if (!row.visited()) return;
    if (lists.kept_count != nullptr && c.rank() == 0) lists.kept_count[row.place] = -1;
    row_positions const positions = rows.positions(row);
    float const* const row_scores = part_of(scores, scores_by_row ? row.row : row.place, scores_capacity);
    keys_type own;
    own.memory = part_of(keys, row.place, lists.max_length);
    own.length = row.length;
    own.rank = c.rank();

    counts const found = make_keys(c, memory.radix, own, row_scores, positions);
    int const wanted = found.tokens - budget(config, rows.lengths.shape, row.at);
    if (wanted <= 0) {
      emit(c, memory.radix, own, row, positions, {});
      return finish(c, row, 0, 0, row.length);
    }
    int const count = smaller(wanted, found.candidates);
    if (wanted > found.candidates) flag(c, row, sequence_flag::over_budget);
    draw_source const source = source_of(row);
    block_selection<Context, keys_type> choice(c, memory.radix, own, row_scores, positions, source, count,
                                               found.candidates);
    if (count > 0) selector(choice);
    int const num_kept = found.tokens - choice.evicted();
    if (MovesTokens && num_kept > rows.state.capacity) return flag(c, row, sequence_flag::state_overflow);
    emit(c, memory.radix, own, row, positions, choice.lowest());
    finish(c, row, choice.evicted(), num_kept, MovesTokens ? num_kept : row.length);
  }

 private:
  struct counts {
    int tokens = 0;
    int candidates = 0;
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void flag(Context const& c, visited_row const& row, sequence_flag which) const {
    if (c.rank() == 0) c.raise(rows.state.flags + row.at.sequence, static_cast<std::uint32_t>(which));
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE draw_source source_of(visited_row const& row) const {
    cache_shape const& shape = rows.lengths.shape;
    return {rows.state.seed[row.at.sequence], rows.state.request_id[row.at.sequence],
            model_row(shape.model_layer(row.at.layer), shape.model_kv_heads(), shape.model_kv_head(row.at.kv_head)),
            rows.state.step[row.row]};
  }

  /// Scores in order, with every token that may not go protected.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE counts make_keys(Context const& c, radix_memory<Context>& memory, keys_type& own,
                                           float const* row_scores, row_positions const& positions) const {
    int const protected_from = positions.end(own.length) - config.recent();
    std::uint64_t mine = 0;  // tokens above, candidates below
    own.each([&](int slot, std::uint32_t& key) {
      int const position = positions.at(slot);
      bool const free = position >= config.sink_tokens && position < protected_from;
      key = free ? order_key(row_scores[slot]) : protected_key;
      mine += (position >= 0 ? std::uint64_t{1} << 32 : 0) + (free ? 1u : 0u);
    });
    std::uint64_t all = 0;
    (void)c.exclusive_sum(memory.scan, mine, all);
    c.sync(row_counted);
    return {static_cast<int>(all >> 32), static_cast<int>(all & 0xffffffffu)};
  }

  /// Writes both lists, ascending: what is below the threshold goes, and the first ties of what equals it.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void emit(Context const& c, radix_memory<Context>& memory, keys_type& own,
                                    visited_row const& row, row_positions const& positions, lowest_keys lowest) const {
    constexpr int field = 21;  // bits per counter: a chunk has fewer slots
    constexpr std::uint64_t mask = (std::uint64_t{1} << field) - 1;
    int below = 0, equal = 0, above = 0;
    for (int first = 0; first < own.length; first += keys_type::chunk) {
      std::uint64_t mine = 0;
      own.in_chunk(first, [&](int slot, std::uint32_t key) {
        if (key < lowest.threshold)
          mine += 1;
        else if (key == lowest.threshold && lowest.ties > 0)
          mine += std::uint64_t{1} << field;
        else if (positions.at(slot) >= 0)
          mine += std::uint64_t{1} << 2 * field;
      });
      std::uint64_t all = 0;
      std::uint64_t const before = c.exclusive_sum(memory.scan, mine, all);
      c.sync(chunk_counted);
      int b = below + static_cast<int>(before & mask);
      int e = equal + static_cast<int>(before >> field & mask);
      int a = above + static_cast<int>(before >> 2 * field);
      own.in_chunk(first, [&](int slot, std::uint32_t key) {
        int const position = positions.at(slot);
        bool const tie = key == lowest.threshold && lowest.ties > 0;
        bool const lower = key < lowest.threshold;
        if (lower || (tie && e < lowest.ties))
          lists.evict(row, b + smaller(e, lowest.ties), slot, position);
        else if (tie || position >= 0)
          lists.keep(row, a + (e > lowest.ties ? e - lowest.ties : 0), slot);
        b += lower;
        e += tie;
        a += !lower && !tie && position >= 0;
      });
      below += static_cast<int>(all & mask);
      equal += static_cast<int>(all >> field & mask);
      above += static_cast<int>(all >> 2 * field);
    }
  }

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void finish(Context const& c, visited_row const& row, int num_evicted, int num_kept,
                                      int new_length) const {
    if (c.rank() != 0) return;
    if (lists.wanted.evicted_count != nullptr) lists.wanted.evicted_count[row.row] = num_evicted;
    if (lists.evicted_count != nullptr) lists.evicted_count[row.place] = num_evicted;
    if (lists.kept_count != nullptr && compacts && num_evicted > 0) lists.kept_count[row.place] = num_kept;
    store_length(new_lengths, rows.lengths, row, new_length);
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
