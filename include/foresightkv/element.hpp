// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include <foresightkv/execution.hpp>

namespace foresightkv::inline v0 {

/// IEEE binary16 storage, the layout of CUDA's `__half`.
struct half {
  std::uint16_t bits;
};

/// The upper half of a binary32, the layout of CUDA's `__nv_bfloat16`.
struct bfloat16 {
  std::uint16_t bits;
};

/// OCP FP8 E4M3 ("fn": no infinity, 0x7f and 0xff are NaN, largest value 448), the layout of `__nv_fp8_e4m3`.
struct float8_e4m3 {
  std::uint8_t bits;
};

/// OCP FP8 E5M2 (IEEE-like, with infinities), the layout of `__nv_fp8_e5m2`.
struct float8_e5m2 {
  std::uint8_t bits;
};

namespace detail {

// __builtin_bit_cast and not std::bit_cast: the latter is a host-only function to nvcc. Every decision below
// looks at bits, because -ffast-math lets a compiler assume that NaN and infinity do not occur, and links
// code that reads denormals as zero.
FORESIGHTKV_HOST_DEVICE constexpr std::uint32_t float_bits(float value) {
  return __builtin_bit_cast(std::uint32_t, value);
}

FORESIGHTKV_HOST_DEVICE constexpr float bits_float(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }

inline constexpr std::uint32_t float_infinity_bits = 0x7f800000u;

/// In place of minus infinity, which -ffast-math does not know and which less itself is no number.
inline constexpr float lowest_float = -0x1.fffffep+127f;

/// Neither infinite nor NaN.
FORESIGHTKV_HOST_DEVICE constexpr bool is_finite(float value) {
  return (float_bits(value) & float_infinity_bits) != float_infinity_bits;
}
FORESIGHTKV_HOST_DEVICE constexpr bool is_finite(double value) {
  return (__builtin_bit_cast(std::uint64_t, value) & 0x7fff'ffff'ffff'ffffu) < 0x7ff0'0000'0000'0000u;
}

/// The larger (smaller) of two numbers; on a device one instruction, which knows no NaN.
FORESIGHTKV_HOST_DEVICE constexpr float larger(float a, float b) {
#if defined(__CUDA_ARCH__)
  if (!__builtin_is_constant_evaluated()) return fmaxf(a, b);
#endif
  return a > b ? a : b;
}
FORESIGHTKV_HOST_DEVICE constexpr float lesser(float a, float b) {
#if defined(__CUDA_ARCH__)
  if (!__builtin_is_constant_evaluated()) return fminf(a, b);
#endif
  return a < b ? a : b;
}

/// A binary format of 1 + ExponentBits + MantissaBits bits with IEEE bias and denormals.
template <int ExponentBits, int MantissaBits>
struct narrow_format {
  static constexpr int mantissa = MantissaBits;
  static constexpr int sign_shift = 31 - ExponentBits - MantissaBits;
  static constexpr std::uint32_t magnitude_mask = (1u << (ExponentBits + MantissaBits)) - 1u;
  static constexpr std::uint32_t infinity = ((1u << ExponentBits) - 1u) << MantissaBits;
  static constexpr std::uint32_t quiet_nan = infinity | 1u << (MantissaBits - 1);
  static constexpr int bias = (1 << (ExponentBits - 1)) - 1;
  static constexpr int dropped = 23 - MantissaBits;
  static constexpr std::uint32_t rebias = static_cast<std::uint32_t>(127 - bias) << 23;
  static constexpr std::uint32_t smallest_normal = rebias + (1u << 23);  // as binary32
  static constexpr float smallest_denormal = bits_float(static_cast<std::uint32_t>(128 - bias - MantissaBits) << 23);

  FORESIGHTKV_HOST_DEVICE static constexpr std::uint32_t sign_of(std::uint32_t narrow) {
    return (narrow & (magnitude_mask + 1u)) << sign_shift;
  }

  /// binary32 bits of a finite magnitude. The denormals go through an integer conversion: their fp32 image is
  /// normal, so the result survives a processor that treats denormal operands as zero.
  FORESIGHTKV_HOST_DEVICE static constexpr std::uint32_t widen_finite(std::uint32_t magnitude) {
    std::uint32_t const denormal =
        float_bits(static_cast<float>(static_cast<std::int32_t>(magnitude)) * smallest_denormal);
    std::uint32_t const normal = (magnitude << dropped) + rebias;
    return magnitude < (1u << MantissaBits) ? denormal : normal;
  }

  FORESIGHTKV_HOST_DEVICE static constexpr float widen_ieee(std::uint32_t narrow) {
    std::uint32_t const magnitude = narrow & magnitude_mask;
    std::uint32_t const special = (magnitude << dropped) | float_infinity_bits;
    return bits_float(sign_of(narrow) | (magnitude >= infinity ? special : widen_finite(magnitude)));
  }

  /// Narrow magnitude of a finite binary32 magnitude, rounded to nearest even; too large a value overflows
  /// into the infinity code or beyond it.
  FORESIGHTKV_HOST_DEVICE static constexpr std::uint32_t round_finite(std::uint32_t wide) {
    if (wide >= smallest_normal) {
      std::uint32_t const odd = (wide >> dropped) & 1u;
      return (wide - rebias + (1u << (dropped - 1)) - 1u + odd) >> dropped;
    }
    // Fixed point in units of the smallest denormal; from a shift of 25 on nothing is left of 24 bits.
    int const exact_shift = 151 - bias - MantissaBits - static_cast<int>(wide >> 23);
    int const shift = exact_shift < 25 ? exact_shift : 25;
    std::uint32_t const significand = (wide & 0x7fffffu) | 0x800000u;
    std::uint32_t const odd = (significand >> shift) & 1u;
    return (significand + (1u << (shift - 1)) - 1u + odd) >> shift;
  }

  FORESIGHTKV_HOST_DEVICE static constexpr std::uint32_t narrow_ieee(float value) {
    std::uint32_t const bits = float_bits(value);
    std::uint32_t const wide = bits & 0x7fffffffu;
    std::uint32_t const sign = (bits >> 31) << (ExponentBits + MantissaBits);
    if (wide > float_infinity_bits) return sign | quiet_nan | ((wide >> dropped) & (quiet_nan ^ infinity));
    if (wide == float_infinity_bits) return sign | infinity;
    std::uint32_t const rounded = round_finite(wide);
    return sign | (rounded < infinity ? rounded : infinity);
  }
};

}  // namespace detail

/// How a storage type is read and written: specialise it for your own type.
///
/// `load` widens exactly; `store` rounds to nearest even. Both keep the sign of zero and map NaN to NaN, where the type
/// has them. `largest` (optional) is the largest finite value, for caches with a scale per token that verbs write.
/// A type with the bytes of one of the types above says so (`using layout = half;`) and is read as fast as
/// that one.
template <class Element>
struct element_traits;

template <>
struct element_traits<float> {
  static constexpr float largest = 0x1.fffffep+127f;
  FORESIGHTKV_HOST_DEVICE static constexpr float load(float value) { return value; }
  FORESIGHTKV_HOST_DEVICE static constexpr float store(float value) { return value; }
};

template <>
struct element_traits<half> {
  static constexpr float largest = 65504.0f;
  using format = detail::narrow_format<5, 10>;
  FORESIGHTKV_HOST_DEVICE static constexpr float load(half value) { return format::widen_ieee(value.bits); }
  FORESIGHTKV_HOST_DEVICE static constexpr half store(float value) {
    return {static_cast<std::uint16_t>(format::narrow_ieee(value))};
  }
};

template <>
struct element_traits<bfloat16> {
  static constexpr float largest = 0x1.fep+127f;
  FORESIGHTKV_HOST_DEVICE static constexpr float load(bfloat16 value) {
    return detail::bits_float(static_cast<std::uint32_t>(value.bits) << 16);
  }
  FORESIGHTKV_HOST_DEVICE static constexpr bfloat16 store(float value) {
    std::uint32_t const bits = detail::float_bits(value);
    bool const nan = (bits & 0x7fffffffu) > detail::float_infinity_bits;
    std::uint32_t const rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    return {static_cast<std::uint16_t>((nan ? bits | 0x400000u : rounded) >> 16)};
  }
};

/// `store` saturates: a magnitude above 448, infinity included, becomes 448.
template <>
struct element_traits<float8_e4m3> {
  static constexpr float largest = 448.0f;
  using format = detail::narrow_format<4, 3>;
  FORESIGHTKV_HOST_DEVICE static constexpr float load(float8_e4m3 value) {
    std::uint32_t const magnitude = value.bits & 0x7fu;
    std::uint32_t const wide = magnitude == 0x7fu ? 0x7ff00000u : format::widen_finite(magnitude);
    return detail::bits_float(format::sign_of(value.bits) | wide);
  }
  FORESIGHTKV_HOST_DEVICE static constexpr float8_e4m3 store(float value) {
    std::uint32_t const bits = detail::float_bits(value);
    std::uint32_t const wide = bits & 0x7fffffffu;
    std::uint32_t const sign = bits >> 31 << 7;
    if (wide > detail::float_infinity_bits) return {static_cast<std::uint8_t>(sign | 0x7fu)};
    std::uint32_t const rounded = wide < detail::float_bits(largest) ? format::round_finite(wide) : 0x7eu;
    return {static_cast<std::uint8_t>(sign | rounded)};
  }
};

/// `store` overflows to infinity, as IEEE formats do.
template <>
struct element_traits<float8_e5m2> {
  static constexpr float largest = 57344.0f;
  using format = detail::narrow_format<5, 2>;
  FORESIGHTKV_HOST_DEVICE static constexpr float load(float8_e5m2 value) { return format::widen_ieee(value.bits); }
  FORESIGHTKV_HOST_DEVICE static constexpr float8_e5m2 store(float value) {
    return {static_cast<std::uint8_t>(format::narrow_ieee(value))};
  }
};

/// Symmetric int8, which means something with a scale: `store` saturates at 127 in magnitude, and NaN becomes 0.
template <>
struct element_traits<std::int8_t> {
  static constexpr float largest = 127.0f;
  FORESIGHTKV_HOST_DEVICE static constexpr float load(std::int8_t value) { return static_cast<float>(value); }
  FORESIGHTKV_HOST_DEVICE static constexpr std::int8_t store(float value) {
    std::uint32_t const bits = detail::float_bits(value);
    if ((bits & 0x7fffffffu) > detail::float_infinity_bits) return 0;
    float const magnitude = detail::lesser(detail::bits_float(bits & 0x7fffffffu), 127.0f);
    int const whole = static_cast<int>(magnitude);
    float const rest = magnitude - static_cast<float>(whole);
    int const rounded = whole + (rest > 0.5f || (rest == 0.5f && whole % 2 != 0) ? 1 : 0);
    return static_cast<std::int8_t>(bits >> 31 != 0 ? -rounded : rounded);
  }
};

/// A type that a cache or a query may be stored in: trivially copyable, with an `element_traits`.
template <class Element>
concept element = std::is_trivially_copyable_v<Element> && requires(Element stored, float value) {
  { element_traits<Element>::load(stored) } -> std::same_as<float>;
  { element_traits<Element>::store(value) } -> std::same_as<Element>;
};

/// Widens one stored element to float, exactly.
template <element Element>
FORESIGHTKV_HOST_DEVICE constexpr float to_float(Element stored) {
  return element_traits<Element>::load(stored);
}

namespace detail {

/// The storage type whose bytes an element has: itself, or what its element_traits name as `layout`.
template <class Element>
struct layout_of {
  using type = Element;
};
template <class Element>
requires requires { typename element_traits<Element>::layout; }
struct layout_of<Element> {
  using type = typename element_traits<Element>::layout;
};

}  // namespace detail

}  // namespace foresightkv::inline v0
