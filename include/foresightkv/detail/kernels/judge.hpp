// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/kernels/judge_units.hpp>
#include <foresightkv/detail/kernels/row_block.hpp>
#include <type_traits>

namespace foresightkv::inline v0::detail::kernels {

/// The judge over a block's tokens, 16-bit keys and values or narrower ones: on tensor cores, a tile of tokens per
/// warp.
template <class Features, class Context, class Row>
FORESIGHTKV_HOST_DEVICE void score_narrow(foresight<Features> const& scorer, row_block<Context> const& block,
                                          Row const& row, float* scores) {
  using tile = tensor_tile<tensor_element<typename Row::key_type, typename Row::value_type>, row_block<Context>::dims>;
  Context const& c = block.context;
  judge_shape const& shape = scorer.weights.shape;
  float const* const weights = scorer.weights.head(row.layer(), row.kv_head());
  auto const weights_of = [&](int input) { return weights + static_cast<std::ptrdiff_t>(input) * judge_shape::hidden; };
  int const end = block.end < row.length() ? block.end : row.length();
  for (int first = block.begin; first < end; first += block.warps * tile::own) {
    int const mine = first + c.rank() / warp_size * tile::own;
    auto const slot_of = [&](int i) { return mine + i < end ? mine + i : end - 1; };
    // Scales are looked up when they are needed, after the products: there are no registers to keep them in.
    auto const add = [&](auto const& vectors_of, float const* part, int dims, judge_units<tile>& to) {
      auto const vectors = vectors_of();
      to.add_from(
          c, block.memory.common, part, dims, [&](int i) { return vectors_of().scale(slot_of(i)); },
          [&](int i) { return vectors.at(slot_of(i)); });
    };
    judge_units<tile> hidden{};
    add([&] { return row.row_keys(); }, weights, shape.key_head_dim, hidden);
    add([&] { return row.row_values(); }, weights_of(shape.key_head_dim), shape.value_head_dim, hidden);
    int input = shape.key_head_dim + shape.value_head_dim;
    Features::for_each([&](auto feature) {
      for (int j = 0; j < shape.group; ++j)
        hidden.add_statistic(c, weights_of(input++),
                             [&](int i) { return row.statistic(feature, slot_of(tile::own_of(c, i)), j); });
    });
    hidden.finish(c, weights_of(shape.inputs()), [&](int i, float score) {
      if (mine + tile::own_of(c, i) < end) scores[mine + tile::own_of(c, i)] = score;
    });
  }
}

/// The same in fp32, whatever the storage. A lane holds one hidden unit of a few tokens: the two halves of a warp take
/// every other input, so that a warp reads two rows of weights in one line, once for all its tokens.
template <class Features, class Context, class Row>
FORESIGHTKV_HOST_DEVICE void score_wide(foresight<Features> const& scorer, row_block<Context> const& block,
                                        Row const& row, float* scores) {
  constexpr int units = judge_shape::hidden;
  constexpr int together = 4;  // tokens that share a pass over the weights
  static_assert(2 * units == warp_size);
  Context const& c = block.context;
  int const lane = c.rank() % warp_size;
  int const unit = lane % units;
  int const half = lane / units;
  judge_shape const& shape = scorer.weights.shape;
  float const* const weights = scorer.weights.head(row.layer(), row.kv_head());
  float const* const bias = weights + static_cast<std::ptrdiff_t>(shape.inputs()) * units;
  int const end = block.end < row.length() ? block.end : row.length();
  for (int first = block.begin + c.rank() / warp_size * together; first < end; first += block.warps * together) {
    float x[together] = {};
    auto const add = [&](float const* part, int count, auto const& input) {
      for (int i = half; i < count; i += 2) {
        float const weight = part[i * units + unit];
        for (int t = 0; t < together; ++t) x[t] += weight * input(first + t < end ? first + t : end - 1, i);
      }
    };
    float const* part = weights;
    add(part, shape.key_head_dim, [&](int slot, int dim) { return row.key(slot, dim); });
    part += static_cast<std::ptrdiff_t>(shape.key_head_dim) * units;
    add(part, shape.value_head_dim, [&](int slot, int dim) { return row.value(slot, dim); });
    part += static_cast<std::ptrdiff_t>(shape.value_head_dim) * units;
    Features::for_each([&](auto feature) {
      add(part, shape.group, [&](int slot, int j) { return row.statistic(feature, slot, j); });
      part += static_cast<std::ptrdiff_t>(shape.group) * units;
    });
    for (int t = 0; t < together; ++t) {
      x[t] += c.shuffle_xor(x[t], units);
      x[t] += bias[unit];
      float score = gelu(x[t]) * bias[units + unit];
      for (int mask = units / 2; mask > 0; mask /= 2) score += c.shuffle_xor(score, mask);
      if (lane == 0 && first + t < end) scores[first + t] = score + bias[2 * units];
    }
  }
}

template <class Features, class Context, class Row>
FORESIGHTKV_HOST_DEVICE void bulk_score(foresight<Features> const& scorer, row_block<Context> const& block,
                                        Row const& row, float* scores) {
  if constexpr (std::is_void_v<tensor_element<typename Row::key_type, typename Row::value_type>>)
    score_wide(scorer, block, row, scores);
  else
    score_narrow(scorer, block, row, scores);
  if (block.end == block.all) block.context.sync(row_block<Context>::visited_tokens);
}

}  // namespace foresightkv::inline v0::detail::kernels
