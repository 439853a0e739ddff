// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <benchmark/benchmark.h>

#include <cuda_runtime.h>
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <foresightkv/foresightkv.cuh>
#include <stdexcept>
#include <utility>
#include <vector>

#include "support/floor.hpp"
#include "support/random.hpp"
#include "support/yardsticks.hpp"

namespace benchmarks {

namespace fkv = foresightkv;

inline void require(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}
inline void require(fkv::status done) {
  if (!done.ok()) throw std::runtime_error(done.message());
}
inline void require(bool holds, char const* otherwise) {
  if (!holds) throw std::runtime_error(otherwise);
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
    require(cudaMalloc(&data_, std::max<std::size_t>(count * sizeof(Element), 1)));
    require(cudaMemset(data_, 0, count * sizeof(Element)));
  }
  explicit device_buffer(std::vector<Element> const& values) : device_buffer(values.size()) {
    require(cudaMemcpy(data_, values.data(), values.size() * sizeof(Element), cudaMemcpyHostToDevice));
  }
  device_buffer(device_buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), count_(other.count_) {}
  ~device_buffer() { (void)cudaFree(data_); }

  /// Repeats a block of values.
  void fill(device_buffer const& block) {
    for (std::size_t at = 0; at < count_; at += block.count_)
      require(cudaMemcpy(data_ + at, block.data_, std::min(count_ - at, block.count_) * sizeof(Element),
                         cudaMemcpyDeviceToDevice));
  }
  void fill_normal();

  [[nodiscard]] Element* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return count_; }
  /// The first values, on the host.
  [[nodiscard]] std::vector<Element> read(std::size_t count) const {
    std::vector<Element> values(count);
    require(cudaMemcpy(values.data(), data_, count * sizeof(Element), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  Element* data_ = nullptr;
  std::size_t count_ = 0;
};

/// A block of random normal numbers, int8 ones in fiftieths, drawn once: long enough that no cache holds what repeats.
template <class Element>
device_buffer<Element> const& normal_block() {
  static device_buffer<Element> const block = [] {
    testing::random_source random(1);
    std::vector<Element> values((std::size_t{1} << 22) - 3);  // rows and heads start at different places of it
    random.fill_normal<Element>(values, sizeof(Element) == 1 ? 50.0f : 1.0f);
    return device_buffer<Element>(values);
  }();
  return block;
}

template <class Element>
void device_buffer<Element>::fill_normal() {
  fill(normal_block<Element>());
}

/// A CUDA handle that ends with its scope.
template <class Handle, cudaError_t (*Destroy)(Handle)>
class owned {
 public:
  owned() = default;
  owned(owned const&) = delete;
  ~owned() {
    if (handle_ != nullptr) (void)Destroy(handle_);
  }
  Handle* out() { return &handle_; }
  operator Handle() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};

/// A stream and two events on it.
class stream_clock {
 public:
  stream_clock() {
    require(cudaStreamCreateWithFlags(stream_.out(), cudaStreamNonBlocking));
    require(cudaEventCreate(begin_.out()));
    require(cudaEventCreate(end_.out()));
  }
  [[nodiscard]] cudaStream_t stream() const { return stream_; }

  /// Seconds between two events around what `launch` puts into the stream.
  template <class Launch>
  double seconds(Launch const& launch) const {
    require(cudaEventRecord(begin_, stream_));
    launch();
    require(cudaEventRecord(end_, stream_));
    require(cudaEventSynchronize(end_));
    float milliseconds = 0.0f;
    require(cudaEventElapsedTime(&milliseconds, begin_, end_));
    return 1e-3 * static_cast<double>(milliseconds);
  }

 private:
  owned<cudaStream_t, cudaStreamDestroy> stream_;
  owned<cudaEvent_t, cudaEventDestroy> begin_, end_;
};

/// Times calls as an engine makes them: recorded in a graph, one call per setting, which is replayed up to 50 times
/// between two events; up to 5 such repeats, fewer of what takes long. `record(stream, setting)` launches one call; the
/// first one is made outside the graph, so that its kernels are loaded.
template <class Setting, class Record>
call_time time_replays(std::vector<Setting>& settings, Record const& record) {
  constexpr double repeat_seconds = 0.02, all_seconds = 1.0;
  stream_clock const clock;
  cudaStream_t const stream = clock.stream();
  require(cudaDeviceSynchronize());  // settings were filled by the legacy stream, which this one does not wait for
  record(stream, settings.front());
  require(cudaStreamSynchronize(stream));
  owned<cudaGraph_t, cudaGraphDestroy> graph;
  owned<cudaGraphExec_t, cudaGraphExecDestroy> replayed;
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (Setting& setting : settings) record(stream, setting);
  require(cudaStreamEndCapture(stream, graph.out()));
  require(cudaGraphInstantiate(replayed.out(), graph, 0));
  auto const seconds = [&](int replays) {
    return clock.seconds([&] {
      for (int i = 0; i < replays; ++i) require(cudaGraphLaunch(replayed, stream));
    });
  };
  (void)seconds(1);
  double const once = seconds(1);
  int const replays = static_cast<int>(std::clamp(repeat_seconds / once, 1.0, 50.0));
  std::vector<double> repeats(static_cast<std::size_t>(std::clamp(all_seconds / once, 2.0, 5.0)));
  for (double& repeat : repeats) repeat = seconds(replays) / replays / static_cast<double>(settings.size());
  std::ranges::sort(repeats);
  return {repeats[repeats.size() / 2], repeats.front()};
}

/// Hands a time over, with what the kernels of the call have to do and how long that must take.
inline void report(benchmark::State& run, call_time const& time, std::initializer_list<work> kernels) {
  for (auto _ : run) run.SetIterationTime(time.median);
  device_rates const& rates = measured_rates();
  work all;
  for (work const& kernel : kernels) all = all + kernel;
  run.counters["least_us"] = 1e6 * time.least;
  run.counters["bytes"] = all.bytes;
  run.counters["FLOP"] = all.flops;
  run.counters["floor_us"] = 1e6 * floor_seconds(kernels, rates.copied_bytes, rates.flops);
  run.counters["mma_floor_us"] = 1e6 * floor_seconds(kernels, rates.copied_bytes, rates.mma_flops);
}

/// A benchmark as BENCHMARK takes it: what it throws, such as for want of memory, is reported and the next one runs.
template <void (*Function)(benchmark::State&)>
void on_device(benchmark::State& run) {
  try {
    require(static_cast<cudaError_t>(traits().native));
    Function(run);
  } catch (std::exception const& problem) {
    (void)cudaGetLastError();
    run.SkipWithError(problem.what());
  }
}

/// Every benchmark measures for itself: one iteration is the median of its repeats.
inline void one_measurement(benchmark::internal::Benchmark* run) {
  run->Iterations(1)->UseManualTime()->Unit(benchmark::kMicrosecond);
}

/// How many settings of so many bytes it takes that none of them is still in the L2 cache when its turn comes.
inline std::size_t cold_settings(double bytes, std::size_t most = 192) {
  constexpr double enough = 4 * 60e6;
  return std::clamp(static_cast<std::size_t>(enough / bytes) + 1, std::size_t{1}, most);
}

/// The time that a device needs to copy as much as `kernels` read and write.
inline call_time time_copy(std::initializer_list<work> kernels) {
  double traffic = 0.0;
  for (work const& kernel : kernels) traffic += kernel.bytes;
  auto const bytes = static_cast<std::size_t>(traffic / 2);
  using pair = std::array<device_buffer<std::byte>, 2>;
  std::vector<pair> settings;
  for (std::size_t i = 0; i < cold_settings(traffic); ++i)
    settings.push_back({device_buffer<std::byte>(bytes), device_buffer<std::byte>(bytes)});
  return time_replays(settings, [&](cudaStream_t stream, pair const& at) {
    require(cudaMemcpyAsync(at[1].data(), at[0].data(), bytes, cudaMemcpyDeviceToDevice, stream));
  });
}

}  // namespace benchmarks
