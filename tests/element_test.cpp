// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <type_traits>
#include <vector>

#include <foresightkv/element.hpp>

// Everything is compared by bits or in double: this file also runs in a program built and linked with
// -ffast-math, where NaN and infinity may not be compared and float denormals read as zero.

namespace fkv = foresightkv;

namespace {

std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }
float from_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }
bool is_nan(float value) { return (bits_of(value) & 0x7fffffffu) > 0x7f800000u; }

/// The value of a finite binary32 by its definition.
double exact(std::uint32_t bits) {
  int const exponent = static_cast<int>(bits >> 23 & 0xffu);
  double const mantissa = bits & 0x7fffffu;
  double const magnitude = exponent == 0 ? std::ldexp(mantissa, -149) : std::ldexp(mantissa + 0x1p23, exponent - 150);
  return (bits >> 31) != 0 ? -magnitude : magnitude;
}

/// A binary format, described independently of the library.
struct format {
  int exponent_bits;
  int mantissa_bits;
  bool has_infinity;

  std::uint32_t magnitudes() const { return 1u << (exponent_bits + mantissa_bits); }
  std::uint32_t infinity() const { return ((1u << exponent_bits) - 1u) << mantissa_bits; }
  std::uint32_t largest() const { return has_infinity ? infinity() - 1u : magnitudes() - 2u; }
  bool nan(std::uint32_t magnitude) const {
    return has_infinity ? magnitude > infinity() : magnitude == magnitudes() - 1u;
  }
  double value(std::uint32_t magnitude) const {
    int const bias = (1 << (exponent_bits - 1)) - 1;
    int const exponent = static_cast<int>(magnitude >> mantissa_bits);
    double const fraction = std::ldexp(static_cast<double>(magnitude & ((1u << mantissa_bits) - 1u)), -mantissa_bits);
    return exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1.0 + fraction, exponent - bias);
  }
};

template <class Element>
constexpr format format_of{};
template <>
constexpr format format_of<fkv::half>{5, 10, true};
template <>
constexpr format format_of<fkv::bfloat16>{8, 7, true};
template <>
constexpr format format_of<fkv::float8_e4m3>{4, 3, false};
template <>
constexpr format format_of<fkv::float8_e5m2>{5, 2, true};

template <class Element>
using bits_type = decltype(Element::bits);

template <class Element>
Element element_of(std::uint32_t bits) {
  return {static_cast<bits_type<Element>>(bits)};
}

/// Rounds to nearest even by searching the table of all finite values.
template <class Element>
class rounding_oracle {
 public:
  rounding_oracle() {
    for (std::uint32_t code = 0; code <= rule.largest(); ++code) values.push_back(rule.value(code));
    // The next value that the format would have: half-way to it, overflow begins.
    values.push_back(2.0 * values.back() - values[values.size() - 2]);
  }

  std::uint32_t operator()(std::uint32_t wide) const {
    std::uint32_t const sign = (wide >> 31) != 0 ? rule.magnitudes() : 0u;
    double const magnitude = std::fabs(exact(wide & 0x7fffffffu));
    auto const above = std::lower_bound(values.begin(), values.end(), magnitude);
    auto code = static_cast<std::uint32_t>(above - values.begin());
    if (above == values.end()) {
      code = rule.largest() + 1u;
    } else if (code > 0) {
      double const up = values[code] - magnitude;
      double const down = magnitude - values[code - 1];
      if (down < up || (down == up && code % 2 == 1)) --code;
    }
    if (code > rule.largest()) code = rule.has_infinity ? rule.infinity() : rule.largest();
    return sign | code;
  }

  std::vector<double> const& table() const { return values; }

 private:
  format rule = format_of<Element>;
  std::vector<double> values;
};

template <class Element>
std::uint32_t stored(float value) {
  return fkv::element_traits<Element>::store(value).bits;
}

/// binary32 bits of a double that a float holds exactly, denormals included.
std::uint32_t float_bits_of(double value) {
  int exponent = 0;
  double const fraction = std::frexp(std::fabs(value), &exponent);
  if (fraction == 0.0) return 0;
  if (exponent < -125) return static_cast<std::uint32_t>(std::ldexp(fraction, exponent + 149));
  return static_cast<std::uint32_t>(std::ldexp(fraction, 24)) - 0x800000u +
         (static_cast<std::uint32_t>(exponent + 126) << 23);
}

/// A storage type of a user: fixed point in eighths.
struct eighths {
  std::int16_t count;
};
struct no_traits {};
struct load_only {};

}  // namespace

namespace foresightkv {
template <>
struct element_traits<eighths> {
  static constexpr float load(eighths value) { return static_cast<float>(value.count) * 0.125f; }
  static constexpr eighths store(float value) { return {static_cast<std::int16_t>(value * 8.0f)}; }
};
template <>
struct element_traits<load_only> {
  static constexpr float load(load_only) { return 0.0f; }
};
}  // namespace foresightkv

static_assert(sizeof(fkv::half) == 2 && sizeof(fkv::bfloat16) == 2);
static_assert(sizeof(fkv::float8_e4m3) == 1 && sizeof(fkv::float8_e5m2) == 1);
static_assert(std::is_trivial_v<fkv::half> && std::is_trivial_v<fkv::bfloat16>);
static_assert(std::is_trivial_v<fkv::float8_e4m3> && std::is_trivial_v<fkv::float8_e5m2>);

static_assert(fkv::element<float> && fkv::element<fkv::half> && fkv::element<fkv::bfloat16>);
static_assert(fkv::element<fkv::float8_e4m3> && fkv::element<fkv::float8_e5m2>);
static_assert(fkv::element<eighths>);
static_assert(!fkv::element<double> && !fkv::element<no_traits> && !fkv::element<load_only>);

// Both directions are constant expressions.
static_assert(fkv::to_float(fkv::half{0x3c01}) == 1.0f + 0x1p-10f);
static_assert(fkv::to_float(fkv::half{0x0001}) == 0x1p-24f);
static_assert(fkv::to_float(fkv::bfloat16{0xc049}) == -3.140625f);
static_assert(fkv::to_float(fkv::float8_e4m3{0x7e}) == 448.0f);
static_assert(fkv::to_float(fkv::float8_e5m2{0x7b}) == 57344.0f);
static_assert(fkv::element_traits<fkv::half>::store(1.0f / 3.0f).bits == 0x3555);
static_assert(fkv::element_traits<fkv::bfloat16>::store(3.14159265f).bits == 0x4049);
static_assert(fkv::element_traits<fkv::float8_e4m3>::store(1e6f).bits == 0x7e);
static_assert(fkv::element_traits<fkv::float8_e5m2>::store(-1e6f).bits == 0xfc);
static_assert(fkv::to_float(eighths{12}) == 1.5f);

TEST_CASE("float is stored as it is") {
  for (std::uint32_t const bits : {0u, 0x80000000u, 1u, 0x3f800000u, 0x7f7fffffu, 0xff800000u, 0x7fc00001u}) {
    CHECK(bits_of(fkv::element_traits<float>::load(from_bits(bits))) == bits);
    CHECK(bits_of(fkv::element_traits<float>::store(from_bits(bits))) == bits);
  }
}

TEST_CASE_TEMPLATE("every pattern widens to its value", Element, fkv::half, fkv::bfloat16, fkv::float8_e4m3,
                   fkv::float8_e5m2) {
  format const rule = format_of<Element>;
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < 2 * rule.magnitudes(); ++bits) {
    std::uint32_t const magnitude = bits % rule.magnitudes();
    std::uint32_t const sign = bits < rule.magnitudes() ? 0u : 0x80000000u;
    float const wide = fkv::to_float(element_of<Element>(bits));
    bool right = (bits_of(wide) & 0x80000000u) == sign;
    if (rule.nan(magnitude)) {
      right = right && is_nan(wide);
    } else if (rule.has_infinity && magnitude == rule.infinity()) {
      right = right && bits_of(wide) == (sign | 0x7f800000u);
    } else {
      right = right && bits_of(wide) == (sign | float_bits_of(rule.value(magnitude)));
    }
    wrong += right ? 0 : 1;
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("every pattern survives a round trip", Element, fkv::half, fkv::bfloat16, fkv::float8_e4m3,
                   fkv::float8_e5m2) {
  format const rule = format_of<Element>;
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < 2 * rule.magnitudes(); ++bits) {
    std::uint32_t const magnitude = bits % rule.magnitudes();
    std::uint32_t const back = stored<Element>(fkv::to_float(element_of<Element>(bits)));
    bool right = back == bits;
    if (rule.nan(magnitude)) {  // some NaN of the same sign
      right = rule.nan(back % rule.magnitudes()) && back / rule.magnitudes() == bits / rule.magnitudes();
    }
    wrong += right ? 0 : 1;
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("ties go to even, their neighbours to the nearer value", Element, fkv::half, fkv::bfloat16,
                   fkv::float8_e4m3, fkv::float8_e5m2) {
  format const rule = format_of<Element>;
  std::vector<double> const table = rounding_oracle<Element>{}.table();
  int wrong = 0;
  for (std::uint32_t code = 0; code + 1 < table.size(); ++code) {
    std::uint32_t const tie = float_bits_of(0.5 * (table[code] + table[code + 1]));
    bool const last = code == rule.largest();
    std::uint32_t const beyond = rule.has_infinity ? rule.infinity() : rule.largest();
    std::uint32_t const up = last ? beyond : code + 1;
    std::uint32_t const even = code % 2 == 0 ? code : up;
    for (std::uint32_t const sign : {0u, 1u}) {
      std::uint32_t const narrow_sign = sign * rule.magnitudes();
      wrong += stored<Element>(from_bits(tie | sign << 31)) == (even | narrow_sign) ? 0 : 1;
      wrong += stored<Element>(from_bits((tie - 1u) | sign << 31)) == (code | narrow_sign) ? 0 : 1;
      wrong += stored<Element>(from_bits((tie + 1u) | sign << 31)) == (up | narrow_sign) ? 0 : 1;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("any float rounds to the nearest value", Element, fkv::half, fkv::bfloat16, fkv::float8_e4m3,
                   fkv::float8_e5m2) {
  rounding_oracle<Element> const oracle;
  std::mt19937 random(20240311);
  int wrong = 0;
  for (int i = 0; i < 300000; ++i) {
    std::uint32_t bits = static_cast<std::uint32_t>(random());
    if ((bits & 0x7f800000u) == 0x7f800000u) bits &= 0xbfffffffu;
    wrong += stored<Element>(from_bits(bits)) == oracle(bits) ? 0 : 1;
  }
  CHECK(wrong == 0);
  for (std::uint32_t const bits : {0u, 1u, 0x007fffffu, 0x00800000u, 0x00800001u, 0x7f7fffffu}) {
    CHECK(stored<Element>(from_bits(bits)) == oracle(bits));
    CHECK(stored<Element>(from_bits(bits | 0x80000000u)) == oracle(bits | 0x80000000u));
  }
}

TEST_CASE_TEMPLATE("infinity and NaN are stored as such", Element, fkv::half, fkv::bfloat16, fkv::float8_e4m3,
                   fkv::float8_e5m2) {
  format const rule = format_of<Element>;
  std::uint32_t const infinite = rule.has_infinity ? rule.infinity() : rule.largest();
  CHECK(stored<Element>(from_bits(0x7f800000u)) == infinite);
  CHECK(stored<Element>(from_bits(0xff800000u)) == (infinite | rule.magnitudes()));
  for (std::uint32_t const nan : {0x7f800001u, 0x7fbfffffu, 0x7fc00000u, 0x7fffffffu}) {
    CHECK(rule.nan(stored<Element>(from_bits(nan))));
    CHECK(rule.nan(stored<Element>(from_bits(nan | 0x80000000u)) - rule.magnitudes()));
  }
}

TEST_CASE_TEMPLATE("the largest value is one, and what is above it is stored as it or as infinity", Element, float,
                   fkv::half, fkv::bfloat16, fkv::float8_e4m3, fkv::float8_e5m2, std::int8_t) {
  using traits = fkv::element_traits<Element>;
  CHECK(traits::load(traits::store(traits::largest)) == traits::largest);
  float const above = traits::load(traits::store(std::nextafter(traits::largest, HUGE_VALF) * 1.5f));
  CHECK((above == traits::largest || above == HUGE_VALF));
}
