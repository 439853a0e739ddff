// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <cuda_runtime.h>
#include <foresightkv/foresightkv.cuh>
#include <stdexcept>
#include <utility>
#include <vector>

#include "support/random.hpp"

namespace benchmarks {

namespace fkv = foresightkv;

inline void require(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}
inline void require(fkv::status done) {
  if (!done.ok()) throw std::runtime_error(done.message());
}

/// The device of all benchmarks.
inline fkv::device_traits const& traits() {
  static fkv::device_traits const found = fkv::device_traits::query();
  return found;
}

/// Device memory.
template <class Element>
class device_buffer {
 public:
  explicit device_buffer(std::size_t count) : count_(count) {
    require(cudaMalloc(&data_, count == 0 ? 1 : count * sizeof(Element)));
    require(cudaMemset(data_, 0, count * sizeof(Element)));
  }
  explicit device_buffer(std::vector<Element> const& values) : device_buffer(values.size()) {
    require(cudaMemcpy(data_, values.data(), values.size() * sizeof(Element), cudaMemcpyHostToDevice));
  }
  device_buffer(device_buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), count_(other.count_) {}
  ~device_buffer() { (void)cudaFree(data_); }

  /// Repeats a block of random normal numbers.
  void fill_normal(std::uint64_t seed) {
    testing::random_source random(seed);
    std::vector<Element> block(count_ < block_size ? count_ : block_size);
    random.fill_normal<Element>(block);
    for (std::size_t at = 0; at < count_; at += block.size())
      require(cudaMemcpy(data_ + at, block.data(), (count_ - at < block.size() ? count_ - at : block.size()) * sizeof(Element),
                         cudaMemcpyHostToDevice));
  }
  [[nodiscard]] Element* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return count_; }

 private:
  static constexpr std::size_t block_size = std::size_t{1} << 22;

  Element* data_ = nullptr;
  std::size_t count_ = 0;
};

/// A model at the moment of an eviction. Axes: batch, budget, interval; Qwen3-4B otherwise: 36 layers, 8 KV heads, group
/// 4, head dimension 128.
struct model_axes {
  int batch, budget, interval;

  explicit model_axes(benchmark::State const& state)
      : batch(static_cast<int>(state.range(0))),
        budget(static_cast<int>(state.range(1))),
        interval(static_cast<int>(state.range(2))) {}

  [[nodiscard]] int tokens() const { return budget + interval; }
  [[nodiscard]] fkv::cache_shape shape() const {
    return {.num_layers = 36, .num_sequences = batch, .num_kv_heads = 8, .group = 4, .key_head_dim = 128,
            .value_head_dim = 128, .capacity = tokens()};
  }
  [[nodiscard]] fkv::eviction_config config() const { return {.budget = budget, .interval = interval}; }
  [[nodiscard]] double rows() const { return 288.0 * batch; }
};

inline void model_sweep(benchmark::internal::Benchmark* run) {
  run->ArgNames({"batch", "budget", "interval"});
  for (int batch : {1, 16}) run->Args({batch, 1024, 128});
  for (int budget : {2048, 4096}) run->Args({1, budget, 128});
  run->Args({1, 1024, 256});
  run->Unit(benchmark::kMicrosecond)->UseManualTime();
}

/// Caches full of tokens, their windows, state and every buffer of a call.
template <class Element, class Policy>
class device_setting {
 public:
  device_setting(model_axes const& extents, Policy const& policy, std::uint64_t seed = 1)
      : shape(extents.shape()),
        rule(policy),
        list{nullptr, nullptr, extents.batch, extents.tokens()},
        interval_(extents.interval),
        keys_(slots() * 128),
        values_(slots() * 128),
        queries_(queries() * 128),
        lse_(std::vector<float>(queries(), 8.0f)),
        lengths_(std::vector<std::int32_t>(static_cast<std::size_t>(extents.batch), extents.tokens())),
        new_lengths_(static_cast<std::size_t>(extents.batch)),
        scores_(slots()),
        kept_(slots()),
        evicted_(slots()),
        evicted_count_(static_cast<std::size_t>(shape.num_rows())),
        state_bytes_(fkv::state_bytes<Policy>(shape, extents.tokens())),
        scratch_(fkv::evict_bytes<Policy>(fkv::prepare(traits()), shape, list, extents.interval)),
        state(fkv::make_state<Policy>(shape, extents.tokens(), {state_bytes_.data(), state_bytes_.size()})) {
    keys_.fill_normal(seed);
    values_.fill_normal(seed + 1);
    queries_.fill_normal(seed + 2);
    scores_.fill_normal(seed + 3);
    require(fkv::reset(fkv::on(cudaStreamPerThread, traits()), state, list));
    require(cudaStreamSynchronize(cudaStreamPerThread));
  }

  [[nodiscard]] auto cache() const {
    return fkv::dense_cache<Element>::hnd(keys_.data(), values_.data(), lengths_.data(), shape);
  }
  [[nodiscard]] auto window() const { return fkv::observation<Element>::hnd(queries_.data(), shape, interval_); }
  [[nodiscard]] auto window_with_lse() const { return window().with_lse(lse_.data()); }
  [[nodiscard]] fkv::workspace scratch() const { return {scratch_.data(), scratch_.size()}; }
  [[nodiscard]] fkv::score_view score_rows() const { return {scores_.data(), shape.capacity}; }
  [[nodiscard]] fkv::selection lists() const {
    return {kept_.data(), evicted_.data(), evicted_count_.data(), nullptr, shape.capacity};
  }
  [[nodiscard]] std::int32_t* new_lengths() const { return new_lengths_.data(); }
  [[nodiscard]] double cache_bytes() const { return 2.0 * static_cast<double>(keys_.size() * sizeof(Element)); }

 private:
  [[nodiscard]] std::size_t slots() const {
    return static_cast<std::size_t>(shape.num_rows()) * static_cast<std::size_t>(shape.capacity);
  }
  [[nodiscard]] std::size_t queries() const {
    return static_cast<std::size_t>(shape.num_rows() * shape.group) * static_cast<std::size_t>(interval_);
  }

 public:
  fkv::cache_shape shape;
  Policy rule;
  fkv::sequence_list list;

 private:
  int interval_;
  device_buffer<Element> keys_, values_, queries_;
  device_buffer<float> lse_;
  device_buffer<std::int32_t> lengths_, new_lengths_;
  device_buffer<float> scores_;
  device_buffer<std::int32_t> kept_, evicted_, evicted_count_;
  device_buffer<std::byte> state_bytes_, scratch_;

 public:
  fkv::eviction_state<Policy> state;
};

/// Settings enough that their caches together do not stay in the L2 cache.
template <class Setting, class Policy>
std::vector<Setting> rotation(model_axes const& extents, Policy const& policy) {
  constexpr double enough = 4 * 60e6;
  std::vector<Setting> all;
  double bytes = 0.0;
  while (bytes < enough || all.size() < 2) {
    all.emplace_back(extents, policy, 10 * all.size() + 1);
    bytes += all.back().cache_bytes();
  }
  return all;
}

/// Times calls as an engine makes them: captured once per setting, then replayed in turn. Manual time of one call, from
/// events around a replay of all settings.
template <class Setting, class Call>
void replay(benchmark::State& run, std::vector<Setting>& settings, Call const& call) {
  if (traits().native != cudaSuccess) {
    run.SkipWithError(cudaGetErrorString(static_cast<cudaError_t>(traits().native)));
    return;
  }
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t captured = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;
  require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  require(cudaEventCreate(&begin));
  require(cudaEventCreate(&end));
  require(call(fkv::prepare(traits()), settings.front()));
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (Setting& setting : settings) require(call(fkv::on(stream, traits()), setting));
  require(cudaStreamEndCapture(stream, &graph));
  require(cudaGraphInstantiate(&captured, graph, 0));
  for (int warm_up = 0; warm_up < 3; ++warm_up) require(cudaGraphLaunch(captured, stream));
  for (auto _ : run) {
    require(cudaEventRecord(begin, stream));
    require(cudaGraphLaunch(captured, stream));
    require(cudaEventRecord(end, stream));
    require(cudaEventSynchronize(end));
    float milliseconds = 0.0f;
    require(cudaEventElapsedTime(&milliseconds, begin, end));
    run.SetIterationTime(1e-3 * static_cast<double>(milliseconds) / static_cast<double>(settings.size()));
  }
  require(cudaGraphExecDestroy(captured));
  require(cudaGraphDestroy(graph));
  require(cudaEventDestroy(begin));
  require(cudaEventDestroy(end));
  require(cudaStreamDestroy(stream));
}

inline void count_bytes(benchmark::State& state, double bytes) {
  state.counters["bytes"] =
      benchmark::Counter(bytes, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
}
inline void count_flops(benchmark::State& state, double flops) {
  state.counters["FLOP"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
}

}  // namespace benchmarks
