// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/ndarray.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <foresightkv/foresightkv.hpp>
#include <map>
#include <mutex>
#include <new>
#include <tuple>

#include "emulation/emulated_backend.hpp"

namespace binding {

/// The device's kernels on emulated blocks, and memory that the host cannot read: for tests without a device.
struct emulated_backend {
  using execution = testing::emulated_execution;
  /// DLPack's "extension device": arrays of the host are not taken for its own, nor the other way round.
  struct device {
    static constexpr auto name = nanobind::detail::const_name("device='emulated'");
    static constexpr int value = 12;
    static constexpr bool is_device_type = true;
  };
  using token_elements = std::tuple<float>;  // compiling takes the time
  using schedule = std::uintptr_t;
  static constexpr bool is_host = false;
  static constexpr char const* schedule_name = "stream";
  static constexpr char const* schedule_text = "stream: taken, as a device's module takes it.";
  static constexpr char const* memory_name = "the emulated device's memory";

  static execution on(std::uintptr_t) { return {}; }
  static int device_id() { return 0; }
  static void expect_device(int) {}

  static std::byte* allocate(std::size_t bytes) {
    void* const made = ::mmap(nullptr, whole_pages(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made == MAP_FAILED) throw std::bad_alloc();
    std::lock_guard const only(mutex_);
    regions_[made] = whole_pages(bytes);
    if (running_ > 0) protect(PROT_READ | PROT_WRITE);
    return static_cast<std::byte*>(made);
  }
  static void release(std::byte* first) noexcept {
    std::lock_guard const only(mutex_);
    auto const region = regions_.find(first);
    ::munmap(first, region->second);
    regions_.erase(region);
  }

  static void to_backend(execution const& exec, void* to, void const* from, std::size_t bytes) {
    copy(exec, to, from, bytes);
  }
  static void from_backend(execution const& exec, void* to, void const* from, std::size_t bytes) {
    copy(exec, to, from, bytes);
  }
  static void copy(execution const&, void* to, void const* from, std::size_t bytes) {
    running const now;
    std::memcpy(to, from, bytes);
  }
  static void fill(execution const&, void* to, int byte, std::size_t bytes) {
    running const now;
    std::memset(to, byte, bytes);
  }
  static void wait(execution const&) {}

  /// While one of these lives, kernels and copies can read the device's memory. Else who reads it crashes.
  struct running {
    running() {
      std::lock_guard const only(mutex_);
      if (running_++ == 0) protect(PROT_READ | PROT_WRITE);
    }
    running(running const&) = delete;
    running& operator=(running const&) = delete;
    ~running() {
      std::lock_guard const only(mutex_);
      if (--running_ == 0) protect(PROT_NONE);
    }
  };

 private:
  static std::size_t whole_pages(std::size_t bytes) { return (bytes / 4096 + 1) * 4096; }
  static void protect(int access) {
    for (auto const& [first, bytes] : regions_) ::mprotect(first, bytes, access);
  }

  static inline std::mutex mutex_;
  static inline std::map<void*, std::size_t> regions_;
  static inline int running_ = 0;
};

using backend = emulated_backend;

}  // namespace binding
