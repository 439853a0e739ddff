// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace foresightkv::inline v0::io {

namespace detail {

// One-to-one in each argument while the other is held: two contents that differ in one word never meet.
[[nodiscard]] constexpr std::uint64_t mix(std::uint64_t state, std::uint64_t word) {
  state = (state ^ word) * 0x9E37'79B9'7F4A'7C15u;
  return state ^ (state >> 32);
}

}  // namespace detail

/// 64 bits by which contents are told apart: proof against accident, not against malice. The same on every
/// machine; `seed` joins several contents. A few bytes per nanosecond.
[[nodiscard]] inline std::uint64_t fingerprint(std::span<std::byte const> bytes, std::uint64_t seed = 0) {
  std::uint64_t state = detail::mix(seed, bytes.size());
  std::uint64_t word = 0;
  for (; bytes.size() >= sizeof word; bytes = bytes.subspan(sizeof word)) {
    std::memcpy(&word, bytes.data(), sizeof word);
    state = detail::mix(state, word);
  }
  word = 0;
  if (!bytes.empty()) std::memcpy(&word, bytes.data(), bytes.size());
  return detail::mix(detail::mix(state, word), 0);
}

/// 16 hexadecimal digits.
[[nodiscard]] inline std::string fingerprint_text(std::uint64_t value) {
  std::string text(16, '0');
  for (auto digit = text.rbegin(); digit != text.rend(); ++digit, value >>= 4) *digit = "0123456789abcdef"[value & 15];
  return text;
}

}  // namespace foresightkv::inline v0::io
