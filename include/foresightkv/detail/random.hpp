// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/execution.hpp>

namespace foresightkv::inline v0::detail {

struct random_counter {
  std::uint32_t word[4];
};

/// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011).
FORESIGHTKV_HOST_DEVICE constexpr random_counter philox(random_counter at, std::uint64_t seed) {
  auto key0 = static_cast<std::uint32_t>(seed);
  auto key1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    std::uint64_t const low = std::uint64_t{0xD2511F53u} * at.word[0];
    std::uint64_t const high = std::uint64_t{0xCD9E8D57u} * at.word[2];
    at = {{static_cast<std::uint32_t>(high >> 32) ^ at.word[1] ^ key0, static_cast<std::uint32_t>(high),
           static_cast<std::uint32_t>(low >> 32) ^ at.word[3] ^ key1, static_cast<std::uint32_t>(low)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return at;
}

/// Number of a row in the whole model, as draws name it.
FORESIGHTKV_HOST_DEVICE constexpr std::uint32_t model_row(int layer, int kv_heads, int kv_head) {
  return static_cast<std::uint32_t>(layer) * static_cast<std::uint32_t>(kv_heads) + static_cast<std::uint32_t>(kv_head);
}

/// Names the draw that belongs to a cached token at an eviction step: independent of slots, batch order and sharding.
FORESIGHTKV_HOST_DEVICE constexpr std::uint32_t draw(std::uint64_t seed, std::int32_t position, std::uint32_t request,
                                                     std::uint32_t model_row, std::uint32_t step) {
  return philox({{static_cast<std::uint32_t>(position), request, model_row, step}}, seed).word[0];
}

/// 2^24 u for a u in (0, 1): odd, so neither end is reached, and of 24 bits, so that it is exact in fp32.
FORESIGHTKV_HOST_DEVICE constexpr std::uint32_t uniform_bits(std::uint32_t bits) { return (bits >> 9 << 1) | 1u; }

/// In (0, 1): 2^23 equally likely values, symmetric about 1/2, exact in fp32.
FORESIGHTKV_HOST_DEVICE constexpr float uniform_float(std::uint32_t bits) {
  return static_cast<float>(uniform_bits(bits)) * 0x1p-24f;
}

/// Place of the highest set bit, x > 0.
FORESIGHTKV_HOST_DEVICE constexpr int highest_bit(std::uint64_t x) {
  int place = 0;
  for (int step = 32; step > 0; step /= 2)
    if (x >> step != 0) {
      x >>= step;
      place += step;
    }
  return place;
}

/// Natural logarithm of x * 2^-scale in fixed point with 40 fraction bits, x > 0. Integers only, so that host and
/// device agree bit for bit whatever their rounding, contraction or fast-math flags.
FORESIGHTKV_HOST_DEVICE constexpr std::int64_t fixed_log(std::uint64_t x, int scale) {
  constexpr std::int64_t ln2 = 762123384786;  // ln(2) * 2^40
  constexpr std::int64_t one = std::int64_t{1} << 40;
  int exponent = highest_bit(x);
  // Mantissa in [1, 2) with 40 fraction bits, then in [sqrt(1/2), sqrt(2)) so that the series is short.
  auto mantissa = static_cast<std::int64_t>(exponent > 40 ? x >> (exponent - 40) : x << (40 - exponent));
  if (mantissa > 1554944255988) {  // sqrt(2) * 2^40
    mantissa >>= 1;
    ++exponent;
  }
  // log m = 2 (s + s^3/3 + s^5/5 + ...), s = (m - 1) / (m + 1), |s| < 0.172
  std::int64_t const s = ((mantissa - one) << 22) / ((mantissa + one) >> 18);
  std::int64_t const square = (s >> 10) * (s >> 10) >> 20;
  std::int64_t series = 0;
  for (int odd = 15; odd >= 1; odd -= 2) series = ((series >> 16) * square >> 24) + one / odd;
  std::int64_t const logarithm = 2 * ((series >> 16) * s >> 24);  // keeps every bit of a small s
  return logarithm + (exponent - scale) * ln2;
}

/// -log(-log(u)) for the u of uniform_float(bits).
FORESIGHTKV_HOST_DEVICE constexpr float gumbel_float(std::uint32_t bits) {
  std::int64_t const exponential = -fixed_log(uniform_bits(bits), 24);  // -log(u) > 0, 40 fraction bits
  return static_cast<float>(-fixed_log(static_cast<std::uint64_t>(exponential), 40)) * 0x1p-40f;
}

/// Names the draws of one row; see `draw`.
struct draw_source {
  std::uint64_t seed = 0;
  std::uint32_t request = 0;
  std::uint32_t model_row = 0;
  std::uint32_t step = 0;
};

/// `count` different ones of the numbers 1, ..., most, every such set equally likely (Floyd's rule; a
/// multiplication maps 32 random bits to a range, which is off by 2^-32 of the range at most). O(count^2).
FORESIGHTKV_HOST_DEVICE inline void draw_distances(random_counter at, std::uint64_t seed, int most, int count,
                                                   std::int32_t* drawn) {
  for (int i = 0; i < count; ++i) {
    int const top = most - count + 1 + i;
    at.word[0] = static_cast<std::uint32_t>(i);
    auto const bits = std::uint64_t{philox(at, seed).word[0]};
    int value = 1 + static_cast<int>(bits * static_cast<std::uint32_t>(top) >> 32);
    for (int j = 0; j < i; ++j)
      if (drawn[j] == value) value = top;
    drawn[i] = value;
  }
}

}  // namespace foresightkv::inline v0::detail
