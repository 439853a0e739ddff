// SPDX-License-Identifier: Apache-2.0
#include "support/setting.hpp"

namespace {

using namespace benchmarks;

// Lengths are given from outside and never change, so every iteration evicts from rows that look new.
template <class Tokens, class Compaction, bool WithLse, class Query = typename Tokens::element_type>
void evict_with_judge(benchmark::State& run) {
  axes const extents(run);
  random_judge const weights(extents);
  auto const rule = fkv::compose(extents.config(), fkv::foresight<>{weights.weights()}, fkv::top_k{}, Compaction{});
  setting<Tokens, std::remove_const_t<decltype(rule)>, Query> made(extents, rule);
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

using int8_rows = in_rows<fkv::scaled_by_token<std::int8_t>>;
using int8_pages = in_pages<fkv::scaled_by_token<std::int8_t>, 16>;

}  // namespace

BENCHMARK(evict_with_judge<in_rows<float>, fkv::ordered, false>)->Name("evict/foresight/float/ordered")->Apply(sweep);
BENCHMARK(evict_with_judge<in_rows<float>, fkv::fill_holes, false>)
    ->Name("evict/foresight/float/fill_holes")
    ->Apply(sweep);
BENCHMARK(evict_with_judge<in_rows<float>, fkv::fill_holes, true>)
    ->Name("evict/foresight/float/fill_holes/lse")
    ->Apply(sweep);
BENCHMARK(evict_with_judge<in_rows<fkv::bfloat16>, fkv::fill_holes, true>)
    ->Name("evict/foresight/bfloat16/fill_holes/lse")
    ->Apply(sweep);
BENCHMARK(evict_with_judge<in_pages<float, 16>, fkv::ordered, false>)
    ->Name("evict/foresight/float/ordered/pages")
    ->Apply(sweep);
BENCHMARK(evict_with_judge<in_pages<fkv::bfloat16, 16>, fkv::fill_holes, true>)
    ->Name("evict/foresight/bfloat16/fill_holes/lse/pages")
    ->Apply(sweep);
BENCHMARK(evict_with_judge<int8_rows, fkv::fill_holes, true, fkv::bfloat16>)
    ->Name("evict/foresight/int8/fill_holes/lse")
    ->Apply(sweep);
BENCHMARK(evict_with_judge<int8_pages, fkv::fill_holes, true, fkv::bfloat16>)
    ->Name("evict/foresight/int8/fill_holes/lse/pages")
    ->Apply(sweep);
