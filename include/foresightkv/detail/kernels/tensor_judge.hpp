// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/kernels/carry.hpp>
#include <foresightkv/detail/kernels/score.hpp>
#include <foresightkv/detail/kernels/tensor_observe.hpp>
#include <foresightkv/scorers/foresight.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// Whether a stage is the judge alone.
template <class Stage>
inline constexpr bool is_judged = false;
template <class Cache, class Window, class Reads, class Features>
inline constexpr bool is_judged<score_stage<Cache, Window, Reads, foresight<Features>>> = true;

/// The judge where the statistics are made, as a sink of tensor_observe_kernel: keys are in registers already, statistics
/// never leave them, values are read once. A lane has four of the sixteen hidden units of the tokens whose products it has.
///
/// Keys and values are multiplied on tensor cores with weights that are split into two 16-bit floats, so that 16 bits (bf16)
/// or 22 (half) of a weight's mantissa count; statistics in fp32. Half cannot hold a weight (times the cache's scale) of 65,520
/// or more.
template <class Stage>
struct judge_sink;
template <class Cache, class Window, class Reads, class Features>
struct judge_sink<score_stage<Cache, Window, Reads, foresight<Features>>> {
  using stage_type = score_stage<Cache, Window, Reads, foresight<Features>>;
  using list = typename stage_type::window_list;
  using carried_list = typename stage_type::carried_list;
  static constexpr int units = judge_shape::hidden;
  static constexpr int halves = units / 8;  // units of a step of products
  enum sync : int { key_weights = 24, key_multiplied, value_weights, value_multiplied };

  stage_type stage{};

  /// A lane's hidden units, which only it reads: in the way of its keys while queries stream by.
  template <class Context>
  struct shared {
    float hidden[halves * 8][Context::threads];
  };
  template <class Tile>
  using hidden_units = typename Tile::products[halves];

  template <class Tile, class Context, class Share>
  FORESIGHTKV_HOST_DEVICE void begin(Context const& c, typename Tile::shared& memory, shared<Context>& own, Share const& mine,
                                     typename Tile::fragments const& keys) const {
    auto const& cache = stage.cache;
    judge_shape const& shape = stage.scorer.weights.shape;
    row_index const at = mine.row.at;
    hidden_units<Tile> x{};
    float const* weights = weights_of(mine);
    split_weights<Tile>(c, memory, weights, shape.key_head_dim, key_scale_of(cache, at));
    c.sync(key_weights);
    unrolled<2 * halves>([&](int step) { Tile::multiply(c, memory, keys, step, x[step % halves]); });
    c.sync(key_multiplied);
    weights += static_cast<std::ptrdiff_t>(shape.key_head_dim) * units;
    for (int from = 0; from < shape.value_head_dim; from += Tile::vectors * 8) {
      int const dims = smaller(shape.value_head_dim - from, Tile::vectors * 8);
      split_weights<Tile>(c, memory, weights + static_cast<std::ptrdiff_t>(from) * units, dims, value_scale_of(cache, at));
      c.sync(value_weights);
      for (int chunk = 0; chunk < Tile::chunks; ++chunk) {
        typename Tile::fragment values;
        Tile::load(c, chunk, dims, [&](int i) { return cache.value(at, mine.slot(i)) + from; }, values);
        unrolled<2 * halves>([&](int step) { Tile::multiply(c, memory, values, chunk, step, x[step % halves]); });
      }
      c.sync(value_multiplied);
    }
    keep<Tile>(c, own, x);
  }

  template <class Tile, class Context, class Share>
  FORESIGHTKV_HOST_DEVICE void head(Context const& c, shared<Context>& own, Share const& mine, int j,
                                    folds<list> (&of)[Tile::own_of_thread]) const {
    int const group = stage.cache.shape().group;
    float carried[Tile::own_of_thread][carried_list::size > 0 ? carried_list::size : 1];
    if constexpr (carried_list::size > 0) carry<Tile>(c, mine, j, of, carried);
    float const* weights = statistic_weights(mine) + static_cast<std::ptrdiff_t>(j) * units;
    hidden_units<Tile> x;
    recall<Tile>(c, own, x);
    Features::for_each([&](auto feature) {
      unrolled<2 * halves>([&](int n) {
        int const half = n / 2, side = n % 2;
        float const weight = weights[Tile::common_of(c, half, side)];
        unrolled<Tile::own_of_thread>([&](int i) {
          x[half][i / 2][2 * (i % 2) + side] += value_of(feature, of[i], carried[i]) * weight;
        });
      });
      weights += static_cast<std::ptrdiff_t>(group) * units;
    });
    keep<Tile>(c, own, x);
  }

  template <class Tile, class Context, class Share>
  FORESIGHTKV_HOST_DEVICE void end(Context const& c, shared<Context>& own, Share const& mine, int, int) const {
    judge_shape const& shape = stage.scorer.weights.shape;
    hidden_units<Tile> x;
    recall<Tile>(c, own, x);
    float const* const bias = statistic_weights(mine) + static_cast<std::ptrdiff_t>(judge_shape::features * shape.group) * units;
    float* const scores = stage.scores_of(mine.row);
    unrolled<Tile::own_of_thread>([&](int i) {
      float score = 0.0f;
      unrolled<2 * halves>([&](int n) {
        int const half = n / 2, side = n % 2;
        int const unit = Tile::common_of(c, half, side);
        float const sum = x[half][i / 2][2 * (i % 2) + side] + bias[unit];
        score += gelu(sum) * bias[units + unit];
      });
      for (int mask = 1; mask < 4; mask *= 2) score += c.shuffle_xor(score, mask);
      int const slot = mine.first + Tile::own_of(c, i);
      if (c.rank() % 4 == i && slot < mine.row.length) scores[slot] = score + bias[2 * units];
    });
  }

 private:
  template <class Share>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float const* weights_of(Share const& mine) const {
    cache_shape const& shape = stage.cache.shape();
    row_index const at = mine.row.at;
    return stage.scorer.weights.head(shape.model_layer(at.layer), shape.model_kv_head(at.kv_head));
  }
  template <class Share>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float const* statistic_weights(Share const& mine) const {
    judge_shape const& shape = stage.scorer.weights.shape;
    return weights_of(mine) + static_cast<std::ptrdiff_t>(shape.key_head_dim + shape.value_head_dim) * units;
  }

  template <class Tile, class Context>
  FORESIGHTKV_HOST_DEVICE static void keep(Context const& c, shared<Context>& own, hidden_units<Tile> const& x) {
    unrolled<halves * 4 * Tile::blocks>([&](int n) {
      own.hidden[n][c.rank()] = x[n % halves][n / halves / 4][n / halves % 4];
    });
  }
  template <class Tile, class Context>
  FORESIGHTKV_HOST_DEVICE static void recall(Context const& c, shared<Context> const& own, hidden_units<Tile>& x) {
    unrolled<halves * 4 * Tile::blocks>([&](int n) {
      x[n % halves][n / halves / 4][n / halves % 4] = own.hidden[n][c.rank()];
    });
  }

  /// Brings weights[dim][unit] into shared memory as common vectors: the units' upper halves, then their lower ones.
  template <class Tile, class Context>
  FORESIGHTKV_HOST_DEVICE static void split_weights(Context const& c, typename Tile::shared& memory, float const* weights,
                                                    int dims, float scale) {
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
          rest[k] = dim < dims ? weights[static_cast<std::ptrdiff_t>(dim) * units + unit] * scale : 0.0f;
        }
        upper.word[pair] = c.template pack<element>(rest[0], rest[1]);
        for (int k = 0; k < 2; ++k)
          rest[k] -= to_float(element{static_cast<std::uint16_t>(upper.word[pair] >> 16 * k)});
        lower.word[pair] = c.template pack<element>(rest[0], rest[1]);
      }
    }
  }

  /// Carried statistics of this lane's tokens, as the judge reads them; and to memory, a token by one of its four lanes.
  template <class Tile, class Context, class Share, int Tokens, int Size>
  FORESIGHTKV_HOST_DEVICE void carry(Context const& c, Share const& mine, int j, folds<list> const (&of)[Tokens],
                                     float (&carried)[Tokens][Size]) const {
    int const group = stage.cache.shape().group;
    row_carried const old = carried_of(stage.rows.state, mine.row.row);
    float* const target = part_of(stage.carried, mine.row.place, std::int64_t{stage.max_length} * old.width);
    unrolled<Tokens>([&](int i) {
      int const token = Tile::own_of(c, i);
      carry_token(
          carried_list{}, old, mine.slot(token), j, group,
          [&](auto window) { return of[i].value[list::template index<decltype(window)>()]; },
          [&](int place, float before, float after) { carried[i][place] = stage.carries ? after : before; });
      if (c.rank() % 4 != i || mine.first + token >= mine.row.length) return;
      float* const to = target + std::int64_t{mine.first + token} * old.width + j;
      unrolled<Size>([&](int s) { to[s * group] = carried[i][s]; });
    });
  }

  template <class Feature>
  FORESIGHTKV_HOST_DEVICE static float value_of(Feature, folds<list> const& of, float const* carried) {
    if constexpr (carried_statistic<Feature>)
      return carried[carried_list::template index<Feature>()];
    else
      return of.value[list::template index<Feature>()];
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
