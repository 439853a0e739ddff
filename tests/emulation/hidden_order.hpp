// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <thread>
#endif

namespace testing {

// Threads that wait for each other without anything that ThreadSanitizer takes for an order of memory.

/// A fence in the hardware that ThreadSanitizer does not see: relaxed accesses before it come before those
/// after it.
inline void order_unseen() {
#if defined(__aarch64__)
  asm volatile("dmb ish" ::: "memory");
#else
  asm volatile("" ::: "memory");  // x86-64 keeps the order of loads, of stores, and of both around a locked operation
#endif
}

/// Sleeps while the word holds this value; may wake early. std::atomic::wait would order what callers share:
/// its table of waiters is made of sequentially consistent operations.
inline void sleep_while(std::atomic<std::uint32_t>& word, std::uint32_t value) {
#if defined(__linux__)
  static_assert(sizeof word == sizeof value && std::atomic<std::uint32_t>::is_always_lock_free);
  ::syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
#else
  if (word.load(std::memory_order_relaxed) == value) std::this_thread::yield();
#endif
}

inline void wake_all(std::atomic<std::uint32_t>& word) {
#if defined(__linux__)
  ::syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 0x7FFFFFFF, nullptr, nullptr, 0);
#else
  (void)word;
#endif
}

}  // namespace testing
