// SPDX-License-Identifier: Apache-2.0
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <foresightkv/training/adam.hpp>
#include <foresightkv/training/clip.hpp>
#include <foresightkv/training/grpo.hpp>
#include <foresightkv/training/judge_gradient.hpp>
#include <foresightkv/training/ranking_hinge.hpp>

#include "support/random.hpp"
#include "support/training_problem.hpp"

namespace {

namespace fkv = foresightkv;
namespace training = fkv::training;
namespace host = fkv::detail::host;

constexpr fkv::host_execution one = fkv::host.threads(1);

/// Scores spread over a few margins, labels over several orders of magnitude: as attention gives them.
struct ranking {
  int rows, candidates;
  std::vector<float> scores, labels, gradient;

  ranking(int row_count, int candidate_count) : rows(row_count), candidates(candidate_count) {
    testing::random_source random(1);
    auto const size = static_cast<std::size_t>(rows) * static_cast<std::size_t>(candidates);
    for (std::size_t i = 0; i < size; ++i) {
      scores.push_back(0.1f * random.normal());
      labels.push_back(std::exp(3.0f * random.normal()));
    }
    gradient.resize(size);
  }
  [[nodiscard]] training::ranking_rows<float> view() const { return {scores.data(), labels.data(), rows, candidates}; }
};

// Axes: rows, candidates, num_shifts (0: every pair).
void ranking_hinge(benchmark::State& run) {
  ranking given(static_cast<int>(run.range(0)), static_cast<int>(run.range(1)));
  training::hinge_config config;
  config.num_shifts = static_cast<int>(run.range(2));
  training::hinge_result result;
  std::vector<std::byte> memory(training::ranking_hinge_bytes(one, given.view()));
  for (auto _ : run) {
    auto const done = training::ranking_hinge(one, config, given.view(), given.gradient.data(), &result,
                                              {memory.data(), memory.size()});
    if (!done.ok()) run.SkipWithError(done.message());
    benchmark::ClobberMemory();
  }
  run.SetItemsProcessed(run.iterations() * given.rows);
}
BENCHMARK(ranking_hinge)
    ->ArgNames({"rows", "candidates", "num_shifts"})
    ->ArgsProduct({{16}, {256, 1024, 4096, 16384}, {0, 8}})
    ->Unit(benchmark::kMicrosecond);

// The definition: every ordered pair, one after the other.
void ranking_hinge_definition(benchmark::State& run) {
  ranking given(static_cast<int>(run.range(0)), static_cast<int>(run.range(1)));
  int const n = given.candidates;
  for (auto _ : run) {
    for (int row = 0; row < given.rows; ++row) {
      float const* const s = given.scores.data() + static_cast<std::ptrdiff_t>(row) * n;
      float const* const y = given.labels.data() + static_cast<std::ptrdiff_t>(row) * n;
      float* const gradient = given.gradient.data() + static_cast<std::ptrdiff_t>(row) * n;
      long pairs = 0;
      double loss = 0.0;
      for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) {
          if (!(y[i] > y[j])) continue;
          ++pairs;
          float const short_of = 0.01f - (s[i] - s[j]);
          if (!(short_of > 0.0f)) continue;
          loss += static_cast<double>(short_of);
          gradient[i] -= 1.0f;
          gradient[j] += 1.0f;
        }
      benchmark::DoNotOptimize(loss / static_cast<double>(pairs));
    }
    benchmark::ClobberMemory();
  }
  run.SetItemsProcessed(run.iterations() * given.rows);
}
BENCHMARK(ranking_hinge_definition)
    ->ArgNames({"rows", "candidates"})
    ->ArgsProduct({{16}, {256, 1024}})
    ->Unit(benchmark::kMicrosecond);

// The two ways to the same counts; where the second one wins is host::sorted_pairs_from.
template <class Isa>
void count_pairs(benchmark::State& run, int sorted_from) {
  if (!host::supports<Isa>()) return run.SkipWithError("not on this processor");
  ranking given(8, static_cast<int>(run.range(0)));
  std::vector<std::byte> memory(std::size_t{1} << 21);
  fkv::detail::arena cutting{{memory.data(), memory.size()}};
  auto scratch = host::ranking_scratch<float>::take(cutting, given.candidates);
  for (auto _ : run)
    for (int row = 0; row < given.rows; ++row) {
      auto const at = static_cast<std::ptrdiff_t>(row) * given.candidates;
      auto const found = host::count_all_pairs<Isa>(given.scores.data() + at, given.labels.data() + at,
                                                    given.candidates, 0.01f, scratch, sorted_from);
      benchmark::DoNotOptimize(found.active);
    }
  run.SetItemsProcessed(run.iterations() * given.rows);
}
template <class Isa>
void pairs_compared(benchmark::State& run) {
  count_pairs<Isa>(run, std::numeric_limits<int>::max());
}
void pairs_sorted(benchmark::State& run) { count_pairs<host::isa_baseline>(run, 0); }

void candidates_axis(benchmark::internal::Benchmark* run) {
  run->ArgName("candidates")->RangeMultiplier(2)->Range(512, 8192)->Unit(benchmark::kMicrosecond);
}
BENCHMARK(pairs_sorted)->Apply(candidates_axis);
BENCHMARK_TEMPLATE(pairs_compared, host::isa_baseline)->Apply(candidates_axis);
BENCHMARK_TEMPLATE(pairs_compared, host::isa_avx2)->Apply(candidates_axis);
BENCHMARK_TEMPLATE(pairs_compared, host::isa_avx512)->Apply(candidates_axis);

// Axes: steps, kv_heads, group, head_dim, candidates, threads. Positions are drawn from four times the
// candidates.
template <class Element>
struct judging {
  testing::judge_problem<Element, Element> given;
  fkv::host_execution exec;
  std::vector<float> hidden, scores, gradient;

  explicit judging(benchmark::State const& run)
      : given({1, int_of(run, 1), int_of(run, 2), int_of(run, 3), int_of(run, 3)}, int_of(run, 0), int_of(run, 4),
              4 * int_of(run, 4), 1),
        exec(fkv::host.threads(int_of(run, 5))) {
    auto const count = training::num_scores(given.shape, given.view());
    hidden.resize(count * fkv::judge_shape::hidden);
    scores.resize(count);
    gradient.resize(given.weights.size());
  }
  [[nodiscard]] static int int_of(benchmark::State const& run, std::size_t axis) {
    return static_cast<int>(run.range(axis));
  }
  void count(benchmark::State& run) const {
    run.SetItemsProcessed(run.iterations() * static_cast<std::int64_t>(scores.size()));
    run.counters["flops"] = benchmark::Counter(2.0 * 16 * given.shape.inputs() * static_cast<double>(scores.size()),
                                               benchmark::Counter::kIsIterationInvariantRate);
  }
};

template <class Element>
void judge_forward(benchmark::State& run) {
  judging<Element> made(run);
  for (auto _ : run) {
    auto const done = training::judge_forward(made.exec, made.given.shape, made.given.weights.data(), made.given.view(),
                                              made.hidden.data(), made.scores.data());
    if (!done.ok()) run.SkipWithError(done.message());
    benchmark::ClobberMemory();
  }
  made.count(run);
}

template <class Element>
void judge_backward(benchmark::State& run) {
  judging<Element> made(run);
  std::vector<std::byte> memory(training::judge_backward_bytes(made.exec, made.given.shape, made.given.view()));
  for (auto _ : run) {
    auto const done = training::judge_backward(made.exec, made.given.shape, made.given.weights.data(),
                                               made.given.view(), made.hidden.data(), made.given.slopes.data(),
                                               made.gradient.data(), {memory.data(), memory.size()});
    if (!done.ok()) run.SkipWithError(done.message());
    benchmark::ClobberMemory();
  }
  made.count(run);
}

void judge_axes(benchmark::internal::Benchmark* run) {
  run->ArgNames({"steps", "kv_heads", "group", "head_dim", "candidates", "threads"});
  run->Args({16, 8, 4, 128, 1024, 1});
  run->Args({16, 8, 4, 128, 1024, 2});
  run->Args({16, 3, 3, 64, 256, 1});
  run->Unit(benchmark::kMillisecond)->UseRealTime();
}
BENCHMARK_TEMPLATE(judge_forward, float)->Apply(judge_axes);
BENCHMARK_TEMPLATE(judge_forward, fkv::half)->Apply(judge_axes);
BENCHMARK_TEMPLATE(judge_backward, float)->Apply(judge_axes);
BENCHMARK_TEMPLATE(judge_backward, fkv::half)->Apply(judge_axes);

// Axes: rollouts, candidates, picks; 8 KV heads, one step.
void grpo(benchmark::State& run) {
  training::grpo_shape const shape{1, static_cast<int>(run.range(0)), 8, static_cast<int>(run.range(1)),
                                   static_cast<int>(run.range(2))};
  testing::random_source random(1);
  std::vector<float> scores(shape.num_scores()), gradient(scores.size()), log_probs(shape.num_picks());
  std::vector<std::int32_t> picked;
  std::vector<double> const advantages(static_cast<std::size_t>(shape.rollouts), 0.5);
  random.fill_normal<float>(scores);
  for (std::size_t i = 0; i < shape.num_picks(); ++i) picked.push_back(random.integer(0, shape.candidates - 1));
  if (!training::pick_log_probs(one, shape, scores.data(), picked.data(), log_probs.data()).ok())
    return run.SkipWithError("pick_log_probs");
  std::vector<std::byte> memory(training::grpo_bytes(one, shape));
  training::grpo_result result;
  training::grpo_input<float> const input{scores.data(), picked.data(), log_probs.data(), log_probs.data(),
                                          advantages.data()};
  for (auto _ : run) {
    auto const done = training::grpo(one, {}, shape, input, gradient.data(), &result, {memory.data(), memory.size()});
    if (!done.ok()) run.SkipWithError(done.message());
    benchmark::ClobberMemory();
  }
  run.SetItemsProcessed(run.iterations() * static_cast<std::int64_t>(shape.rows()));
}
BENCHMARK(grpo)
    ->ArgNames({"rollouts", "candidates", "picks"})
    ->Args({4, 1024, 256})
    ->Args({4, 256, 64})
    ->Unit(benchmark::kMicrosecond);

// Axis: layers of the shape of Qwen3-4B.
void clip_and_adam(benchmark::State& run) {
  fkv::judge_shape const shape{static_cast<int>(run.range(0)), 8, 4, 128, 128};
  std::vector<float> weights(fkv::packed_judge_floats(shape)), gradient(weights.size(), 1e-3f), mean(weights.size()),
      square(weights.size());
  std::vector<double> norms(static_cast<std::size_t>(shape.num_layers));
  training::clip_result clipped;
  std::int64_t step = 0;
  for (auto _ : run) {
    auto const first = training::clip_gradient(one, {}, shape, gradient.data(), norms.data(), &clipped);
    auto const second =
        training::adam_step(one, {}, 1e-3, ++step, gradient.data(),
                            training::adam_state<float>{weights.data(), mean.data(), square.data(), weights.size()});
    if (!first.ok() || !second.ok()) run.SkipWithError("clip or adam failed");
    benchmark::ClobberMemory();
  }
  run.SetItemsProcessed(run.iterations() * static_cast<std::int64_t>(weights.size()));
}
BENCHMARK(clip_and_adam)->ArgName("layers")->Arg(1)->Arg(36)->Unit(benchmark::kMicrosecond);

}  // namespace
