// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <numeric>

#include "support/setting.hpp"

namespace {

using namespace benchmarks;

void rows_axis(benchmark::internal::Benchmark* run) {
  run->ArgNames({"sequences", "kv_heads", "group", "budget", "interval", "head_dim"});
  for (int rows : {8, 288}) run->Args({1, rows, 1, 1024, 128, 1});
  for (int budget : {128, 4096, 16384}) run->Args({1, 288, 1, budget, 128, 1});
  run->Args({1, 288, 1, 576, 576, 1});
  run->Unit(benchmark::kMicrosecond)->UseRealTime();
}

template <class Selector>
void select(benchmark::State& run) {
  axes const extents(run);
  auto const rule = fkv::compose(extents.config(), fkv::window_sum{}, Selector{}, fkv::ordered{});
  auto made = make_setting<float>(extents, rule);
  fkv::host_execution const one = fkv::host.threads(1);
  for (auto _ : run) {
    if (!fkv::select(one, made.rows(), made.score_rows(), made.lists()).ok()) run.SkipWithError("select failed");
    benchmark::ClobberMemory();
  }
  run.SetItemsProcessed(run.iterations() * extents.rows() * extents.tokens());
}

// The textbook way: nth_element over (score, slot), then the evicted list sorted, and the kept one too if wanted:
// select delivers both.
template <bool SortKept>
void nth_element_and_sort(benchmark::State& run) {
  axes const extents(run);
  auto const rule = fkv::compose(extents.config(), fkv::window_sum{}, fkv::top_k{}, fkv::ordered{});
  auto made = make_setting<float>(extents, rule);
  std::vector<std::int32_t> order(static_cast<std::size_t>(extents.budget));
  for (auto _ : run) {
    for (int row = 0; row < extents.rows(); ++row) {
      float const* const scores = made.score_rows().row(row);
      auto const first = static_cast<std::ptrdiff_t>(row) * extents.tokens();
      std::iota(order.begin(), order.end(), 0);
      auto const middle = order.begin() + extents.interval;
      if (middle < order.end())
        std::nth_element(order.begin(), middle, order.end(),
                         [&](int a, int b) { return scores[a] < scores[b] || (scores[a] == scores[b] && a < b); });
      std::sort(order.begin(), middle);
      std::copy(order.begin(), middle, made.evicted.begin() + first);
      if constexpr (SortKept) {
        std::sort(middle, order.end());
        std::copy(middle, order.end(), made.kept.begin() + first);
      }
    }
    benchmark::ClobberMemory();
  }
  run.SetItemsProcessed(run.iterations() * extents.rows() * extents.tokens());
}

}  // namespace

BENCHMARK(select<fkv::top_k>)->Name("select/top_k")->Apply(rows_axis);
BENCHMARK(select<fkv::sampled_top_k>)->Name("select/sampled_top_k")->Apply(rows_axis);
BENCHMARK(nth_element_and_sort<true>)->Name("select/nth_element_and_sort_both")->Apply(rows_axis);
BENCHMARK(nth_element_and_sort<false>)->Name("select/nth_element_and_sort_evicted")->Apply(rows_axis);
