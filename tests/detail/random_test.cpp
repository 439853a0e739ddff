// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>

#include <foresightkv/detail/random.hpp>

#include "support/random.hpp"

namespace detail = foresightkv::detail;

namespace {

constexpr bool philox_gives(detail::random_counter at, std::uint64_t seed, detail::random_counter expected) {
  detail::random_counter const got = detail::philox(at, seed);
  for (int i = 0; i < 4; ++i)
    if (got.word[i] != expected.word[i]) return false;
  return true;
}

double exact_gumbel(std::uint32_t bits) {
  double const u = static_cast<double>((bits >> 9 << 1) | 1u) * 0x1p-24;
  return -std::log(-std::log(u));
}

}  // namespace

TEST_CASE("random: the published known answers of Philox4x32-10") {
  static_assert(philox_gives({{0, 0, 0, 0}}, 0, {{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}}));
  static_assert(philox_gives({{0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu}}, 0xffffffffffffffffu,
                             {{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}}));
  static_assert(philox_gives({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, 0x299f31d0a4093822u,
                             {{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}}));
  CHECK(philox_gives({{0, 0, 0, 0}}, 0, {{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}}));
}

TEST_CASE("random: a draw is the first word for (position, request, row, step)") {
  CHECK(detail::draw(0x299f31d0a4093822u, 0x243f6a88, 0x85a308d3u, 0x13198a2eu, 0x03707344u) == 0xd16cfe09u);
  std::set<std::uint32_t> draws;
  for (int change = 0; change < 5; ++change)
    draws.insert(detail::draw(change == 1, change == 2, change == 3, change == 4, 0));
  CHECK(draws.size() == 5);
}

TEST_CASE("random: uniform numbers stay inside (0, 1), symmetric and exact") {
  static_assert(detail::uniform_float(0) > 0.0f && detail::uniform_float(0xffffffffu) < 1.0f);
  testing::random_source random(1);
  double total = 0.0;
  for (int i = 0; i < 100000; ++i) {
    auto const bits = static_cast<std::uint32_t>(random.bits());
    float const u = detail::uniform_float(bits);
    if (!(u > 0.0f && u < 1.0f && u == 1.0f - detail::uniform_float(~bits))) FAIL_CHECK("bits " << bits);
    total += u;
  }
  CHECK(std::fabs(total / 100000 - 0.5) < 5.0 * std::sqrt(1.0 / 12 / 100000));
}

TEST_CASE("random: the fixed-point logarithm against libm") {
  static_assert(detail::fixed_log(1, 0) == 0);
  static_assert(detail::highest_bit(1) == 0 && detail::highest_bit(0x8000000000000000u) == 63);
  testing::random_source random(2);
  double worst = 0.0;
  for (int i = 0; i < 200000; ++i) {
    std::uint64_t const x = std::max<std::uint64_t>(random.bits() >> random.integer(0, 63), 1);
    double const exact = std::log(static_cast<double>(x));
    worst = std::max(worst, std::fabs(static_cast<double>(detail::fixed_log(x, 0)) * 0x1p-40 - exact));
  }
  CHECK(worst < 1e-7);
}

TEST_CASE("random: Gumbel numbers against libm, ends included") {
  testing::random_source random(3);
  double worst = 0.0;
  for (int i = 0; i < 200000; ++i) {
    // Ends of the range as often as its middle: there -log(u) is smallest and has the fewest bits.
    std::uint32_t bits = static_cast<std::uint32_t>(random.bits());
    if (i % 4 == 1) bits >>= random.integer(0, 31);
    if (i % 4 == 2) bits = ~(bits >> random.integer(0, 31));
    worst = std::max(worst, std::fabs(double{detail::gumbel_float(bits)} - exact_gumbel(bits)));
  }
  CHECK(worst < 2e-5);
  static_assert(detail::gumbel_float(0) < -2.0f && detail::gumbel_float(0xffffffffu) > 16.0f);
}

TEST_CASE("random: Gumbel numbers never fall as their bits rise") {
  int falls = 0;
  for (std::uint32_t bits = 0; bits < 0xfffe0000u; bits += 0x10000u) {
    falls += detail::gumbel_float(bits) > detail::gumbel_float(bits + 0x10000u);
    falls += detail::gumbel_float(bits) > detail::gumbel_float(bits + 0x200u);
  }
  CHECK(falls == 0);
}
