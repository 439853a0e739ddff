// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/element.hpp>

namespace foresightkv::inline v0::detail {

/// Key of a token that is never evicted. Above every score's key.
inline constexpr std::uint32_t protected_key = 0xffffffffu;

/// Maps a score to an unsigned integer of the same order: NaN of either sign lowest, then -inf .. +inf, with
/// -0 == +0. Tests bits, not values, so that -ffast-math cannot fold it away. Shared by host and device.
FORESIGHTKV_HOST_DEVICE constexpr std::uint32_t order_key(float score) {
  std::uint32_t const bits = float_bits(score);
  std::uint32_t const magnitude = bits & 0x7fffffffu;
  std::uint32_t const negative = bits >> 31;
  std::uint32_t const key = negative ? ~bits : bits | 0x80000000u;
  if (magnitude > 0x7f800000u) return 0;      // NaN
  return magnitude == 0 ? 0x80000000u : key;  // both zeros
}

/// The lowest keys of a row: every key below `threshold`, and the first `ties` of those that equal it.
struct lowest_keys {
  std::uint32_t threshold = 0;
  int ties = 0;
};

}  // namespace foresightkv::inline v0::detail
