// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include <foresightkv/element.hpp>

namespace testing {

/// Seeded numbers that are the same with every standard library (splitmix64).
class random_source {
 public:
  explicit random_source(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 0x1234567u) {}

  std::uint64_t bits() {
    std::uint64_t x = state_ += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
  }
  /// In [0, 1).
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  /// In [low, high], both included.
  int integer(int low, int high) { return low + static_cast<int>(bits() % static_cast<std::uint64_t>(high - low + 1)); }
  bool chance(double probability) { return uniform() < probability; }
  float normal() {
    double const radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return static_cast<float>(radius * std::cos(6.283185307179586 * uniform()));
  }

  /// Normal values of a storage type.
  template <class Element, class Range>
  void fill_normal(Range& range, float scale = 1.0f) {
    for (auto& value : range) value = foresightkv::element_traits<Element>::store(scale * normal());
  }

 private:
  std::uint64_t state_;
};

/// Rows of scores that selection finds hard, by name.
enum class hostile : int {
  ordinary,
  all_equal,
  few_levels,
  signed_zeros,
  denormals,
  one_nan,
  many_nan,
  all_nan,
  infinities,
  mixed,
  one_top_digit,
  ascending,
  descending,
  count
};

/// Made of bits: no arithmetic, which -ffast-math would be free to fold.
inline std::vector<float> hostile_row(hostile kind, int length, random_source& random) {
  constexpr std::uint32_t infinity = 0x7f800000u, nan = 0x7fc00000u, negative = 0x80000000u;
  auto const either_sign = [&](std::uint32_t bits) {
    return foresightkv::detail::bits_float(random.chance(0.5) ? bits : bits | negative);
  };
  std::vector<float> row(static_cast<std::size_t>(length));
  auto const draw = [&](hostile what, int slot) -> float {
    switch (what) {
      case hostile::all_equal:
        return 0.25f;
      case hostile::few_levels:
        return static_cast<float>(random.integer(-1, 1));
      case hostile::signed_zeros:
        return either_sign(0u);
      case hostile::denormals:
        return either_sign(static_cast<std::uint32_t>(random.integer(0, 4)));
      case hostile::one_nan:
        return slot == length / 2 ? either_sign(nan) : random.normal();
      case hostile::many_nan:
        return random.chance(0.3) ? either_sign(nan | static_cast<std::uint32_t>(random.integer(0, 9)))
                                  : random.normal();
      case hostile::all_nan:
        return either_sign(nan);
      case hostile::infinities:
        return random.chance(0.6) ? either_sign(infinity) : random.normal();
      case hostile::one_top_digit:
        return 1.0f + static_cast<float>(random.integer(0, 40)) * 0x1p-23f;
      case hostile::ascending:
        return static_cast<float>(slot);
      case hostile::descending:
        return static_cast<float>(-slot);
      default:
        return random.normal();
    }
  };
  for (int slot = 0; slot < length; ++slot) {
    hostile const what =
        kind == hostile::mixed ? static_cast<hostile>(random.integer(0, static_cast<int>(hostile::infinities))) : kind;
    row[static_cast<std::size_t>(slot)] = draw(what, slot);
  }
  return row;
}

}  // namespace testing
