// SPDX-License-Identifier: Apache-2.0
#include "support/device_setting.cuh"

namespace {

using namespace benchmarks;

/// Judges of 36 layers.
class random_judges {
 public:
  random_judges() : packed_(fkv::packed_judge_floats(shape)) { packed_.fill_normal(); }
  [[nodiscard]] fkv::foresight<> scorer() const { return {{packed_.data(), shape}}; }

 private:
  static constexpr fkv::judge_shape shape{36, 8, 4, 128, 128};
  device_buffer<float> packed_;
};

/// What a scorer cannot do without, for its floor.
template <class Scorer>
scorer_reads reads_of(model_axes const& extents) {
  double const carried = fkv::carried_statistics<typename Scorer::reads>::size;
  if constexpr (std::is_same_v<Scorer, fkv::foresight<>>)
    return {.queries = 1.0 * extents.interval, .values = true, .carried = carried, .judge = true};
  else if constexpr (std::is_same_v<Scorer, fkv::snap_kv<>>)
    return {.queries = 8};
  else
    return {.queries = Scorer::reads::size > 0 ? extents.interval : 0.0, .carried = carried};
}

template <class Scorer, class Compaction>
work removal(model_axes const& extents) {
  double const moved = std::is_same_v<Compaction, fkv::ordered> ? extents.budget : extents.interval;
  return select_work(extents.row().rows, extents.tokens()) +
         move_work(extents.row(), moved, fkv::carried_statistics<typename Scorer::reads>::size);
}

template <class Scorer, class Compaction, bool WithLse>
void evict(benchmark::State& run, Scorer const& scorer) {
  model_axes const extents(run);
  auto settings = cold_models(extents, fkv::compose(extents.config(), scorer, fkv::top_k{}, Compaction{}));
  call_time const time = time_verb(settings, [](auto const& exec, auto& at) {
    auto const window = WithLse ? at.window_with_lse() : at.window();
    return fkv::evict(exec, at.rows(), window, {at.new_lengths()});
  });
  for (auto const& setting : settings) setting.check();
  work const lse = WithLse ? work{} : lse_work(extents.row());
  report(run, time, {lse, score_work(extents.row(), reads_of<Scorer>(extents)), removal<Scorer, Compaction>(extents)});
}

template <class Compaction, bool WithLse>
void judge(benchmark::State& run) {
  random_judges const weights;
  evict<fkv::foresight<>, Compaction, WithLse>(run, weights.scorer());
}
template <class Scorer, class Compaction>
void free_scorer(benchmark::State& run) {
  evict<Scorer, Compaction, true>(run, {});
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
