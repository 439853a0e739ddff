// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>

#include <new>

#include "device.hpp"

namespace support {
namespace {

/// The host may touch it whenever no kernel runs.
class managed_memory : public std::pmr::memory_resource {
  void* do_allocate(std::size_t bytes, std::size_t) override {
    void* memory = nullptr;
    if (cudaMallocManaged(&memory, bytes == 0 ? 1 : bytes) != cudaSuccess) throw std::bad_alloc();
    return memory;
  }
  void do_deallocate(void* memory, std::size_t, std::size_t) override { (void)cudaFree(memory); }
  [[nodiscard]] bool do_is_equal(std::pmr::memory_resource const& other) const noexcept override {
    return this == &other;
  }
};

}  // namespace

std::string cuda_problem() {
  int count = 0;
  cudaError_t const error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return count > 0 ? "" : "no CUDA device";
}

std::pmr::memory_resource* cuda_memory() {
  static managed_memory memory;
  return &memory;
}

}  // namespace support
