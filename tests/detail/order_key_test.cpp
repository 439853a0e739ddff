// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstdint>

#include <foresightkv/detail/order_key.hpp>

#include "support/oracle_select.hpp"
#include "support/random.hpp"

namespace detail = foresightkv::detail;
using detail::bits_float;
using detail::order_key;

namespace {

constexpr std::uint32_t edges[] = {
    0xffffffffu, 0xffc00000u, 0xff800001u,                                                      // NaN, negative
    0xff800000u, 0xff7fffffu, 0xbf800000u, 0x80800000u, 0x807fffffu, 0x80000001u, 0x80000000u,  // -inf .. -0
    0x00000000u, 0x00000001u, 0x007fffffu, 0x00800000u, 0x3f800000u, 0x7f7fffffu, 0x7f800000u,  // +0 .. +inf
    0x7f800001u, 0x7fc00000u, 0x7fffffffu,                                                      // NaN
};

/// -1, 0 or 1.
template <class Number>
constexpr int order(Number a, Number b) {
  return static_cast<int>(a > b) - static_cast<int>(a < b);
}

constexpr int key_order(std::uint32_t a, std::uint32_t b) {
  return order(order_key(bits_float(a)), order_key(bits_float(b)));
}
int true_order(std::uint32_t a, std::uint32_t b) {
  return order(oracle::rank(bits_float(a)), oracle::rank(bits_float(b)));
}

}  // namespace

TEST_CASE("order_key: NaN, infinities, zeros and denormals, at compile time") {
  static_assert(key_order(0x7fc00000u, 0xff800000u) < 0);  // NaN below -inf
  static_assert(key_order(0x7fc00000u, 0xffc00001u) == 0);
  static_assert(key_order(0x80000000u, 0x00000000u) == 0);
  static_assert(key_order(0x80000001u, 0x00000000u) < 0);
  static_assert(key_order(0x00000001u, 0x00000000u) > 0);
  static_assert(order_key(bits_float(0x7f800000u)) < detail::protected_key);
  CHECK(order_key(bits_float(0x7f800000u)) > order_key(bits_float(0x7f7fffffu)));
}

TEST_CASE("order_key: orders every pair of edge values as their numbers") {
  for (std::uint32_t const a : edges)
    for (std::uint32_t const b : edges) {
      CAPTURE(a);
      CAPTURE(b);
      CHECK(key_order(a, b) == true_order(a, b));
    }
}

TEST_CASE("order_key: orders random bit patterns, and neighbours, as their numbers") {
  testing::random_source random(1);
  int wrong = 0;
  for (int i = 0; i < 200000; ++i) {
    auto const a = static_cast<std::uint32_t>(random.bits());
    auto const b = random.chance(0.5) ? static_cast<std::uint32_t>(random.bits()) : a + 1;
    wrong += key_order(a, b) != true_order(a, b);
    wrong += order_key(bits_float(a)) == detail::protected_key;
  }
  CHECK(wrong == 0);
}
