// SPDX-License-Identifier: Apache-2.0
#pragma once

// Stored numbers by the definition of their formats, apart from the library's conversions.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "support/random.hpp"

namespace driver {

using numbers = std::vector<double>;

/// How an element is stored.
enum class storage { float32, half, bfloat16, e4m3, e5m2, int8 };

struct storage_format {
  int bytes, exponent_bits, mantissa_bits;
};

constexpr storage_format format_of(storage kind) {
  switch (kind) {
    case storage::float32:
      return {4, 8, 23};
    case storage::half:
      return {2, 5, 10};
    case storage::bfloat16:
      return {2, 8, 7};
    case storage::e4m3:
      return {1, 4, 3};
    case storage::int8:
      return {1, 0, 7};
    default:
      return {1, 5, 2};
  }
}

/// Value of finite stored bits.
inline double decode(storage kind, std::uint32_t bits) {
  if (kind == storage::int8) return bits < 128 ? bits : static_cast<double>(bits) - 256.0;
  storage_format const format = format_of(kind);
  int const bias = (1 << (format.exponent_bits - 1)) - 1;
  std::uint32_t const mantissa = bits & ((1u << format.mantissa_bits) - 1u);
  auto const exponent = static_cast<int>(bits >> format.mantissa_bits & ((1u << format.exponent_bits) - 1u));
  bool const negative = (bits >> (format.exponent_bits + format.mantissa_bits) & 1u) != 0;
  double const significand = exponent == 0 ? mantissa : mantissa + (1u << format.mantissa_bits);
  double const magnitude = std::ldexp(significand, (exponent == 0 ? 1 : exponent) - bias - format.mantissa_bits);
  return negative ? -magnitude : magnitude;
}

/// Bits of a random number below 2^(top + 1) in magnitude. Now and then zero; never a number whose square is
/// lost.
inline std::uint32_t random_element(storage kind, int top, testing::random_source& random) {
  storage_format const format = format_of(kind);
  if (random.chance(0.01)) return 0;
  if (kind == storage::int8)  // of any size: what they are multiplied with keeps them small
    return static_cast<std::uint32_t>(random.integer(1, 127)) * (random.chance(0.5) ? 1u : 255u) & 255u;
  int exponent = top + (1 << (format.exponent_bits - 1)) - 1;
  for (int step = 0; step < 6 && exponent > 1 && random.chance(0.5); ++step) --exponent;
  auto const mantissa = static_cast<std::uint32_t>(random.bits()) & ((1u << format.mantissa_bits) - 1u);
  std::uint32_t const sign = random.chance(0.5) ? 1u : 0u;
  return (sign << format.exponent_bits | static_cast<std::uint32_t>(exponent)) << format.mantissa_bits | mantissa;
}

/// Elements of one storage type behind a byte pointer.
inline std::uint32_t load_bits(storage kind, std::byte const* from) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, from,
              static_cast<std::size_t>(format_of(kind).bytes));  // little-endian, as every platform of ours
  return bits;
}
inline void store_bits(storage kind, std::uint32_t bits, std::byte* to) {
  std::memcpy(to, &bits, static_cast<std::size_t>(format_of(kind).bytes));
}
inline void fill_random(storage kind, int top, std::byte* to, int count, testing::random_source& random) {
  for (int i = 0; i < count; ++i)
    store_bits(kind, random_element(kind, top, random), to + static_cast<std::ptrdiff_t>(i) * format_of(kind).bytes);
}
inline numbers decode_all(storage kind, std::byte const* from, int count, double scale) {
  numbers values;
  values.reserve(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i)
    values.push_back(scale *
                     decode(kind, load_bits(kind, from + static_cast<std::ptrdiff_t>(i) * format_of(kind).bytes)));
  return values;
}

/// Whether two numbers are the same up to rounding in single precision.
inline bool close(double got, double expected, double scale) {
  return std::fabs(got - expected) <= 1e-4 * scale + 1e-7;
}

}  // namespace driver
