// SPDX-License-Identifier: Apache-2.0
#pragma once

/// \file
/// The evictor of a device: `fkv::evictor evictor{fkv::on(stream, traits), policy, shape, max_queries}`.

#include <foresightkv/evictor.hpp>
#include <foresightkv/foresightkv.cuh>

namespace foresightkv::inline v0::detail {

/// Memory of a stream's pool, given back in the stream's order.
template <class Architectures>
class owned_memory<basic_cuda_execution<Architectures>> {
  using execution = basic_cuda_execution<Architectures>;

 public:
  owned_memory(execution const& exec, std::size_t bytes) : stream_(exec.stream) {
    error_ = exec.traits.native != cudaSuccess ? static_cast<cudaError_t>(exec.traits.native)
                                               : cudaMallocAsync(&data_, bytes, stream_);
    if (error_ == cudaSuccess) size_ = bytes;
  }
  owned_memory(owned_memory const&) = delete;
  owned_memory& operator=(owned_memory const&) = delete;
  ~owned_memory() {
    if (data_ != nullptr) (void)cudaFreeAsync(data_, stream_);
  }

  [[nodiscard]] workspace view() { return {static_cast<std::byte*>(data_), size_}; }
  [[nodiscard]] status allocated() const { return error_ == cudaSuccess ? status{} : status{errc::cuda, error_}; }

  static status clear(execution const& exec, workspace buffer) {
    auto const error = cudaMemsetAsync(buffer.data, 0, buffer.size, exec.stream);
    return error == cudaSuccess ? status{} : status{errc::cuda, error};
  }
  template <class Cache>
  static status copy_lengths(execution const& exec, Cache const& cache, std::int32_t* to) {
    static_assert(
        requires { cache.lengths(); }, "foresightkv: an evictor on a device needs the cache's lengths()");
    auto const bytes = static_cast<std::size_t>(num_lengths(Cache::domain, cache.shape())) * sizeof(std::int32_t);
    auto const error = cudaMemcpyAsync(to, cache.lengths(), bytes, cudaMemcpyDeviceToDevice, exec.stream);
    return error == cudaSuccess ? status{} : status{errc::cuda, error};
  }

 private:
  cudaStream_t stream_;
  void* data_ = nullptr;
  std::size_t size_ = 0;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace foresightkv::inline v0::detail
