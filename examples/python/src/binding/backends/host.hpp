// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <foresightkv/element.hpp>
#include <foresightkv/execution.hpp>
#include <new>
#include <tuple>

namespace binding {

/// The verbs on the host: nothing has to be copied for them.
struct host_backend {
  using execution = foresightkv::host_execution;
  using device = nanobind::device::cpu;
  using token_elements = std::tuple<float, foresightkv::half, foresightkv::bfloat16>;
  using schedule = int;
  static constexpr bool is_host = true;
  static constexpr char const* schedule_name = "threads";
  static constexpr char const* schedule_text = "threads: 0 for OpenMP's own default.";
  static constexpr char const* memory_name = "host memory (NumPy, PyTorch, or anything that speaks DLPack)";

  static execution on(int threads) {
    if (threads < 0) refuse("Evictor: counts must not be negative");
    return foresightkv::host.threads(threads);
  }
  static int device_id() { return 0; }
  static void expect_device(int) {}

  static std::byte* allocate(std::size_t bytes) {
    auto* const made = static_cast<std::byte*>(std::calloc(bytes > 0 ? bytes : 1, 1));
    if (made == nullptr) throw std::bad_alloc();
    return made;
  }
  static void release(std::byte* first) noexcept { std::free(first); }

  static void to_backend(execution, void* to, void const* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
  static void from_backend(execution, void* to, void const* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
  static void copy(execution, void* to, void const* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
  static void fill(execution, void* to, int byte, std::size_t bytes) { std::memset(to, byte, bytes); }
  static void wait(execution) {}

  /// What lives while a verb runs.
  struct running {};
};

using backend = host_backend;

}  // namespace binding
