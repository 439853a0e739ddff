// SPDX-License-Identifier: Apache-2.0
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <foresightkv/golden/eviction.hpp>

#include "support/golden_oracle.hpp"

namespace {

namespace fkv = foresightkv;

/// Axes: tokens, kv_heads, group, budget, interval, head_dim.
struct axes {
  fkv::golden_config config;
  fkv::golden_shape shape;

  explicit axes(benchmark::State const& state) {
    auto const axis = [&](int index) { return static_cast<int>(state.range(static_cast<std::size_t>(index))); };
    config = {.budget = axis(3), .interval = axis(4)};
    shape = {.kv_heads = axis(1), .group = axis(2), .tokens = axis(0), .head_dim = axis(5)};
  }

  /// Multiplications and additions of the logits that the future blocks' queries need, once.
  [[nodiscard]] double logit_flops() const {
    double pairs = 0.0;
    for (int t = config.first_block() * config.interval; t < shape.tokens; ++t) pairs += t + 1;
    return 2.0 * pairs * shape.head_dim * shape.kv_heads * shape.group;
  }
};

void names(benchmark::internal::Benchmark* run) {
  run->ArgNames({"tokens", "kv_heads", "group", "budget", "interval", "head_dim"});
  run->Unit(benchmark::kMillisecond)->UseRealTime();
}

// The layer of Qwen3-4B at 4,096 tokens first, then one axis at a time.
void sweep(benchmark::internal::Benchmark* run) {
  names(run);
  run->Args({4096, 8, 4, 1024, 256, 128});
  for (int tokens : {2048, 8192}) run->Args({tokens, 8, 4, 1024, 256, 128});
  for (int group : {1, 7, 16}) run->Args({4096, 2, group, 1024, 256, 128});
  for (int interval : {16, 64, 512}) run->Args({4096, 2, 4, 1024, interval, 128});
  for (int head_dim : {64, 256}) run->Args({4096, 2, 4, 1024, 256, head_dim});
}

void small(benchmark::internal::Benchmark* run) {
  names(run);
  for (int tokens : {256, 512}) run->Args({tokens, 1, 4, 64, 16, 64});
}

template <class Element>
std::vector<Element> stored(std::vector<float> const& values) {
  std::vector<Element> narrow;
  narrow.reserve(values.size());
  for (float const value : values) narrow.push_back(fkv::element_traits<Element>::store(value));
  return narrow;
}

void count(benchmark::State& run, axes const& extents) {
  run.counters["FLOP/s"] = benchmark::Counter(extents.logit_flops(), benchmark::Counter::kIsIterationInvariantRate,
                                              benchmark::Counter::OneK::kIs1000);
}

template <class Element, bool WithLse>
void golden_eviction(benchmark::State& run) {
  axes const extents(run);
  auto const given = golden_oracle::random_problem(extents.shape, 1, 1.0f);
  auto const queries = stored<Element>(given.queries), keys = stored<Element>(given.keys);
  auto const rows = static_cast<std::size_t>(given.heads()) * static_cast<std::size_t>(extents.shape.tokens);
  // About what 4,096 normal logits sum to; the time does not depend on the values.
  std::vector<float> const lse(WithLse ? rows : 0, 8.8f);
  fkv::golden_input<Element> input;
  input.queries = queries.data();
  input.keys = keys.data();
  input.shape = extents.shape;
  if (WithLse) input.lse = lse.data();

  auto const steps = static_cast<std::size_t>(extents.config.steps(extents.shape.tokens)) *
                     static_cast<std::size_t>(extents.shape.kv_heads);
  std::vector<float> labels(steps * static_cast<std::size_t>(extents.config.budget));
  std::vector<std::int32_t> evicted(steps * static_cast<std::size_t>(extents.config.interval));
  fkv::golden_output output;
  output.labels = labels.data();
  output.evicted = evicted.data();
  std::vector<std::byte> scratch(fkv::golden_eviction_bytes(fkv::host, extents.config, extents.shape));
  for (auto _ : run) {
    if (!fkv::golden_eviction(fkv::host, extents.config, input, output, {scratch.data(), scratch.size()}).ok())
      run.SkipWithError("golden_eviction failed");
    benchmark::ClobberMemory();
  }
  count(run, extents);
  run.counters["workspace_bytes"] = static_cast<double>(scratch.size());
}

// The product alone, without the keys above the diagonal: what is left if exponents and sums are free.
void same_flops_matrix_product(benchmark::State& run) {
  namespace host = fkv::detail::host;
  axes const extents(run);
  auto const given = golden_oracle::random_problem(extents.shape, 1, 1.0f);
  int const tokens = extents.shape.tokens, dim = extents.shape.head_dim, rows = host::block_means_plan::tile;
  host::with_best_isa([&](auto isa) __attribute__((always_inline)) {
    using isa_type = decltype(isa);
    auto const stride = static_cast<std::size_t>(host::padded<isa_type>(tokens));
    std::vector<float> packed(host::packed_floats<isa_type>(tokens, dim)), logits(stride * rows);
    for (auto _ : run) {
      for (int head = 0; head < given.heads(); ++head) {
        auto const row = [&](std::vector<float> const& values, int index, int t) {
          return values.data() + (static_cast<std::ptrdiff_t>(index) * tokens + t) * dim;
        };
        int const kv_head = head / extents.shape.group;
        if (head % extents.shape.group == 0)
          host::pack_keys<isa_type>([&](int t) { return row(given.keys, kv_head, t); }, tokens, dim, packed.data());
        for (int first = extents.config.first_block() * extents.config.interval; first < tokens; first += rows) {
          int const number = tokens - first < rows ? tokens - first : rows;
          host::logits<isa_type>(row(given.queries, head, first), number, dim, packed.data(), first + number,
                                 logits.data(), stride);
        }
      }
      benchmark::ClobberMemory();
    }
  });
  count(run, extents);
}

// T x T attention in double precision, every step over every future block.
void naive(benchmark::State& run) {
  axes const extents(run);
  auto const given = golden_oracle::random_problem(extents.shape, 1, 1.0f);
  double const scale = 1.0 / std::sqrt(static_cast<double>(extents.shape.head_dim));
  int const tokens = extents.shape.tokens, blocks = extents.config.future_blocks(tokens);
  for (auto _ : run) {
    auto const means = golden_oracle::block_means(extents.config, given, scale);
    for (int head = 0; head < extents.shape.kv_heads; ++head)
      benchmark::DoNotOptimize(golden_oracle::solve(extents.config, tokens, blocks, [&](int block, int k) {
        return means[static_cast<std::size_t>((head * blocks + block) * tokens + k)];
      }));
  }
  count(run, extents);
}

// The steps alone, from block means in memory.
void from_block_means(benchmark::State& run) {
  axes const extents(run);
  int const tokens = extents.shape.tokens, kv_heads = extents.shape.kv_heads;
  int const blocks = extents.config.future_blocks(tokens);
  auto const given = golden_oracle::random_problem({kv_heads, 1, tokens, blocks}, 1, 1.0f);
  auto const means = fkv::golden_means::block_major(given.keys.data(), kv_heads, tokens, blocks);
  std::vector<std::int32_t> evicted(
      static_cast<std::size_t>(extents.config.steps(tokens) * kv_heads * extents.config.interval));
  fkv::golden_output output;
  output.evicted = evicted.data();
  std::vector<std::byte> scratch(fkv::golden_eviction_bytes(fkv::host, extents.config, means));
  for (auto _ : run) {
    if (!fkv::golden_eviction(fkv::host, extents.config, means, output, {scratch.data(), scratch.size()}).ok())
      run.SkipWithError("golden_eviction failed");
    benchmark::ClobberMemory();
  }
  run.SetItemsProcessed(run.iterations() * extents.config.steps(tokens) * kv_heads);
}

}  // namespace

BENCHMARK(golden_eviction<float, false>)->Name("golden/float")->Apply(sweep);
BENCHMARK(golden_eviction<float, true>)->Name("golden/float/lse")->Apply(sweep);
BENCHMARK(golden_eviction<fkv::half, false>)->Name("golden/half")->Apply(sweep);
BENCHMARK(golden_eviction<fkv::bfloat16, false>)->Name("golden/bfloat16")->Apply(sweep);
BENCHMARK(same_flops_matrix_product)->Name("golden/same_flops_product/one_thread")->Apply(sweep);
BENCHMARK(from_block_means)->Name("golden/from_block_means")->Apply(sweep);
BENCHMARK(golden_eviction<float, false>)->Name("golden/float/small")->Apply(small);
BENCHMARK(naive)->Name("golden/naive/small")->Apply(small);
