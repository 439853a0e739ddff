// SPDX-License-Identifier: Apache-2.0
#include "support/setting.hpp"

namespace {

using namespace benchmarks;

template <class Element, class Scorer>
void score(benchmark::State& run, Scorer scorer) {
  axes const extents(run);
  auto const rule = fkv::compose(extents.config(), scorer, fkv::top_k{}, fkv::ordered{});
  using list = fkv::window_statistics<typename decltype(rule)::reads>;
  auto made = make_setting<Element>(extents, rule);
  std::vector<float> statistics(made.scores.size() * static_cast<std::size_t>(list::size * extents.group) + 1, 0.01f);
  fkv::observed<list> const window{{statistics.data(), extents.tokens()}};
  for (auto _ : run) {
    if (!fkv::score(fkv::host, made.rows(), window, made.score_rows()).ok()) run.SkipWithError("score failed");
    benchmark::ClobberMemory();
  }
  count_bytes(run, static_cast<double>(made.cache_bytes()));
}

template <class Element>
void judge(benchmark::State& run) {
  random_judge const weights{axes(run)};
  score<Element>(run, fkv::foresight<>{weights.weights()});
}
void window_sum(benchmark::State& run) { score<float>(run, fkv::window_sum{}); }
void key_norm(benchmark::State& run) { score<float>(run, fkv::key_norm{}); }
void key_diff(benchmark::State& run) { score<float>(run, fkv::key_diff{}); }

}  // namespace

BENCHMARK(judge<float>)->Name("score/foresight/float")->Apply(sweep);
BENCHMARK(judge<fkv::half>)->Name("score/foresight/half")->Apply(sweep);
BENCHMARK(judge<fkv::bfloat16>)->Name("score/foresight/bfloat16")->Apply(sweep);
BENCHMARK(window_sum)->Name("score/window_sum/float")->Apply(sweep);
BENCHMARK(key_norm)->Name("score/key_norm/float")->Apply(sweep);
BENCHMARK(key_diff)->Name("score/key_diff/float")->Apply(sweep);
