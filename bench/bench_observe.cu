// SPDX-License-Identifier: Apache-2.0
#include "support/device_setting.cuh"

namespace {

using namespace benchmarks;

using list = fkv::window_statistics<fkv::paper::reads>;

template <bool WithLse>
void observe(benchmark::State& run) {
  model_axes const extents(run);
  auto const rule = fkv::compose(extents.config(), fkv::window_sum{}, fkv::top_k{}, fkv::fill_holes{});
  using setting = device_setting<fkv::bfloat16, std::remove_const_t<decltype(rule)>>;
  auto settings = rotation<setting>(extents, rule);
  device_buffer<float> const out(static_cast<std::size_t>(settings[0].shape.num_rows()) *
                                 static_cast<std::size_t>(extents.tokens() * list::size * 4));
  device_buffer<std::byte> const scratch(
      fkv::observe_bytes<list>(fkv::prepare(traits()), settings[0].shape, settings[0].list, extents.interval));
  fkv::statistics_view<list> const view{out.data(), extents.tokens()};
  fkv::workspace const work{scratch.data(), scratch.size()};
  replay(run, settings, [&](auto const& exec, setting& at) {
    auto const window = WithLse ? at.window_with_lse() : at.window();
    return fkv::observe(exec, at.cache(), at.list, window, fkv::row_state{}, view, work);
  });
  count_flops(run, (WithLse ? 1 : 2) * 2.0 * extents.rows() * 4 * extents.interval * extents.tokens() * 128.0);
}

}  // namespace

BENCHMARK(observe<true>)->Name("cuda/observe/bfloat16/lse")->Apply(model_sweep);
BENCHMARK(observe<false>)->Name("cuda/observe/bfloat16")->Apply(model_sweep);
