// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "emulation/block_faults.hpp"

namespace testing {

/// The asynchronous copies of one thread. Source and destination are in use from the start of a copy until it
/// lands: the destination holds poison so long, and the source is read at both ends, of which one counts.
class async_copies {
 public:
  /// For a new block.
  void clear() {
    copies_.clear();
    groups_.clear();
    uncommitted_ = 0;
    second_ = false;
  }

  /// `early`: what the source holds now counts, not what it holds when the copy lands.
  template <int Bytes>
  void start(void* to, void const* from, bool early, block_faults const& faults) {
    static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
    if (address(to) % Bytes != 0 || address(from) % Bytes != 0)
      throw block_misuse("copy_async: an address is not aligned to the number of bytes");
    copy made{to, from, Bytes, early, {}};
    std::memcpy(made.data, from, Bytes);
    for (int byte = 0; byte < Bytes; byte += 4)
      std::memcpy(static_cast<std::byte*>(to) + byte, &shared_poison, sizeof shared_poison);
    bool const second = std::exchange(second_, !second_);
    if (faults.swapped_copies && second && !copies_.empty() && copies_.back().bytes == Bytes)
      std::swap(copies_.back().to, made.to);
    copies_.push_back(made);
    ++uncommitted_;
  }

  void commit() { groups_.push_back(std::exchange(uncommitted_, 0)); }

  /// Lands all groups but the last `pending`.
  void wait(int pending) {
    auto const closed = static_cast<std::ptrdiff_t>(groups_.size()) - pending;
    if (closed <= 0) return;
    std::ptrdiff_t landed = 0;
    for (std::ptrdiff_t group = 0; group < closed; ++group) landed += groups_[static_cast<std::size_t>(group)];
    for (std::ptrdiff_t i = 0; i < landed; ++i) land(copies_[static_cast<std::size_t>(i)]);
    copies_.erase(copies_.begin(), copies_.begin() + landed);
    groups_.erase(groups_.begin(), groups_.begin() + closed);
  }

  /// At the end of a block.
  void finish(block_faults const& faults) {
    if (faults.late_landing) {
      for (copy const& each : copies_) land(each);
    } else if (!copies_.empty()) {
      throw block_misuse(uncommitted_ > 0 ? "copy_async: a block ends with copies that it did not commit"
                                          : "copy_async: a block ends with copies that it did not wait for");
    }
  }

 private:
  struct copy {
    void* to;
    void const* from;
    int bytes;
    bool early;
    std::byte data[16];
  };

  static std::uintptr_t address(void const* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

  static void land(copy const& done) {
    auto const bytes = static_cast<std::size_t>(done.bytes);
    std::byte late[16];
    std::memcpy(late, done.from, bytes);
    std::memcpy(done.to, done.early ? done.data : late, bytes);
  }

  std::vector<copy> copies_;  // that have not landed, oldest first
  std::vector<int> groups_;   // copies in each committed group
  int uncommitted_ = 0;
  bool second_ = false;
};

}  // namespace testing
