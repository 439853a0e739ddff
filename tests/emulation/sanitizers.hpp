// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

// What the sanitizers have to be told of call stacks that they did not make. Nothing in other builds.

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FORESIGHTKV_TEST_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define FORESIGHTKV_TEST_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define FORESIGHTKV_TEST_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define FORESIGHTKV_TEST_TSAN 1
#endif

#if defined(FORESIGHTKV_TEST_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(FORESIGHTKV_TEST_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace testing::sanitizers {

#if defined(FORESIGHTKV_TEST_TSAN)
inline constexpr bool thread = true;
#else
inline constexpr bool thread = false;
#endif

/// A call stack as the sanitizers know it.
struct stack {
  void const* bottom = nullptr;
  std::size_t bytes = 0;
  void* fake = nullptr;    // AddressSanitizer's frames of functions that have returned
  void* thread = nullptr;  // ThreadSanitizer's name of the stack
};

/// Of a thread: where it lies is told by the first switch away from it.
inline stack this_stack() {
  stack made;
#if defined(FORESIGHTKV_TEST_TSAN)
  made.thread = __tsan_get_current_fiber();
#endif
  return made;
}

inline stack new_stack(void const* bottom, std::size_t bytes) {
  stack made{bottom, bytes, nullptr, nullptr};
#if defined(FORESIGHTKV_TEST_TSAN)
  made.thread = __tsan_create_fiber(0);
#endif
  return made;
}

inline void destroy([[maybe_unused]] stack& gone) {
#if defined(FORESIGHTKV_TEST_TSAN)
  __tsan_destroy_fiber(gone.thread);
#endif
}

/// Before its memory is given back: frames that were never left keep their zones poisoned.
inline void forget_stack([[maybe_unused]] void const* bottom, [[maybe_unused]] std::size_t bytes) {
#if defined(FORESIGHTKV_TEST_ASAN)
  ASAN_UNPOISON_MEMORY_REGION(bottom, bytes);
#endif
}

inline void before_switch([[maybe_unused]] stack& from, [[maybe_unused]] stack const& to) {
#if defined(FORESIGHTKV_TEST_ASAN)
  __sanitizer_start_switch_fiber(&from.fake, to.bottom, to.bytes);
#endif
#if defined(FORESIGHTKV_TEST_TSAN)
  __tsan_switch_to_fiber(to.thread, 0);
#endif
}

inline void after_switch([[maybe_unused]] stack& to, [[maybe_unused]] stack& from) {
#if defined(FORESIGHTKV_TEST_ASAN)
  __sanitizer_finish_switch_fiber(to.fake, &from.bottom, &from.bytes);
#endif
}

}  // namespace testing::sanitizers
