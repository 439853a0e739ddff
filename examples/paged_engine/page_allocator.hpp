// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <stdexcept>
#include <vector>

namespace paged_engine {

/// Pages of a pool, each with the number of sequences that read it. A page that nobody reads is free.
class page_allocator {
 public:
  /// \param memory  of what verbs read: the owners
  explicit page_allocator(int num_pages, std::pmr::memory_resource* memory = std::pmr::new_delete_resource())
      : owners_(static_cast<std::size_t>(num_pages), 0, memory) {
    for (int page = num_pages; page-- > 0;) free_.push_back(page);
  }

  [[nodiscard]] std::int32_t take() {
    if (free_.empty()) throw std::logic_error("no page is free");
    std::int32_t const page = free_.back();
    free_.pop_back();
    at(page) = 1;
    return page;
  }
  /// One more sequence reads a page.
  void share(std::int32_t page) {
    if (at(page) == 0) throw std::logic_error("a free page cannot be shared");
    ++at(page);
  }
  /// One sequence fewer.
  void give_back(std::int32_t page) {
    if (at(page) == 0) throw std::logic_error("a page was given back twice");
    if (--at(page) == 0) free_.push_back(page);
  }

  [[nodiscard]] int num_pages() const { return static_cast<int>(owners_.size()); }
  [[nodiscard]] int num_free() const { return static_cast<int>(free_.size()); }
  [[nodiscard]] std::vector<std::int32_t> const& free_pages() const { return free_; }
  /// [num_pages], as paged_cache::with_owners takes them.
  [[nodiscard]] std::pmr::vector<std::int32_t> const& owners() const { return owners_; }

 private:
  [[nodiscard]] std::int32_t& at(std::int32_t page) { return owners_.at(static_cast<std::size_t>(page)); }

  std::vector<std::int32_t> free_;
  std::pmr::vector<std::int32_t> owners_;
};

}  // namespace paged_engine
