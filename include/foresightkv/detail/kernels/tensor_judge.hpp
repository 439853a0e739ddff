// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/kernels/carry.hpp>
#include <foresightkv/detail/kernels/judge_units.hpp>
#include <foresightkv/detail/kernels/score.hpp>
#include <foresightkv/detail/kernels/tensor_observe.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// The judge where the statistics are made, as a sink of tensor_observe_kernel: keys are in registers already,
/// statistics never leave them, values are read once.
template <class Stage>
struct judge_sink;
template <class Cache, class Window, class Reads, class Features>
struct judge_sink<score_stage<Cache, Window, Reads, foresight<Features>>> {
  using stage_type = score_stage<Cache, Window, Reads, foresight<Features>>;
  using list = typename stage_type::window_list;
  using carried_list = typename stage_type::carried_list;
  template <class Tile>
  using units = judge_units<Tile>;

  stage_type stage{};

  /// A lane's hidden units, which only it reads: in the way of its keys while queries stream by.
  template <class Context>
  struct shared {
    float hidden[16][Context::threads];
  };

  template <class Tile, class Context, class Share>
  FORESIGHTKV_HOST_DEVICE void begin(Context const& c, typename Tile::shared& memory, shared<Context>& own,
                                     Share const& mine, typename Tile::fragments const& keys) const {
    auto const& cache = stage.cache;
    judge_shape const& shape = stage.scorer.weights.shape;
    row_index const at = mine.row.at;
    units<Tile> hidden{};
    float const* const weights = weights_of(mine, 0);
    auto const row_keys = cache.keys(at);
    auto const row_values = cache.values(at);
    hidden.add(
        c, memory, weights, shape.key_head_dim, [&](int i) { return row_keys.scale(mine.slot(i)); }, keys);
    hidden.add_from(
        c, memory, weights_of(mine, shape.key_head_dim), shape.value_head_dim,
        [&](int i) { return row_values.scale(mine.slot(i)); }, [&](int i) { return row_values.at(mine.slot(i)); });
    keep(c, own, hidden);
  }

  template <class Tile, class Context, class Share>
  FORESIGHTKV_HOST_DEVICE void head(Context const& c, shared<Context>& own, Share const& mine, int j,
                                    folds<list> (&of)[Tile::own_of_thread]) const {
    judge_shape const& shape = stage.scorer.weights.shape;
    float carried[Tile::own_of_thread][carried_list::size > 0 ? carried_list::size : 1];
    if constexpr (carried_list::size > 0) carry<Tile>(c, mine, j, of, carried);
    units<Tile> hidden;
    load_hidden(c, own, hidden);
    int input = shape.key_head_dim + shape.value_head_dim + j;
    Features::for_each([&](auto feature) {
      hidden.add_statistic(c, weights_of(mine, input), [&](int i) { return value_of(feature, of[i], carried[i]); });
      input += shape.group;
    });
    keep(c, own, hidden);
  }

  template <class Tile, class Context, class Share>
  FORESIGHTKV_HOST_DEVICE void end(Context const& c, shared<Context>& own, Share const& mine, int, int) const {
    units<Tile> hidden;
    load_hidden(c, own, hidden);
    float* const scores = stage.scores_of(mine.row);
    hidden.finish(c, weights_of(mine, stage.scorer.weights.shape.inputs()), [&](int i, float score) {
      int const slot = mine.first + Tile::own_of(c, i);
      if (slot < mine.row.length) scores[slot] = score;
    });
  }

 private:
  /// Weights of an input and those that follow.
  template <class Share>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float const* weights_of(Share const& mine, int input) const {
    cache_shape const& shape = stage.cache.shape();
    row_index const at = mine.row.at;
    return stage.scorer.weights.head(shape.model_layer(at.layer), shape.model_kv_head(at.kv_head)) +
           static_cast<std::ptrdiff_t>(input) * judge_shape::hidden;
  }

  template <class Tile, class Context>
  FORESIGHTKV_HOST_DEVICE static void keep(Context const& c, shared<Context>& own, units<Tile> const& hidden) {
    unrolled<units<Tile>::size>([&](int n) { own.hidden[n][c.rank()] = hidden.x[n % 2][n / 8][n / 2 % 4]; });
  }
  template <class Tile, class Context>
  FORESIGHTKV_HOST_DEVICE static void load_hidden(Context const& c, shared<Context> const& own, units<Tile>& hidden) {
    unrolled<units<Tile>::size>([&](int n) { hidden.x[n % 2][n / 8][n / 2 % 4] = own.hidden[n][c.rank()]; });
  }

  /// Carried statistics of this lane's tokens, as the judge reads them; and to memory, a token by one of its four
  /// lanes.
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
