// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>

namespace testing {

/// Hands out blocks of one large piece of memory, each between two red zones. A block has 2^order bytes and is aligned
/// to them up to a page; a page holds blocks of one order and keeps them, so that an address alone tells the list that
/// a block returns to. Zones hold a pattern that is a NaN in every element type: what is read there shows in results.
/// What was written there is found when the block is given back.
class block_pool {
 public:
  static constexpr int page_order = 20;
  static constexpr std::size_t page_size = std::size_t{1} << page_order;
  static constexpr std::size_t most_pages = std::size_t{1} << 14;
  static constexpr std::size_t zone = 64;              ///< least bytes before and behind a block
  static constexpr std::size_t checked_behind = 4096;  ///< at most so many behind it are looked at

  /// From now on blocks come from here. `bytes` include what it takes to begin at a whole page.
  void start(void* memory, std::size_t bytes) {
    auto const misaligned = reinterpret_cast<std::size_t>(memory) % page_size;
    std::size_t const skipped = misaligned == 0 ? 0 : page_size - misaligned;
    pages_ = static_cast<std::byte*>(memory) + skipped;
    num_pages_ = std::min(most_pages, (bytes - skipped) / page_size);
  }
  [[nodiscard]] bool open() const { return pages_ != nullptr; }
  [[nodiscard]] bool owns(void const* block) const {
    return open() && block >= pages_ && block < pages_ + num_pages_ * page_size;
  }

  /// Null where nothing is left.
  void* allocate(std::size_t size, std::size_t alignment) {
    std::size_t const front = std::max(zone, alignment);
    auto const order = static_cast<std::size_t>(std::bit_width(front + size + zone - 1));
    std::byte* const block = take(order);
    if (block == nullptr) return nullptr;
    new (block) header{size, front};
    fill(block + sizeof(header), block + front);
    fill(block + front + size, block + end_of_check(order, front + size));
    return block + front;
  }

  void deallocate(void* memory) {
    auto* const at = static_cast<std::byte*>(memory);
    std::size_t const order = order_of_[static_cast<std::size_t>(at - pages_) / page_size];
    std::byte* const block = start_of(at, order);
    header const made = *std::launder(reinterpret_cast<header*>(block));
    bool const whole = block + made.front == at && made.size <= std::size_t{1} << order &&
                       intact(block + sizeof(header), at) &&
                       intact(at + made.size, block + end_of_check(order, made.front + made.size));
    std::lock_guard const lock(mutex_);
    if (!whole) {
      ++broken_;
      std::fprintf(stderr, "written outside a block: %zu bytes at %p\n", made.size, memory);
    }
    free_[order] = new (block) free_block{free_[order]};
  }

  /// Blocks that were found to be written outside of.
  [[nodiscard]] int broken() const { return broken_; }

 private:
  struct free_block {
    free_block* next;
  };
  struct header {
    std::size_t size, front;
  };
  static_assert(sizeof(header) < zone);

  // 0xFFC5FFC5 as a float; each half of it as half and as bfloat16; 0xFF as fp8.
  static std::byte pattern(void const* at) {
    return reinterpret_cast<std::size_t>(at) % 2 == 0 ? std::byte{0xC5} : std::byte{0xFF};
  }
  static void fill(std::byte* first, std::byte const* last) {
    for (; first < last; ++first) *first = pattern(first);
  }
  static bool intact(std::byte const* first, std::byte const* last) {
    return first >= last || std::all_of(first, last, [](std::byte const& byte) { return byte == pattern(&byte); });
  }
  static std::size_t end_of_check(std::size_t order, std::size_t end) {
    return std::min(std::size_t{1} << order, end + checked_behind);
  }
  /// Blocks larger than a page begin at the first of their pages.
  [[nodiscard]] std::byte* start_of(std::byte* at, std::size_t order) const {
    auto const offset = static_cast<std::size_t>(at - pages_);
    std::size_t const whole = std::min(std::size_t{1} << order, page_size);
    return pages_ + offset / whole * whole;
  }

  std::byte* take(std::size_t order) {
    std::lock_guard const lock(mutex_);
    if (free_[order] == nullptr) free_[order] = carve(order);
    if (free_[order] == nullptr) return nullptr;
    return reinterpret_cast<std::byte*>(std::exchange(free_[order], free_[order]->next));
  }
  free_block* carve(std::size_t order) {
    std::size_t const size = std::size_t{1} << order;
    std::size_t const pages = std::max<std::size_t>(size / page_size, 1);
    if (pages > num_pages_ - used_) return nullptr;
    order_of_[used_] = static_cast<unsigned char>(order);
    std::byte* const first = pages_ + used_ * page_size;
    used_ += pages;
    free_block* list = nullptr;
    for (std::size_t end = pages * page_size; end > 0; end -= size) list = new (first + end - size) free_block{list};
    return list;
  }

  std::mutex mutex_;
  std::byte* pages_ = nullptr;
  std::size_t num_pages_ = 0, used_ = 0;
  int broken_ = 0;
  unsigned char order_of_[most_pages] = {};
  free_block* free_[64] = {};
};

}  // namespace testing
