// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "support/device_timing.cuh"

namespace benchmarks {

/// Rows of scores alone. Axes: rows, tokens, evicted, levels: how many different scores there are, 0 for random ones.
struct score_axes {
  int rows, tokens, evicted, levels;

  explicit score_axes(benchmark::State const& state)
      : rows(static_cast<int>(state.range(0))),
        tokens(static_cast<int>(state.range(1))),
        evicted(static_cast<int>(state.range(2))),
        levels(static_cast<int>(state.range(3))) {}

  [[nodiscard]] int kept() const { return tokens - evicted; }
  [[nodiscard]] std::size_t cells() const { return static_cast<std::size_t>(rows) * static_cast<std::size_t>(tokens); }
};

inline void score_sweep(benchmark::internal::Benchmark* run) {
  run->ArgNames({"rows", "tokens", "evicted", "levels"});
  for (int tokens : {256, 1024, 1152, 4096, 16384, 65536, 131072}) run->Args({288, tokens, 128, 0});
  for (int rows : {8, 64, 4608})
    for (int tokens : {1152, 16384, 131072}) run->Args({rows, tokens, 128, 0});
  for (int tokens : {1152, 16384, 131072}) {
    for (int levels : {8, 1}) run->Args({288, tokens, 128, levels});
    for (int part : {8, 2}) run->Args({288, tokens, tokens / part, 0});
  }
  one_measurement(run);
}

/// One eviction's shape.
inline void score_corner(benchmark::internal::Benchmark* run) {
  run->ArgNames({"rows", "tokens", "evicted", "levels"});
  run->Args({288, 1152, 128, 0});
  one_measurement(run);
}

/// Scores on the device.
class score_rows {
 public:
  explicit score_rows(score_axes const& extents) : scores_(extents.cells()) {
    if (extents.levels == 0) {
      scores_.fill_normal();
    } else {
      testing::random_source random(1);
      std::vector<float> block((std::size_t{1} << 20) - 3);
      for (float& score : block) score = static_cast<float>(random.integer(0, extents.levels - 1));
      scores_.fill(device_buffer<float>(block));
    }
  }
  [[nodiscard]] float* data() const { return scores_.data(); }

 private:
  device_buffer<float> scores_;
};

/// Settings of a selection, enough for cold caches as far as there are rows enough.
template <class Setting>
std::vector<Setting> cold_rows(score_axes const& extents) {
  std::vector<Setting> all;
  std::size_t const count = cold_settings(4.0 * static_cast<double>(extents.cells()));
  for (std::size_t i = 0; i < count; ++i) all.emplace_back(extents);
  return all;
}

/// What every program is given to do: scores in, both lists out.
inline void report_selection(benchmark::State& run, score_axes const& extents, call_time const& time) {
  report(run, time, {select_work(extents.rows, extents.tokens)});
}

}  // namespace benchmarks
