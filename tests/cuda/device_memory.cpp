// SPDX-License-Identifier: Apache-2.0
// The operators new and delete of the CUDA test program: tests written for the host keep their std::vectors, kernels
// read them. Until use_device_memory is called they are malloc and free: static initialisation may not call CUDA.
#include "cuda/device_memory.hpp"

#include <cuda_runtime.h>
#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <new>

#include "support/block_pool.hpp"

namespace {

using testing::block_pool;

constinit block_pool pool;
constinit bool separate = false;
constinit bool managed = false;

/// While it lives this thread may allocate, though a stream is captured.
class uncaptured {
 public:
  uncaptured() { (void)cudaThreadExchangeStreamCaptureMode(&mode_); }
  uncaptured(uncaptured const&) = delete;
  ~uncaptured() { (void)cudaThreadExchangeStreamCaptureMode(&mode_); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

/// Null where there is none.
void* from_cuda(std::size_t size) {
  uncaptured const allowed;
  void* memory = nullptr;
  cudaError_t const error =
      managed ? cudaMallocManaged(&memory, size) : cudaHostAlloc(&memory, size, cudaHostAllocMapped);
  if (error == cudaSuccess) return memory;
  (void)cudaGetLastError();
  return nullptr;
}

/// False where the block is not of CUDA.
bool back_to_cuda(void* block) {
  uncaptured const allowed;
  cudaPointerAttributes about{};
  if (cudaPointerGetAttributes(&about, block) != cudaSuccess) return false;
  if (about.type == cudaMemoryTypeUnregistered) return false;
  (void)(about.type == cudaMemoryTypeManaged ? cudaFree(block) : cudaFreeHost(block));
  return true;
}

void* allocate(std::size_t size, std::size_t alignment) {
  std::size_t const rounded = (std::max<std::size_t>(size, 1) + alignment - 1) / alignment * alignment;
  void* const block = separate      ? from_cuda(std::max<std::size_t>(size, 1))
                      : pool.open() ? pool.allocate(size, alignment)
                                    : std::aligned_alloc(alignment, rounded);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

void deallocate(void* block) {
  if (block == nullptr) return;
  if (pool.owns(block))
    pool.deallocate(block);
  else if (!separate || !back_to_cuda(block))
    std::free(block);
}

/// Managed memory as long as the device has that much free; less where it is memory of the host that is pinned.
std::size_t pool_bytes() {
  std::size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) return 0;
  std::size_t const most = managed ? block_pool::most_pages * block_pool::page_size : std::size_t{2} << 30;
  return std::min(most, free / 2) + block_pool::page_size;
}

}  // namespace

char const* testing::use_device_memory(device_memory kind) {
  int device = 0, concurrent = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&concurrent, cudaDevAttrConcurrentManagedAccess, device);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  managed = concurrent != 0;
  separate = kind == device_memory::separate;
  if (separate) return nullptr;
  std::size_t const bytes = pool_bytes();
  void* const memory = bytes > 0 ? from_cuda(bytes) : nullptr;
  if (memory == nullptr) return "no memory that host and device share";
  pool.start(memory, bytes);
  return nullptr;
}

int testing::blocks_broken() { return pool.broken(); }

// The array and nothrow forms of the standard library call these.
void* operator new(std::size_t size) { return allocate(size, __STDCPP_DEFAULT_NEW_ALIGNMENT__); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* block) noexcept { deallocate(block); }
void operator delete(void* block, std::size_t) noexcept { deallocate(block); }
void operator delete(void* block, std::align_val_t) noexcept { deallocate(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { deallocate(block); }
