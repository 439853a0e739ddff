// SPDX-License-Identifier: Apache-2.0
#include "support/device_setting.cuh"

namespace {

using namespace benchmarks;

/// Lists read, tokens moved.
template <class Compaction>
work compaction_work(model_axes const& extents) {
  double const moved = std::is_same_v<Compaction, fkv::ordered> ? extents.budget : extents.interval;
  row_extents const row = extents.row();
  return work{row.rows * row.tokens * 4, 0.0} + move_work(row, moved, 0);
}

/// `compact` alone, on lists that stay as they are.
template <class Compaction>
void compact(benchmark::State& run) {
  model_axes const extents(run);
  auto settings = cold_models(extents, fkv::compose(extents.config(), fkv::key_norm{}, fkv::top_k{}, Compaction{}));
  for (auto& at : settings)
    require(fkv::select(fkv::on(cudaStreamPerThread, traits()), at.rows(), at.score_rows(), at.lists()));
  require(cudaStreamSynchronize(cudaStreamPerThread));
  call_time const time = time_verb(
      settings, [](auto const& exec, auto& at) { return fkv::compact(exec, at.rows(), at.lists(), at.new_lengths()); });
  for (auto const& setting : settings) setting.check();
  report(run, time, {compaction_work<Compaction>(extents)});
}

/// A copy of as many bytes.
template <class Compaction>
void copy(benchmark::State& run) {
  work const bytes = compaction_work<Compaction>(model_axes(run));
  report(run, time_copy({bytes}), {bytes});
}

}  // namespace

BENCHMARK(on_device<compact<fkv::fill_holes>>)->Name("compact/ours/fill_holes")->Apply(model_corner);
BENCHMARK(on_device<compact<fkv::ordered>>)->Name("compact/ours/ordered")->Apply(model_corner);
BENCHMARK(on_device<copy<fkv::fill_holes>>)->Name("compact/copy/fill_holes")->Apply(model_corner);
BENCHMARK(on_device<copy<fkv::ordered>>)->Name("compact/copy/ordered")->Apply(model_corner);
