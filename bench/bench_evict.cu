// SPDX-License-Identifier: Apache-2.0
#include "support/device_setting.cuh"

namespace {

using namespace benchmarks;

/// Judges of 36 layers.
class random_judges {
 public:
  random_judges() : packed_(fkv::packed_judge_floats(shape)) { packed_.fill_normal(2); }
  [[nodiscard]] fkv::foresight<> scorer() const { return {{packed_.data(), shape}}; }

 private:
  static constexpr fkv::judge_shape shape{36, 8, 4, 128, 128};
  device_buffer<float> packed_;
};

template <class Scorer, class Compaction, bool WithLse>
void evict(benchmark::State& run, Scorer const& scorer) {
  model_axes const extents(run);
  auto const rule = fkv::compose(extents.config(), scorer, fkv::top_k{}, Compaction{});
  using setting = device_setting<fkv::bfloat16, std::remove_const_t<decltype(rule)>>;
  auto settings = rotation<setting>(extents, rule);
  replay(run, settings, [](auto const& exec, setting& at) {
    if constexpr (WithLse)
      return fkv::evict(exec, at.rule, at.cache(), at.list, at.window_with_lse(), at.state, at.new_lengths(), at.scratch());
    else
      return fkv::evict(exec, at.rule, at.cache(), at.list, at.window(), at.state, at.new_lengths(), at.scratch());
  });
}

template <class Compaction, bool WithLse>
void judge(benchmark::State& run) {
  random_judges const weights;
  evict<fkv::foresight<>, Compaction, WithLse>(run, weights.scorer());
}
template <class Scorer>
void free_scorer(benchmark::State& run) {
  evict<Scorer, fkv::fill_holes, true>(run, {});
}

}  // namespace

BENCHMARK(judge<fkv::fill_holes, true>)->Name("cuda/evict/foresight/fill_holes/lse")->Apply(model_sweep);
BENCHMARK(judge<fkv::fill_holes, false>)->Name("cuda/evict/foresight/fill_holes")->Apply(model_sweep);
BENCHMARK(judge<fkv::ordered, true>)->Name("cuda/evict/foresight/ordered/lse")->Apply(model_sweep);
BENCHMARK(free_scorer<fkv::window_sum>)->Name("cuda/evict/window_sum/fill_holes/lse")->Apply(model_sweep);
BENCHMARK(free_scorer<fkv::key_norm>)->Name("cuda/evict/key_norm/fill_holes")->Apply(model_sweep);
