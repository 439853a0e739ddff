// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include <foresightkv/golden/eviction.hpp>
#include <foresightkv/training/feature_replay.hpp>

#include "support/random.hpp"
#include "support/red_zone.hpp"

namespace testing {

namespace fkv = foresightkv;

/// A random recorded layer with judges for it, what golden says of it, and room for what its replay writes.
template <class Element = float>
struct replay_problem {
  static constexpr int kv_heads = 2, group = 3, key_dim = 12, value_dim = 5, tokens = 150;

  fkv::training::replay_config config;
  std::vector<Element> queries, keys, values;
  std::vector<float> weights, future;
  int future_rows = 0;

  explicit replay_problem(fkv::training::replay_config const& given, std::uint64_t seed) : config(given) {
    random_source random(seed);
    queries.resize(size(kv_heads * group, tokens, key_dim));
    keys.resize(size(kv_heads, tokens, key_dim));
    values.resize(size(kv_heads, tokens, value_dim));
    random.fill_normal<Element>(queries, 1.5f);
    random.fill_normal<Element>(keys);
    random.fill_normal<Element>(values);
    weights.resize(static_cast<std::size_t>(kv_heads) * layer().shape().head_floats());
    random.fill_normal<float>(weights, 0.2f);
    solve();
  }

  template <class... Extents>
  static std::size_t size(Extents... extents) {
    return (static_cast<std::size_t>(extents) * ... * std::size_t{1});
  }

  [[nodiscard]] fkv::training::recorded_layer<Element> layer() const {
    return {.queries = queries.data(),
            .keys = keys.data(),
            .values = values.data(),
            .kv_heads = kv_heads,
            .group = group,
            .tokens = tokens,
            .key_head_dim = key_dim,
            .value_head_dim = value_dim,
            .layer = 3};
  }
  [[nodiscard]] fkv::training::future_scores future_view() const { return {future.data(), future_rows, tokens, 2}; }
  [[nodiscard]] fkv::golden_input<Element> golden_input() const {
    fkv::golden_input<Element> input;
    input.queries = queries.data();
    input.keys = keys.data();
    input.shape = {kv_heads, group, tokens, key_dim};
    return input;
  }

 private:
  void solve() {
    int const interval = config.eviction.interval;
    fkv::golden_config const golden{.budget = interval, .interval = interval};
    future_rows = golden.steps(tokens);
    future.resize(size(kv_heads, future_rows, tokens));
    std::vector<std::byte> memory(fkv::golden_eviction_bytes(fkv::host, golden, golden_input().shape));
    REQUIRE(fkv::golden_eviction(fkv::host, golden, golden_input(), {.future = future.data()},
                                 {memory.data(), memory.size()})
                .ok());
  }
};

/// What a replay writes, in guarded memory of exactly the right size.
struct replay_rows {
  guarded<std::int32_t> positions, evicted, evicted_positions;
  guarded<float> statistics, labels;

  template <class Problem>
  explicit replay_rows(Problem const& given)
      : positions(candidates(given)),
        evicted(evictions(given)),
        evicted_positions(evictions(given)),
        statistics(candidates(given) * static_cast<std::size_t>(8 * given.group)),
        labels(candidates(given)) {}

  [[nodiscard]] fkv::training::replay_output view() {
    return {positions.data(), statistics.data(), labels.data(), evicted.data(), evicted_positions.data()};
  }
  [[nodiscard]] bool intact() const {
    return positions.intact() && evicted.intact() && evicted_positions.intact() && statistics.intact() &&
           labels.intact();
  }
  [[nodiscard]] bool same(replay_rows const& other) const {
    return positions.same_bytes(other.positions) && evicted.same_bytes(other.evicted) &&
           evicted_positions.same_bytes(other.evicted_positions) && statistics.same_bytes(other.statistics) &&
           labels.same_bytes(other.labels);
  }

 private:
  template <class Problem>
  static std::size_t candidates(Problem const& given) {
    return static_cast<std::size_t>(given.kv_heads) * given.config.candidates_before(given.config.steps(given.tokens));
  }
  template <class Problem>
  static std::size_t evictions(Problem const& given) {
    return static_cast<std::size_t>(given.kv_heads) * given.config.evictions_before(given.config.steps(given.tokens));
  }
};

/// Replays a problem with exactly the workspace that it asks for.
template <class Features, class Problem>
replay_rows replayed(Problem const& given, fkv::training::replay_guide const& guide,
                     fkv::host_execution exec = fkv::host) {
  replay_rows rows(given);
  guarded<std::byte> memory(fkv::training::feature_replay_bytes<Features>(exec, given.config, given.layer()));
  auto const done = fkv::training::feature_replay<Features>(exec, given.config, given.layer(), given.future_view(),
                                                            guide, rows.view(), {memory.data(), memory.size()});
  REQUIRE(done.ok());
  CHECK(memory.intact());
  CHECK(rows.intact());
  return rows;
}

}  // namespace testing
