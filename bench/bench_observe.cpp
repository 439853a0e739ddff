// SPDX-License-Identifier: Apache-2.0
#include "support/setting.hpp"

namespace {

using namespace benchmarks;

using judge_window = fkv::window_statistics<fkv::foresight<>::reads>;

template <class Element, class List, bool WithLse>
void observe(benchmark::State& run) {
  axes const extents(run);
  setting<in_rows<Element>, fkv::detail::observer<List>> made(extents, {});
  std::vector<float> statistics(made.scores.size() * static_cast<std::size_t>(List::size * extents.group));
  fkv::statistics_view<List> const out{statistics.data(), extents.tokens()};
  auto const window = WithLse ? made.window_with_lse() : made.window();
  for (auto _ : run) {
    if (!fkv::observe(fkv::host, made.cache(), made.list, window, fkv::row_state{}, out, made.scratch()).ok())
      run.SkipWithError("observe failed");
    benchmark::ClobberMemory();
  }
  count_flops(run, extents.logit_flops());
}

// The same product alone: what observe would cost if exponents and statistics were free.
void same_flops_matrix_product(benchmark::State& run) {
  namespace host = fkv::detail::host;
  axes const extents(run);
  setting<in_rows<float>, fkv::detail::observer<judge_window>> made(extents, {});
  auto const cache = made.cache();
  auto const window = made.window();
  host::with_best_isa([&](auto isa) __attribute__((always_inline)) {
    using isa_type = decltype(isa);
    int const n = extents.tokens();
    auto const stride = static_cast<std::size_t>(host::padded<isa_type>(n));
    std::vector<float> packed(host::packed_floats<isa_type>(n, extents.head_dim));
    std::vector<float> logits(static_cast<std::size_t>(host::query_block) * stride);
    for (auto _ : run) {
      for (int row = 0; row < extents.rows(); ++row) {
        fkv::row_index const at{0, row / extents.kv_heads, row % extents.kv_heads};
        host::pack_keys<isa_type>([&](int slot) { return cache.key(at, slot); }, n, extents.head_dim, packed.data());
        for (int j = 0; j < extents.group; ++j)
          for (int from = 0; from < extents.interval; from += host::query_block)
            host::logits<isa_type>(
                window.query(at, at.kv_head * extents.group + j, from),
                extents.interval - from < host::query_block ? extents.interval - from : host::query_block,
                extents.head_dim, packed.data(), n, logits.data(), stride);
      }
      benchmark::ClobberMemory();
    }
  });
  count_flops(run, extents.logit_flops());
}

}  // namespace

BENCHMARK(observe<float, judge_window, false>)->Name("observe/judge/float")->Apply(sweep);
BENCHMARK(observe<float, judge_window, true>)->Name("observe/judge/float/lse")->Apply(sweep);
BENCHMARK(observe<fkv::half, judge_window, false>)->Name("observe/judge/half")->Apply(sweep);
BENCHMARK(observe<fkv::bfloat16, judge_window, false>)->Name("observe/judge/bfloat16")->Apply(sweep);
BENCHMARK(observe<float, fkv::statistics<fkv::sum>, false>)->Name("observe/sum/float")->Apply(sweep);
BENCHMARK(same_flops_matrix_product)->Name("observe/same_flops_product/one_thread")->Apply(sweep);
