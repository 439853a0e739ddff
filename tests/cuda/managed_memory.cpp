// SPDX-License-Identifier: Apache-2.0
// The operators new and delete of the CUDA test program: tests written for the host keep their std::vectors, kernels
// read them. Until use_managed_memory is called they are malloc and free: static initialisation may not call CUDA.
#include "cuda/managed_memory.hpp"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdlib>
#include <cuda_runtime.h>
#include <mutex>
#include <new>
#include <utility>

namespace {

struct free_block {
  free_block* next;
};

/// Blocks of 2^order bytes, aligned to their size up to a page. A page holds blocks of one order and a block is never
/// given back, so that an address alone tells the list that it returns to.
class block_pool {
 public:
  static constexpr int page_order = 20;
  static constexpr std::size_t page_size = std::size_t{1} << page_order;
  static constexpr std::size_t num_pages = std::size_t{1} << 14;

  [[nodiscard]] bool open() const { return pages_ != nullptr; }

  void start(void* memory) {
    auto const misaligned = reinterpret_cast<std::size_t>(memory) % page_size;
    pages_ = static_cast<std::byte*>(memory) + (misaligned == 0 ? 0 : page_size - misaligned);
  }

  [[nodiscard]] bool owns(void const* block) const {
    return open() && block >= pages_ && block < pages_ + num_pages * page_size;
  }

  void* allocate(std::size_t size, std::size_t alignment) {
    auto const order = std::max(smallest_order, std::bit_width(std::max(size, alignment) - 1));
    std::lock_guard const lock(mutex_);
    free_block*& list = free_[order];
    if (list == nullptr) list = carve(order);
    if (list == nullptr) return nullptr;
    return std::exchange(list, list->next);
  }

  void deallocate(void* block) {
    auto const page = static_cast<std::size_t>(static_cast<std::byte*>(block) - pages_) / page_size;
    std::lock_guard const lock(mutex_);
    free_block*& list = free_[order_of_[page]];
    list = new (block) free_block{list};
  }

 private:
  static constexpr std::size_t smallest_order = 5;

  free_block* carve(std::size_t order) {
    std::size_t const size = std::size_t{1} << order;
    std::size_t const pages = std::max<std::size_t>(size / page_size, 1);
    if (pages > num_pages - used_) return nullptr;
    order_of_[used_] = static_cast<unsigned char>(order);
    std::byte* const first = pages_ + used_ * page_size;
    used_ += pages;
    free_block* list = nullptr;
    for (std::size_t end = pages * page_size; end > 0; end -= size) list = new (first + end - size) free_block{list};
    return list;
  }

  std::mutex mutex_;
  std::byte* pages_ = nullptr;
  std::size_t used_ = 0;
  unsigned char order_of_[num_pages] = {};
  free_block* free_[64] = {};
};

constinit block_pool pool;

void* allocate(std::size_t size, std::size_t alignment) {
  std::size_t const rounded = (std::max<std::size_t>(size, 1) + alignment - 1) / alignment * alignment;
  void* const block = pool.open() ? pool.allocate(rounded, alignment) : std::aligned_alloc(alignment, rounded);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

void deallocate(void* block) {
  if (pool.owns(block))
    pool.deallocate(block);
  else
    std::free(block);
}

}  // namespace

bool testing::use_managed_memory() {
  int device = 0, concurrent = 0;
  void* memory = nullptr;
  bool const shared =
      cudaGetDevice(&device) == cudaSuccess &&
      cudaDeviceGetAttribute(&concurrent, cudaDevAttrConcurrentManagedAccess, device) == cudaSuccess &&
      concurrent != 0 &&
      cudaMallocManaged(&memory, (block_pool::num_pages + 1) * block_pool::page_size) == cudaSuccess;
  if (shared) pool.start(memory);
  return shared;
}

// The array and nothrow forms of the standard library call these.
void* operator new(std::size_t size) { return allocate(size, __STDCPP_DEFAULT_NEW_ALIGNMENT__); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* block) noexcept { deallocate(block); }
void operator delete(void* block, std::size_t) noexcept { deallocate(block); }
void operator delete(void* block, std::align_val_t) noexcept { deallocate(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { deallocate(block); }
