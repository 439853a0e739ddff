// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/detail/random.hpp>

namespace foresightkv::inline v0::training {

/// Samples in random order without a memory: draw number n is a function of n, so a training that resumes at
/// some step, or is spread over processes, draws what it would have drawn.
///
/// Draws 0 ... size - 1 meet every sample once, the next `size` draws again, in another order.
struct batch_sampler {
  std::uint32_t size = 0;  ///< of the set that is drawn from, at least 1
  std::uint64_t seed = 0;
  std::uint32_t stream = 0;  ///< another number draws in other orders

  /// The sample that draw number `draw` meets, in [0, size).
  [[nodiscard]] constexpr std::uint32_t at(std::uint64_t draw) const {
    auto const epoch = static_cast<std::uint32_t>(draw / size);
    auto place = static_cast<std::uint32_t>(draw % size);
    // A permutation of the next power of 4, walked until it comes back into the set.
    do place = permuted(place, epoch);
    while (place >= size);
    return place;
  }

 private:
  /// A Feistel network over 2 * half_bits() bits: four rounds that each change one half by the other.
  [[nodiscard]] constexpr std::uint32_t permuted(std::uint32_t place, std::uint32_t epoch) const {
    int const bits = half_bits();
    auto const mask = static_cast<std::uint32_t>((std::uint64_t{1} << bits) - 1);
    std::uint32_t left = place >> bits, right = place & mask;
    for (std::uint32_t round = 0; round < 4; ++round) {
      auto const mixed = detail::philox({{right, round, epoch, stream}}, seed).word[0] & mask;
      auto const next = left ^ mixed;
      left = right;
      right = next;
    }
    return static_cast<std::uint32_t>(std::uint64_t{left} << bits) | right;
  }
  [[nodiscard]] constexpr int half_bits() const {
    int bits = 1;
    while ((std::uint64_t{1} << (2 * bits)) < size) ++bits;
    return bits;
  }
};

}  // namespace foresightkv::inline v0::training
