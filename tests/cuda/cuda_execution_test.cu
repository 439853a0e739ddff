// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <concepts>
#include <cstddef>

#include <foresightkv/cuda_execution.cuh>

namespace fkv = foresightkv;

namespace {

template <class Stream>
concept names_a_stream = requires(Stream stream, fkv::device_traits const& traits) {
  { fkv::on(stream, traits) } -> std::same_as<fkv::cuda_execution>;
};
static_assert(names_a_stream<cudaStream_t>);
static_assert(!names_a_stream<std::nullptr_t> && !names_a_stream<int>, "a null stream is nobody's choice");

}  // namespace

TEST_CASE("traits describe the current device") {
  fkv::device_traits const traits = fkv::device_traits::query();
  REQUIRE(traits.native == cudaSuccess);
  cudaDeviceProp properties{};
  REQUIRE(cudaGetDeviceProperties(&properties, traits.device) == cudaSuccess);
  CHECK(traits.compute_capability == properties.major * 10 + properties.minor);
  CHECK(traits.num_multiprocessors == properties.multiProcessorCount);
  CHECK(traits.shared_bytes_per_block == properties.sharedMemPerBlockOptin);
  CHECK(traits.shared_bytes_per_multiprocessor == properties.sharedMemPerMultiprocessor);
}

TEST_CASE("tags carry what they were made of, and traits that nobody asked for hold an error") {
  fkv::device_traits traits;
  CHECK(traits.native != cudaSuccess);
  traits.compute_capability = 90;
  CHECK(fkv::on(cudaStreamPerThread, traits).stream == cudaStreamPerThread);
  CHECK(fkv::on(cudaStreamLegacy, traits).traits.compute_capability == 90);
  CHECK(fkv::prepare(traits).traits.compute_capability == 90);
}
