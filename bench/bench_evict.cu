// SPDX-License-Identifier: Apache-2.0
#include "support/evictions.cuh"

namespace {

using namespace benchmarks;

template <class Compaction, bool WithLse>
void judge(benchmark::State& run) {
  random_judges const weights;
  time_evict<fkv::foresight<>, Compaction, WithLse>(run, weights.scorer());
}
template <class Scorer, class Compaction>
void free_scorer(benchmark::State& run) {
  time_evict<Scorer, Compaction, true>(run, {});
}

/// A copy of what the judge's eviction must read and write.
void copy(benchmark::State& run) {
  model_axes const extents(run);
  work const bytes = score_work(extents.row(), reads_of<fkv::foresight<>>(extents)) +
                     removal<fkv::foresight<>, fkv::fill_holes>(extents);
  report(run, time_copy({bytes}), {{bytes.bytes, 0.0}});
}

}  // namespace

BENCHMARK(on_device<judge<fkv::fill_holes, true>>)->Name("evict/ours/foresight/fill_holes/lse")->Apply(model_sweep);
BENCHMARK(on_device<judge<fkv::fill_holes, false>>)->Name("evict/ours/foresight/fill_holes")->Apply(model_sweep);
BENCHMARK(on_device<judge<fkv::ordered, true>>)->Name("evict/ours/foresight/ordered/lse")->Apply(model_corner);
BENCHMARK(on_device<judge<fkv::ordered, false>>)->Name("evict/ours/foresight/ordered")->Apply(model_corner);
BENCHMARK(on_device<free_scorer<fkv::window_sum, fkv::fill_holes>>)
    ->Name("evict/ours/window_sum/fill_holes/lse")
    ->Apply(model_corner);
BENCHMARK(on_device<free_scorer<fkv::h2o, fkv::fill_holes>>)
    ->Name("evict/ours/h2o/fill_holes/lse")
    ->Apply(model_corner);
BENCHMARK(on_device<free_scorer<fkv::snap_kv<>, fkv::ordered>>)
    ->Name("evict/ours/snap_kv/ordered")
    ->Apply(model_corner);
BENCHMARK(on_device<free_scorer<fkv::key_norm, fkv::fill_holes>>)
    ->Name("evict/ours/key_norm/fill_holes")
    ->Apply(model_corner);
BENCHMARK(on_device<copy>)->Name("evict/copy/foresight/fill_holes/lse")->Apply(model_sweep);
