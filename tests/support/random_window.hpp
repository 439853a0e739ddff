// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/harness.hpp"
#include "support/oracle.hpp"

namespace testing {

/// Extents that vector loops may trip over.
inline fkv::cache_shape random_shape(random_source& random, int capacity) {
  fkv::cache_shape shape;
  shape.num_layers = random.integer(1, 2);
  shape.num_sequences = random.integer(1, 3);
  shape.num_kv_heads = random.integer(1, 3);
  shape.group = random.integer(1, 16);
  shape.key_head_dim = random.chance(0.2) ? random.integer(129, 260) : random.integer(1, 128);
  shape.value_head_dim = random.integer(1, 70);
  shape.capacity = capacity;
  return shape;
}

/// Positions of a row from which tokens were evicted: `ordered` ones ascend, others stand where a hole was;
/// some slots are empty if `holes`. All are below 3 times their number.
inline void random_positions(random_source& random, bool ordered, bool holes, std::vector<int>& positions) {
  int next = -1;
  for (int& position : positions) position = next += random.integer(1, 3);
  if (!ordered)
    for (std::size_t i = positions.size(); i > 1; --i)
      if (random.chance(0.4))
        std::swap(positions[i - 1], positions[static_cast<std::size_t>(random.integer(0, static_cast<int>(i) - 1))]);
  if (holes)
    for (int& position : positions)
      if (random.chance(0.15)) position = -1;
}

/// A row of a cache in double precision.
template <class Cache>
oracle::row oracle_row(Cache const& cache, fkv::row_index at, std::vector<int> const& positions) {
  oracle::row made;
  made.position = positions;
  for (int slot = 0; slot < static_cast<int>(positions.size()); ++slot) {
    auto const* const key = cache.key(at, slot);
    auto const* const value = cache.value(at, slot);
    oracle::numbers wide_key, wide_value;
    for (int d = 0; d < cache.shape().key_head_dim; ++d) wide_key.push_back(fkv::to_float(key[d]));
    for (int d = 0; d < cache.shape().value_head_dim; ++d) wide_value.push_back(fkv::to_float(value[d]));
    made.key.push_back(std::move(wide_key));
    made.value.push_back(std::move(wide_value));
  }
  return made;
}

/// The memory behind a window of queries: every array that an observation can have.
template <class Query, fkv::log_base Base = fkv::log_base::natural>
struct owned_window {
  fkv::cache_shape shape{};
  int max_queries = 0;
  bool head_first = true;
  guarded<Query> queries;
  guarded<float> lse, sinks;
  guarded<std::int32_t> query_count, window_end, first_position;
  float scale = 0.0f;
  float soft_cap = 0.0f;
  bool has_lse = false, has_sinks = false, has_counts = false, has_end = false, has_first = false;

  owned_window() = default;
  owned_window(fkv::cache_shape const& extents, int most, bool heads_first, random_source& random)
      : shape(extents),
        max_queries(most),
        head_first(heads_first),
        queries(rows() * static_cast<std::size_t>(shape.key_head_dim)),
        lse(rows()),
        sinks(static_cast<std::size_t>(shape.num_layers * heads())),
        query_count(static_cast<std::size_t>(shape.num_sequences), most),
        window_end(static_cast<std::size_t>(shape.num_sequences), -1),
        first_position(static_cast<std::size_t>(shape.num_sequences), -1) {
    random.fill_normal<Query>(queries, 1.5f);
    for (float& value : sinks) value = 2.0f * random.normal();
  }

  [[nodiscard]] int heads() const { return shape.num_kv_heads * shape.group; }
  [[nodiscard]] fkv::observation<Query, Base> view() const {
    using view_type = fkv::observation<Query, Base>;
    auto made = head_first ? view_type::hnd(queries.data(), shape, max_queries)
                           : view_type::nhd(queries.data(), shape, max_queries);
    if (has_lse) made = made.with_lse(lse.data());
    if (has_sinks) made.sink_logits = sinks.data();
    if (has_counts) made.query_count = query_count.data();
    if (has_end) made.window_end = window_end.data();
    if (has_first) made.first_position = first_position.data();
    made.softmax_scale = scale;
    made.soft_cap = soft_cap;
    return made;
  }

  [[nodiscard]] int count(int sequence) const {
    return has_counts ? query_count[static_cast<std::size_t>(sequence)] : max_queries;
  }
  [[nodiscard]] int end(int sequence, int row_end) const {
    return has_end ? window_end[static_cast<std::size_t>(sequence)] : row_end;
  }
  [[nodiscard]] int first(int sequence, int row_end) const {
    return has_first ? first_position[static_cast<std::size_t>(sequence)] : end(sequence, row_end) - count(sequence);
  }

  [[nodiscard]] oracle::attention_rule rule(fkv::row_index at, int j) const {
    oracle::attention_rule made;
    made.scale = scale > 0.0f ? double{scale} : 1.0 / std::sqrt(static_cast<double>(shape.key_head_dim));
    made.soft_cap = soft_cap;
    if (has_sinks) made.sink = sinks[static_cast<std::size_t>(at.layer * heads() + at.kv_head * shape.group + j)];
    return made;
  }
  [[nodiscard]] oracle::numbers query(fkv::row_index at, int j, int r) const {
    Query const* const from = view().query(at, at.kv_head * shape.group + j, r);
    oracle::numbers wide;
    for (int d = 0; d < shape.key_head_dim; ++d) wide.push_back(fkv::to_float(from[d]));
    return wide;
  }
  /// Where the log-sum-exp of a query stands, whether or not the view shows it.
  [[nodiscard]] float& log_sum(fkv::row_index at, int j, int r) {
    int const head = at.kv_head * shape.group + j;
    auto const block = static_cast<std::size_t>(at.layer * shape.num_sequences + at.sequence);
    auto const all = static_cast<std::size_t>(heads());
    auto const most = static_cast<std::size_t>(max_queries);
    auto const inside = head_first ? static_cast<std::size_t>(head) * most + static_cast<std::size_t>(r)
                                   : static_cast<std::size_t>(r) * all + static_cast<std::size_t>(head);
    return lse[block * all * most + inside];
  }

  /// Computes the log-sum-exps of a row's window, and masks some of its queries.
  void fill_lse(fkv::row_index at, oracle::row const& tokens, int row_end, double masked, random_source& random) {
    constexpr double bits_per_nat = 1.4426950408889634074;
    float const bad[] = {std::nanf(""), HUGE_VALF, -HUGE_VALF};
    for (int j = 0; j < shape.group; ++j)
      for (int r = 0; r < count(at.sequence); ++r) {
        double const exact = oracle::log_sum_exp(rule(at, j), tokens, query(at, j, r), first(at.sequence, row_end) + r);
        double const based = Base == fkv::log_base::two ? exact * bits_per_nat : exact;
        log_sum(at, j, r) = random.chance(masked) ? bad[random.integer(0, 2)] : static_cast<float>(based);
      }
  }

  /// What one query head saw: the oracle's window. A query whose log-sum-exp is given as not finite is
  /// masked.
  [[nodiscard]] oracle::window seen(fkv::row_index at, int j, oracle::row const& tokens, int row_end) {
    oracle::window made;
    made.end = end(at.sequence, row_end);
    for (int r = 0; r < count(at.sequence); ++r) {
      int const position = first(at.sequence, row_end) + r;
      auto const wide = query(at, j, r);
      bool const masked = has_lse && !oracle::finite(log_sum(at, j, r));
      double const sum = masked ? -HUGE_VAL : oracle::log_sum_exp(rule(at, j), tokens, wide, position);
      made.position.push_back(position);
      made.probability.push_back(oracle::attend(rule(at, j), tokens, wide, position, sum));
    }
    return made;
  }
  [[nodiscard]] bool intact() const {
    return queries.intact() && lse.intact() && sinks.intact() && query_count.intact() && window_end.intact() &&
           first_position.intact();
  }

 private:
  [[nodiscard]] std::size_t rows() const {
    return static_cast<std::size_t>(shape.num_layers * shape.num_sequences * heads()) *
           static_cast<std::size_t>(max_queries);
  }
};

}  // namespace testing
