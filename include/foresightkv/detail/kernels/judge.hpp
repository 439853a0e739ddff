// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <foresightkv/detail/kernels/row_block.hpp>
#include <foresightkv/scorers/foresight.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// The judge over a block's tokens. A lane holds one hidden unit of a few tokens: the two halves of a warp take every
/// other input, so that a warp reads two rows of weights in one line, once for all its tokens.
template <class Features, class Context, class Row>
FORESIGHTKV_HOST_DEVICE void bulk_score(foresight<Features> const& scorer, row_block<Context> const& block, Row const& row,
                                        float* scores) {
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
  if (block.end == block.all) c.sync(row_block<Context>::visited_tokens);
}

}  // namespace foresightkv::inline v0::detail::kernels
