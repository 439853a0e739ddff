// SPDX-License-Identifier: Apache-2.0
#include "support/device_setting.cuh"

namespace {

using namespace benchmarks;

using list = fkv::window_statistics<fkv::paper::reads>;

template <bool WithLse>
void observe(benchmark::State& run) {
  model_axes const extents(run);
  auto settings =
      cold_models(extents, fkv::compose(extents.config(), fkv::window_sum{}, fkv::top_k{}, fkv::fill_holes{}));
  auto const& shape = settings.front().shape;
  device_buffer<float> const out(static_cast<std::size_t>(shape.num_rows()) *
                                 static_cast<std::size_t>(extents.tokens() * list::size * 4));
  device_buffer<std::byte> const scratch(
      fkv::observe_bytes<list>(fkv::prepare(traits()), shape, settings.front().list, extents.interval));
  fkv::statistics_view<list> const view{out.data(), extents.tokens()};
  fkv::workspace const bytes{scratch.data(), scratch.size()};
  call_time const time = time_verb(settings, [&](auto const& exec, auto& at) {
    auto const window = WithLse ? at.window_with_lse() : at.window();
    return fkv::observe(exec, at.cache(), at.list, window, fkv::row_state{}, view, bytes);
  });
  require(out.read(1).front() > 0.0f, "nothing was observed");
  report(run, time, {WithLse ? work{} : lse_work(extents.row()), observe_work(extents.row(), list::size)});
}

}  // namespace

BENCHMARK(on_device<observe<true>>)->Name("observe/ours/lse")->Apply(model_sweep);
BENCHMARK(on_device<observe<false>>)->Name("observe/ours")->Apply(model_sweep);
