// SPDX-License-Identifier: Apache-2.0
#include "support/setting.hpp"

namespace {

using namespace benchmarks;

// Lengths are given from outside and never change, so every iteration evicts from rows that look new.
template <class Element, class Compaction, bool WithLse>
void evict_with_judge(benchmark::State& run) {
  axes const extents(run);
  random_judge const weights(extents);
  auto const rule = fkv::compose(extents.config(), fkv::foresight<>{weights.weights()}, fkv::top_k{}, Compaction{});
  auto made = make_setting<Element>(extents, rule);
  auto const window = WithLse ? made.window_with_lse() : made.window();
  for (auto _ : run) {
    run.PauseTiming();
    made.restart();
    run.ResumeTiming();
    if (!fkv::evict(fkv::host, made.rows(), window, {made.new_lengths.data()}).ok()) run.SkipWithError("evict failed");
    benchmark::ClobberMemory();
  }
  count_flops(run, extents.logit_flops());
}

}  // namespace

BENCHMARK(evict_with_judge<float, fkv::ordered, false>)->Name("evict/foresight/float/ordered")->Apply(sweep);
BENCHMARK(evict_with_judge<float, fkv::fill_holes, false>)->Name("evict/foresight/float/fill_holes")->Apply(sweep);
BENCHMARK(evict_with_judge<float, fkv::fill_holes, true>)->Name("evict/foresight/float/fill_holes/lse")->Apply(sweep);
BENCHMARK(evict_with_judge<fkv::bfloat16, fkv::fill_holes, true>)
    ->Name("evict/foresight/bfloat16/fill_holes/lse")
    ->Apply(sweep);
