// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <foresightkv/detail/kernels/dot_tile.hpp>
#include <foresightkv/detail/kernels/rows.hpp>
#include <foresightkv/detail/window.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// Base-2 exponent of a logit under a rule; `product` is query . key.
FORESIGHTKV_HOST_DEVICE inline float exponent_of(softmax_rule const& rule, float product) {
  if (rule.soft_cap > 0.0f) product = rule.soft_cap * tanhf(product * rule.scale / rule.soft_cap);
  return rounded_product(product, rule.multiply);
}

/// Sum of base-2 exponentials, less their largest exponent.
struct exponent_sum {
  float largest = lowest_float;
  float total = 0.0f;

  FORESIGHTKV_HOST_DEVICE void add(exponent_sum other) {
    float const peak = other.largest > largest ? other.largest : largest;
    total = total * exp2f(largest - peak) + other.total * exp2f(other.largest - peak);
    largest = peak;
  }
};

/// Log-sum-exps that a call computes itself: [place][split][group][max_queries]. Of a window of few queries a block
/// sums a part of a row's keys, so that there are blocks enough for a device. How many follows from the host's bounds
/// alone.
struct window_sums {
  static constexpr int most_splits = 4;
  static constexpr int least_keys = 384;
  static constexpr int few_queries = 512;

  exponent_sum* data = nullptr;
  int max_length = 0;
  int max_queries = 0;

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static int splits(int max_length, int max_queries) {
    return max_queries > few_queries ? 1 : smaller(divide_up(max_length, least_keys), most_splits);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int splits() const { return splits(max_length, max_queries); }
  /// Sums of one query head, of a window of up to so many queries: a smaller one may take more.
  [[nodiscard]] static std::int64_t most_sums(int max_length, int max_queries) {
    int const few = smaller(max_queries, few_queries);
    std::int64_t const split = std::int64_t{splits(max_length, few)} * few;
    return split > max_queries ? split : max_queries;
  }
  /// A multiple of every tile.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int keys_per_split() const {
    return divide_up(divide_up(max_length, splits()), 64) * 64;
  }
};

/// What all passes over a window share: its queries, the keys that they meet, and who sees whom.
template <class Cache, class Query, log_base Base>
struct window_pass {
  using cache_type = Cache;
  using query_type = Query;

  visited_rows rows{};
  Cache cache{};
  observation<Query, Base> window{};
  window_sums sums{};                   // where the window brings no log-sum-exp
  std::int32_t const* begun = nullptr;  // [max_count] of a window that continues: whether it has had a query before

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE cache_shape const& shape() const { return rows.shape; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int query_head(visited_row const& row, int j) const {
    return row.at.kv_head * shape().group + j;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE window_place place(visited_row const& row,
                                                           row_positions const& positions) const {
    return place_window(window, row.at.sequence, positions.end(row.length));
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE bool has_begun(visited_row const& row) const {
    return begun[row.place / rows.per_sequence()] != 0;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE exponent_sum& sum(visited_row const& row, int split, int j, int query) const {
    std::int64_t const part = (std::int64_t{row.place} * sums.splits() + split) * shape().group + j;
    return sums.data[part * window.max_queries + query];
  }

  /// Leaves the sum of a query, and says so of its sequence if it is no number.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void store_sum(Context const& c, visited_row const& row, int split, int j, int query,
                                         exponent_sum const& found) const {
    sum(row, split, j, query) = found;
    if (!is_finite(found.total) && !rows.state.empty())
      c.raise(rows.state.flags + row.at.sequence, static_cast<std::uint32_t>(sequence_flag::not_finite));
  }

  /// Log-sum-exp of a query, base 2. Not finite for a masked one.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float log_sum(visited_row const& row, int j, int query) const {
    if (sums.data == nullptr) {
      float const given = window.log_sum_exp(row.at, query_head(row, j), query);
      return Base == log_base::natural ? given * log2_e : given;
    }
    exponent_sum all;
    for (int split = 0; split < sums.splits(); ++split) all.add(sum(row, split, j, query));
    if (!(all.total > 0.0f)) return bits_float(0x7fc00000u);
    if (window.sink_logits != nullptr) {
      auto const layer = std::int64_t{row.at.layer} * shape().num_kv_heads * shape().group;
      all.add({window.sink_logits[layer + query_head(row, j)] * log2_e, 1.0f});
    }
    return is_finite(all.largest) ? all.largest + log2f(all.total) : bits_float(0x7fc00000u);
  }
};

/// Sums for the log-sum-exp of every query of a window: one query per thread, keys stream by.
template <class Cache, class Query, log_base Base>
struct lse_kernel {
  static constexpr int threads = 128;
  enum sync : int { looked_up = 16 };

  window_pass<Cache, Query, Base> pass{};

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int tiles() const { return divide_up(pass.window.max_queries, threads); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int blocks_per_row() const {
    return tiles() * pass.shape().group * pass.sums.splits();
  }

  template <class Context>
  struct shared {
    dot_tile::shared<Context::threads> tile;
    int position[dot_tile::width];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    int const first = c.block() % tiles() * threads;
    int const j = c.block() / tiles() % pass.shape().group;
    int const split = c.block() / (tiles() * pass.shape().group) % pass.sums.splits();
    visited_row const row = pass.rows.at(c.block() / blocks_per_row());
    if (!row.visited()) return;
    row_positions const positions = pass.rows.positions(row);
    window_place const place = pass.place(row, positions);
    if (first >= place.count) return;
    int const head = pass.query_head(row, j);
    softmax_rule const rule = softmax_rule_of(pass.window, pass.cache, row.at);
    auto const keys = pass.cache.keys(row.at);
    auto const* const of_row = pass.window.queries_of(row.at);
    auto const query_at = [&](int i) -> Query const* {
      return first + i < place.count ? pass.window.query(of_row, head, first + i) : nullptr;
    };
    int const position = place.first + first + c.rank();
    int const end = smaller(row.length, (split + 1) * pass.sums.keys_per_split());
    exponent_sum all;
    for (int key = split * pass.sums.keys_per_split(); key < end; key += dot_tile::width) {
      int const count = smaller(end - key, dot_tile::width);
      float x[dot_tile::width];
      dot_tile::multiply(
          c, memory.tile, pass.shape().key_head_dim, query_at, count, [&](int i) { return keys.at(key + i); }, x);
      if (c.rank() < count) memory.position[c.rank()] = positions.at(key + c.rank());
      c.sync(looked_up);
      float peak = all.largest;
      for (int i = 0; i < dot_tile::width; ++i) {
        bool const seen = i < count && memory.position[i] >= 0 && memory.position[i] <= position;
        x[i] = seen ? exponent_of(rule, x[i] * token_scale(keys, key + i)) : -HUGE_VALF;
        peak = x[i] > peak ? x[i] : peak;
      }
      all.total *= exp2f(all.largest - peak);
      for (int i = 0; i < dot_tile::width; ++i) all.total += exp2f(x[i] - peak);
      all.largest = peak;
    }
    if (first + c.rank() < place.count) pass.store_sum(c, row, split, j, first + c.rank(), all);
  }
};

/// Running values of a list of statistics for one (token, query head).
template <class List>
struct folds;
template <class... Statistics>
struct folds<statistics<Statistics...>> {
  static constexpr int size = static_cast<int>(sizeof...(Statistics));
  static constexpr bool mergeable = (mergeable_statistic<Statistics> && ...);
  /// Queries of this age and older are all the same to the list.
  static constexpr int longest_horizon = [] {
    int longest = 0;
    ((longest = horizon<Statistics>() != no_limit && horizon<Statistics>() > longest ? horizon<Statistics>() : longest),
     ...);
    return longest;
  }();
  float value[size > 0 ? size : 1] = {Statistics::initial...};

  FORESIGHTKV_HOST_DEVICE void fold(float probability, int age) {
    [[maybe_unused]] int place = 0;
    ((value[place] = age < horizon<Statistics>() ? Statistics::fold(value[place], probability, age) : value[place],
      ++place),
     ...);
  }
  /// The same for a query that is older than every horizon.
  FORESIGHTKV_HOST_DEVICE void fold_old(float probability, int age) {
    [[maybe_unused]] int place = 0;
    ((value[place] =
          horizon<Statistics>() == no_limit ? Statistics::fold(value[place], probability, age) : value[place],
      ++place),
     ...);
  }
  FORESIGHTKV_HOST_DEVICE void merge(folds const& other) {
    [[maybe_unused]] int place = 0;
    ((value[place] = Statistics::merge(value[place], other.value[place]), ++place), ...);
  }
};

/// Observed window statistics of the rows of a call.
template <class Value>
struct statistics_rows {
  Value* data = nullptr;  // [place or row][capacity][window list][group]
  int capacity = 0;
  bool by_row = false;

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE Value* of(visited_row const& row, int width) const {
    return part_of(data, by_row ? row.row : row.place, std::int64_t{capacity} * width);
  }
};
using observed_rows = statistics_rows<float const>;

/// A chunk of a window begins with what earlier ones left, if they had a query. A token that comes after all of those
/// got 0 from them, and nobody may have written that down.
template <class List>
FORESIGHTKV_HOST_DEVICE folds<List> earlier_folds(bool begun, float const* earlier, int position,
                                                  window_place const& place, int group) {
  folds<List> found;
  if (!begun) return found;
  found.fold(0.0f, place.end - place.first);
  if (position >= place.first) return found;
  for (int s = 0; s < List::size; ++s) found.value[s] = earlier[s * group];
  return found;
}

/// Statistics of a window's attention to every token, whatever the types, the dimension and the fold: one token per
/// thread, queries stream by, oldest first. A block has a tile of tokens, all query heads, and what comes after.
template <class List, class Cache, class Query, log_base Base, class After>
struct observe_kernel {
  static constexpr int threads = 128;
  enum sync : int { looked_up = 16, observed };

  window_pass<Cache, Query, Base> pass{};
  statistics_rows<float> out{};
  After after{};
  int max_length = 0;

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int tiles() const { return divide_up(max_length, threads); }

  template <class Context>
  struct shared {
    dot_tile::shared<Context::threads> tile;
    float lse[dot_tile::width];
    typename After::template shared<Context> after;
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    int const group = pass.shape().group;
    int const first = c.block() % tiles() * threads;
    visited_row const row = pass.rows.at(c.block() / tiles());
    if (!row.visited() || first >= row.length) return;
    int const slot = first + c.rank();
    row_positions const positions = pass.rows.positions(row);
    int const position = slot < row.length ? positions.at(slot) : -1;
    float* const token = out.of(row, List::size * group) + std::int64_t{slot} * List::size * group;
    window_place const place = pass.place(row, positions);
    for (int j = 0; j < group; ++j) {
      folds<List> running;
      if (pass.window.continues && slot < row.length)
        running = earlier_folds<List>(pass.has_begun(row), token + j, position, place, group);
      fold_window(c, memory, row, j, first, position, place, running);
      bool const untouched = place.count == 0 && pass.window.continues && position < place.first;
      bool const begun = place.count > 0 || (pass.window.continues && pass.has_begun(row));
      for (int s = 0; s < List::size && slot < row.length && !untouched; ++s)
        store_or_mark(begun, running.value[s], token + s * group + j);
    }
    if constexpr (!std::same_as<After, no_stage>) c.sync(observed);
    after(c, memory.after, row, first, smaller(first + threads, row.length));
  }

 private:
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void fold_window(Context const& c, shared<Context>& memory, visited_row const& row, int j,
                                           int first, int position, window_place const& place,
                                           folds<List>& running) const {
    int const head = pass.query_head(row, j);
    softmax_rule const rule = softmax_rule_of(pass.window, pass.cache, row.at);
    auto const keys = pass.cache.keys(row.at);
    auto const* const of_row = pass.window.queries_of(row.at);
    float const scale = position >= 0 ? token_scale(keys, first + c.rank()) : 0.0f;
    auto const key_at = [&](int i) -> key_element<Cache> const* {
      return first + i < row.length ? keys.at(first + i) : nullptr;
    };
    for (int query = 0; query < place.count; query += dot_tile::width) {
      int const count = smaller(place.count - query, dot_tile::width);
      float x[dot_tile::width];
      dot_tile::multiply(
          c, memory.tile, pass.shape().key_head_dim, key_at, count,
          [&](int i) { return pass.window.query(of_row, head, query + i); }, x);
      if (c.rank() < count) memory.lse[c.rank()] = pass.log_sum(row, j, query + c.rank());
      c.sync(looked_up);
      for (int i = 0; i < count; ++i) {
        int const asked = place.first + query + i;
        bool const seen = position >= 0 && position <= asked && is_finite(memory.lse[i]);
        running.fold(seen ? exp2f(exponent_of(rule, x[i] * scale) - memory.lse[i]) : 0.0f, place.end - 1 - asked);
      }
    }
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
