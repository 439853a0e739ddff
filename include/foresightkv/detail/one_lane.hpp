// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <foresightkv/execution.hpp>

namespace foresightkv::inline v0::detail {

/// Lanes share the work of what is written once for every backend:
///   rank(), width()              this lane, and how many there are
///   sum(value), max(value)       over the lanes
///   exclusive_sum(value, all)    over the lanes before; all = sum(value)
///   first(condition)             rank of the first lane that says so; width() if none does
///   settle()                     the lanes have read what may be overwritten from here on
/// The host has one lane, a device a warp; who only reads or copies may be a block, which has rank() and width() alone.
struct one_lane {
  FORESIGHTKV_HOST_DEVICE static constexpr int rank() { return 0; }
  FORESIGHTKV_HOST_DEVICE static constexpr int width() { return 1; }
  FORESIGHTKV_HOST_DEVICE static constexpr int sum(int value) { return value; }
  FORESIGHTKV_HOST_DEVICE static constexpr std::uint32_t max(std::uint32_t value) { return value; }
  FORESIGHTKV_HOST_DEVICE static constexpr int exclusive_sum(int value, int& all) {
    all = value;
    return 0;
  }
  FORESIGHTKV_HOST_DEVICE static constexpr int first(bool condition) { return condition ? 0 : 1; }
  FORESIGHTKV_HOST_DEVICE static constexpr void settle() {}

  /// Copies bytes of any alignment.
  FORESIGHTKV_HOST_DEVICE void operator()(void* to, void const* from, std::size_t bytes) const {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
};

}  // namespace foresightkv::inline v0::detail
