// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <foresightkv/detail/kernels/dot_tile.hpp>
#include <foresightkv/detail/kernels/rows.hpp>
#include <foresightkv/detail/window.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// Base-2 exponent of a logit under a rule; `product` is query . key.
FORESIGHTKV_HOST_DEVICE inline float exponent_of(softmax_rule const& rule, float product) {
  if (rule.soft_cap > 0.0f) product = rule.soft_cap * tanhf(product * rule.scale / rule.soft_cap);
  return product * rule.multiply;
}

/// What both passes over a window share: its queries, the keys that they meet, and who sees whom.
template <class Cache, class Query, log_base Base>
struct window_pass {
  visited_rows rows{};
  Cache cache{};
  observation<Query, Base> window{};

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE cache_shape const& shape() const { return rows.lengths.shape; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int query_head(visited_row const& row, int j) const {
    return row.at.kv_head * shape().group + j;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE window_place place(visited_row const& row, row_positions const& positions) const {
    return place_window(window, row.at.sequence, positions.end(row.length));
  }
  /// Base-2 log-sum-exps that were not handed over: [place][j][max_queries].
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::int64_t lse_place(visited_row const& row, int j) const {
    return (std::int64_t{row.place} * shape().group + j) * window.max_queries;
  }
};

/// Log-sum-exp of every query of a window, base 2: one query per thread, keys stream by. NaN for a masked query.
template <class Cache, class Query, log_base Base>
struct lse_kernel {
  static constexpr int threads = 128;
  enum sync : int { looked_up = 16 };

  window_pass<Cache, Query, Base> pass{};
  float* lse = nullptr;  // [place][j][max_queries]

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int tiles() const { return divide_up(pass.window.max_queries, threads); }

  template <class Context>
  struct shared {
    dot_tile::shared<Context::threads> tile;
    int position[dot_tile::width];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    int const group = pass.shape().group;
    int const first = c.block() % tiles() * threads;
    int const j = c.block() / tiles() % group;
    visited_row const row = pass.rows.at(c.block() / tiles() / group);
    if (!row.visited()) return;
    row_positions const positions = pass.rows.positions(row);
    window_place const place = pass.place(row, positions);
    if (first >= place.count) return;
    int const head = pass.query_head(row, j);
    softmax_rule const rule = softmax_rule_of(pass.window, pass.cache, row.at);
    auto const query_at = [&](int i) -> Query const* {
      return first + i < place.count ? pass.window.query(row.at, head, first + i) : nullptr;
    };
    int const position = place.first + first + c.rank();
    float largest = -3e38f;  // finite, so that no exponent is infinity less infinity
    float total = 0.0f;
    for (int key = 0; key < row.length; key += dot_tile::width) {
      int const count = row.length - key < dot_tile::width ? row.length - key : dot_tile::width;
      float x[dot_tile::width];
      dot_tile::multiply(c, memory.tile, pass.shape().key_head_dim, query_at, count,
                         [&](int i) { return pass.cache.key(row.at, key + i); }, x);
      if (c.rank() < count) memory.position[c.rank()] = positions.at(key + c.rank());
      c.sync(looked_up);
      float peak = largest;
      for (int i = 0; i < dot_tile::width; ++i) {
        bool const seen = i < count && memory.position[i] >= 0 && memory.position[i] <= position;
        x[i] = seen ? exponent_of(rule, x[i]) : -HUGE_VALF;
        peak = x[i] > peak ? x[i] : peak;
      }
      total *= exp2f(largest - peak);
      for (int i = 0; i < dot_tile::width; ++i) total += exp2f(x[i] - peak);
      largest = peak;
    }
    if (first + c.rank() >= place.count) return;
    bool const empty = !(total > 0.0f);
    if (pass.window.sink_logits != nullptr) {
      float const sink =
          pass.window.sink_logits[std::int64_t{row.at.layer} * pass.shape().num_kv_heads * group + head] * log2_e;
      float const peak = sink > largest ? sink : largest;
      total = total * exp2f(largest - peak) + exp2f(sink - peak);
      largest = peak;
    }
    bool const masked = empty || !is_finite(total) || !is_finite(largest);
    lse[pass.lse_place(row, j) + first + c.rank()] = masked ? bits_float(0x7fc00000u) : largest + log2f(total);
  }
};

/// Running values of a list of statistics for one (token, query head).
template <class List>
struct folds;
template <class... Statistics>
struct folds<statistics<Statistics...>> {
  static constexpr int size = static_cast<int>(sizeof...(Statistics));
  float value[size > 0 ? size : 1] = {Statistics::initial...};

  FORESIGHTKV_HOST_DEVICE void fold(float probability, int age) {
    [[maybe_unused]] int place = 0;
    ((value[place] = age < horizon<Statistics>() ? Statistics::fold(value[place], probability, age) : value[place],
      ++place),
     ...);
  }
};

/// Statistics of a window's attention to every token: one token per thread, queries stream by, oldest first.
template <class List, class Cache, class Query, log_base Base>
struct observe_kernel {
  static constexpr int threads = 128;
  enum sync : int { looked_up = 16 };

  window_pass<Cache, Query, Base> pass{};
  float const* lse = nullptr;  // as lse_kernel writes it; null where the window brings its own
  float* out = nullptr;        // [place or row][out_capacity][List][group]
  int out_capacity = 0;
  bool by_row = false;  // out is indexed by row, not by place
  int max_length = 0;

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int tiles() const { return divide_up(max_length, threads); }

  template <class Context>
  struct shared {
    dot_tile::shared<Context::threads> tile;
    float lse[dot_tile::width];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    int const group = pass.shape().group;
    int const first = c.block() % tiles() * threads;
    int const j = c.block() / tiles() % group;
    visited_row const row = pass.rows.at(c.block() / tiles() / group);
    if (!row.visited() || first >= row.length) return;
    int const slot = first + c.rank();
    row_positions const positions = pass.rows.positions(row);
    int const position = slot < row.length ? positions.at(slot) : -1;
    float* const target = part_of(out, by_row ? row.row : row.place, std::int64_t{out_capacity} * List::size * group) +
                          std::int64_t{slot} * List::size * group + j;
    window_place const place = pass.place(row, positions);
    if (place.count == 0) {
      if (!pass.window.continues && slot < row.length)
        for (int s = 0; s < List::size; ++s) target[s * group] = 0.0f;
      return;
    }
    folds<List> running;
    if (pass.window.continues && slot < row.length) resume(running, target, position, place, group);
    fold_window(c, memory, row, j, first, position, place, running);
    if (slot < row.length)
      for (int s = 0; s < List::size; ++s) target[s * group] = running.value[s];
  }

 private:
  /// A token that comes after all earlier queries got 0 from them, and nobody may have written that down.
  FORESIGHTKV_HOST_DEVICE static void resume(folds<List>& running, float const* earlier, int position,
                                             window_place const& place, int group) {
    running.fold(0.0f, place.end - place.first);
    if (position >= place.first) return;
    for (int s = 0; s < List::size; ++s) running.value[s] = earlier[s * group];
  }

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void fold_window(Context const& c, shared<Context>& memory, visited_row const& row, int j,
                                           int first, int position, window_place const& place,
                                           folds<List>& running) const {
    int const head = pass.query_head(row, j);
    softmax_rule const rule = softmax_rule_of(pass.window, pass.cache, row.at);
    auto const key_at = [&](int i) -> typename Cache::element_type const* {
      return first + i < row.length ? pass.cache.key(row.at, first + i) : nullptr;
    };
    for (int query = 0; query < place.count; query += dot_tile::width) {
      int const count = place.count - query < dot_tile::width ? place.count - query : dot_tile::width;
      float x[dot_tile::width];
      dot_tile::multiply(c, memory.tile, pass.shape().key_head_dim, key_at, count,
                         [&](int i) { return pass.window.query(row.at, head, query + i); }, x);
      if (c.rank() < count) memory.lse[c.rank()] = log_sum(row, j, head, query + c.rank());
      c.sync(looked_up);
      for (int i = 0; i < count; ++i) {
        int const asked = place.first + query + i;
        bool const seen = position >= 0 && position <= asked && is_finite(memory.lse[i]);
        running.fold(seen ? exp2f(exponent_of(rule, x[i]) - memory.lse[i]) : 0.0f, place.end - 1 - asked);
      }
    }
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float log_sum(visited_row const& row, int j, int head, int query) const {
    if (lse != nullptr) return lse[pass.lse_place(row, j) + query];
    float const given = pass.window.log_sum_exp(row.at, head, query);
    return Base == log_base::natural ? given * log2_e : given;
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
