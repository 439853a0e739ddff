// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/kernels/tensor_tile.hpp>
#include <foresightkv/scorers/foresight.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// Hidden units of the judge for a warp's own tokens: a lane has four of the sixteen for each token whose products it
/// gets.
///
/// Keys and values are multiplied on tensor cores with weights that are split into two 16-bit floats: bf16 keeps 16
/// bits of a weight's mantissa, half 22 but nothing below 2^-25, and no weight of 65,520 or more. Statistics are
/// multiplied in fp32.
template <class Tile>
struct judge_units {
  static constexpr int units = judge_shape::hidden;
  static constexpr int halves = units / 8;  // units of a step of products
  static constexpr int size = halves * 4 * Tile::blocks;
  static constexpr int dims = Tile::vectors * 8;  // that are multiplied at a time
  enum sync : int { weights_written = 24, weights_read, key_weights, key_multiplied };

  typename Tile::products x[halves];

  /// Adds own vectors that are in registers already, of at most `dims` dimensions: weights[dim][unit]. scale_at(i): of
  /// the warp's i-th token.
  template <class Context, class ScaleAt>
  FORESIGHTKV_HOST_DEVICE void add(Context const& c, typename Tile::shared& memory, float const* weights, int count,
                                   ScaleAt const& scale_at, typename Tile::fragments const& own) {
    typename Tile::products sums[halves] = {};
    split(c, memory, weights, count);
    c.sync(key_weights);
    unrolled<2 * halves>([&](int step) { Tile::multiply(c, memory, own, step, sums[step % halves]); });
    c.sync(key_multiplied);
    add_scaled(c, sums, scale_at);
  }
  /// Adds vectors from memory: vector_at(i) for the warp's i-th token.
  template <class Context, class ScaleAt, class VectorAt>
  FORESIGHTKV_HOST_DEVICE void add_from(Context const& c, typename Tile::shared& memory, float const* weights,
                                        int count, ScaleAt const& scale_at, VectorAt const& vector_at) {
    typename Tile::products sums[halves] = {};
    for (int from = 0; from < count; from += dims) {
      int const here = count - from < dims ? count - from : dims;
      split(c, memory, weights + static_cast<std::ptrdiff_t>(from) * units, here);
      c.sync(weights_written);
      for (int chunk = 0; chunk < Tile::chunks; ++chunk) {
        typename Tile::fragment part;
        Tile::load(
            c, chunk, here, [&](int i) { return vector_at(i) + from; }, part);
        unrolled<2 * halves>([&](int step) { Tile::multiply(c, memory, part, chunk, step, sums[step % halves]); });
      }
      c.sync(weights_read);
    }
    add_scaled(c, sums, scale_at);
  }
  /// Adds one statistic: value(i) of this lane's i-th token, weights[unit].
  template <class Context, class Value>
  FORESIGHTKV_HOST_DEVICE void add_statistic(Context const& c, float const* weights, Value const& value) {
    unrolled<2 * halves>([&](int n) {
      int const half = n / 2, side = n % 2;
      float const weight = weights[Tile::common_of(c, half, side)];
      unrolled<Tile::own_of_thread>([&](int i) { x[half][i / 2][2 * (i % 2) + side] += value(i) * weight; });
    });
  }
  /// store(i, score) of this lane's i-th token, by one of the four lanes that have it. `bias` is followed by the
  /// output's weights and bias.
  template <class Context, class Store>
  FORESIGHTKV_HOST_DEVICE void finish(Context const& c, float const* bias, Store const& store) const {
    unrolled<Tile::own_of_thread>([&](int i) {
      float score = 0.0f;
      unrolled<2 * halves>([&](int n) {
        int const half = n / 2, side = n % 2;
        int const unit = Tile::common_of(c, half, side);
        score += gelu(x[half][i / 2][2 * (i % 2) + side] + bias[unit]) * bias[units + unit];
      });
      for (int mask = 1; mask < 4; mask *= 2) score += c.shuffle_xor(score, mask);
      if (c.rank() % 4 == i) store(i, score + bias[2 * units]);
    });
  }

 private:
  /// The cache's scale goes here and not into the weights, which might be too small for half then.
  template <class Context, class ScaleAt>
  FORESIGHTKV_HOST_DEVICE void add_scaled(Context const& c, typename Tile::products const (&sums)[halves],
                                          ScaleAt const& scale_at) {
    unrolled<Tile::own_of_thread>([&](int i) {
      float const scale = scale_at(Tile::own_of(c, i));
      unrolled<2 * halves>([&](int n) {
        int const half = n / 2, place = 2 * (i % 2) + n % 2;
        x[half][i / 2][place] += scale * sums[half][i / 2][place];
      });
    });
  }

  /// Brings weights into shared memory as common vectors: the units' upper halves, then their lower ones.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE static void split(Context const& c, typename Tile::shared& memory, float const* weights,
                                            int count) {
    using element = typename Tile::element_type;
    for (int i = c.rank(); i < units * Tile::vectors; i += Context::threads) {
      int const unit = i % units;
      int const vector = i / units;
      vector16& upper = Tile::at(memory, unit, vector);
      vector16& lower = Tile::at(memory, units + unit, vector);
      for (int pair = 0; pair < 4; ++pair) {
        float rest[2];
        for (int k = 0; k < 2; ++k) {
          int const dim = 8 * vector + 2 * pair + k;
          rest[k] = dim < count ? weights[static_cast<std::ptrdiff_t>(dim) * units + unit] : 0.0f;
        }
        upper.word[pair] = c.template pack<element>(rest[0], rest[1]);
        for (int k = 0; k < 2; ++k)
          rest[k] -= to_float(element{static_cast<std::uint16_t>(upper.word[pair] >> 16 * k)});
        lower.word[pair] = c.template pack<element>(rest[0], rest[1]);
      }
    }
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
