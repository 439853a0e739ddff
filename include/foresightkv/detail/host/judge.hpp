// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/host/kernels.hpp>
#include <foresightkv/detail/host/row.hpp>
#include <foresightkv/scorers/foresight.hpp>

namespace foresightkv::inline v0::detail::host {

inline constexpr int judge_tile = 8;    // tokens that share one pass over the weights
inline constexpr int judge_chunk = 64;  // dimensions widened at a time

/// hidden[token][16] += (part * scale_at(token)) . weights. Elements that need no widening and no scale are read where
/// they lie.
template <class Isa, class ElementAt, class ScaleAt>
[[gnu::always_inline]] inline void accumulate_part(ElementAt const& element_at, int tokens, int dim,
                                                   float const* weights, float* hidden, ScaleAt const& scale_at) {
  using element = std::remove_cvref_t<decltype(*element_at(0))>;
  float const* inputs[judge_tile];
  bool scaled = false;
  for (int t = 0; t < tokens; ++t) scaled = scaled || scale_at(t) != 1.0f;
  if constexpr (std::same_as<element, float>) {
    if (!scaled) {
      for (int t = 0; t < tokens; ++t) inputs[t] = element_at(t);
      kernels<Isa>::dense(inputs, tokens, dim, weights, hidden);
      return;
    }
  }
  float wide[judge_tile][judge_chunk];
  for (int t = 0; t < tokens; ++t) inputs[t] = wide[t];
  for (int from = 0; from < dim; from += judge_chunk) {
    int const count = dim - from < judge_chunk ? dim - from : judge_chunk;
    for (int t = 0; t < tokens; ++t) {
      kernels<Isa>::widen(element_at(t) + from, count, wide[t]);
      float const scale = scale_at(t);
      if (scaled) kernels<Isa>::scale(wide[t], count, scale);
    }
    kernels<Isa>::dense(inputs, tokens, count, weights + static_cast<std::ptrdiff_t>(from) * dense_width, hidden);
  }
}

template <class Isa, class ElementAt>
[[gnu::always_inline]] inline void accumulate_part(ElementAt const& element_at, int tokens, int dim,
                                                   float const* weights, float* hidden) {
  accumulate_part<Isa>(
      element_at, tokens, dim, weights, hidden, [](int) __attribute__((always_inline)) { return 1.0f; });
}

/// The judge over a whole row: tiles of tokens against the 16 hidden units, one vector wide.
template <class Features, class Isa, class Row>
[[gnu::always_inline]] inline void bulk_score(foresight<Features> const& scorer, host_block<Isa> const&, Row const& row,
                                              float* scores) {
  constexpr int width = dense_width;
  judge_shape const& shape = scorer.weights.shape;
  int const group = row.group();
  float const* const weights = scorer.weights.head(row.layer(), row.kv_head());
  float const* const value_weights = weights + static_cast<std::ptrdiff_t>(shape.key_head_dim) * width;
  float const* const feature_weights = value_weights + static_cast<std::ptrdiff_t>(shape.value_head_dim) * width;
  float const* const bias = feature_weights + static_cast<std::ptrdiff_t>(judge_shape::features * group) * width;
  float const* const output = bias + width;
  for (int first = 0; first < row.length(); first += judge_tile) {
    int const tokens = row.length() - first < judge_tile ? row.length() - first : judge_tile;
    float hidden[judge_tile * width];
    for (int t = 0; t < tokens; ++t)
      for (int unit = 0; unit < width; ++unit) hidden[t * width + unit] = bias[unit];
    accumulate_part<Isa>(
        [&](int t) __attribute__((always_inline)) { return row.keys(first + t); }, tokens, shape.key_head_dim, weights,
        hidden, [&](int t) __attribute__((always_inline)) { return row.row_keys().scale(first + t); });
    accumulate_part<Isa>(
        [&](int t) __attribute__((always_inline)) { return row.values(first + t); }, tokens, shape.value_head_dim,
        value_weights, hidden, [&](int t) __attribute__((always_inline)) { return row.row_values().scale(first + t); });
    int feature = 0;
    Features::for_each([&](auto statistic) {
      accumulate_part<Isa>(
          [&](int t)
              __attribute__((always_inline)) { return row.template statistic_of<decltype(statistic)>(first + t); },
          tokens, group, feature_weights + static_cast<std::ptrdiff_t>(feature++ * group) * width, hidden);
    });
    kernels<Isa>::gelu(hidden, tokens * width);
    for (int t = 0; t < tokens; ++t) {
      float score = output[width];
      for (int unit = 0; unit < width; ++unit) score += hidden[t * width + unit] * output[unit];
      scores[first + t] = score;
    }
  }
}

}  // namespace foresightkv::inline v0::detail::host
