// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <foresightkv/judge.hpp>
#include <foresightkv/scorer.hpp>

namespace foresightkv::inline v0 {

/// The eight statistics that a judge reads, in the order of its inputs, `group` values each. May repeat one.
template <class... Features>
struct judge_features {
  static_assert(sizeof...(Features) == judge_shape::features, "foresightkv: a judge reads eight statistics");
  using reads = join_statistics<statistics<Features>...>;

  /// Calls visit(Feature{}) for each, in order.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
  template <class Visit>
  FORESIGHTKV_HOST_DEVICE static constexpr void for_each(Visit const& visit) {
    (visit(Features{}), ...);
  }
};

/// What the paper describes: true sub-windows, true decay.
struct paper : judge_features<maximum, minimum, sum, last<16>, last<8>, last<32>, accumulated, decayed> {};

/// What the published training code computes: it slices the query-group axis where the query axis was meant, so that
/// every sub-window is the whole window's sum.
struct reference_checkpoint : judge_features<maximum, minimum, sum, sum, sum, sum, accumulated, decayed> {};

/// What the published evaluation code computes: as reference_checkpoint, and its decayed sum never decays.
struct reference_evaluation : judge_features<maximum, minimum, sum, sum, sum, sum, accumulated, accumulated> {};

namespace detail {

/// Exact GELU.
FORESIGHTKV_HOST_DEVICE inline float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }

}  // namespace detail

/// The learned scorer of ForesightKV (arXiv 2602.03203, section 3): a two-layer network per layer and KV head over the
/// token's key (after RoPE), its value and eight attention statistics per query head; exact (erf) GELU.
/// The packed weights already score "higher = keep".
template <class Features = paper>
struct foresight {
  using reads = typename Features::reads;

  judge_weights weights{};

  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const& lanes, Token const& token) const {
    constexpr int hidden = judge_shape::hidden;
    float const* const fc1 = weights.head(token.layer(), token.kv_head());
    int const keys = weights.shape.key_head_dim;
    int const values = weights.shape.value_head_dim;
    int const group = weights.shape.group;
    float const* const bias = fc1 + weights.shape.inputs() * hidden;
    float score = bias[2 * hidden];
    for (int unit = 0; unit < hidden; ++unit) {
      float const* row = fc1 + unit;
      float x = bias[unit] + lanes.sum(keys, [&](int dim) { return token.key(dim) * row[dim * hidden]; });
      row += keys * hidden;
      x += lanes.sum(values, [&](int dim) { return token.value(dim) * row[dim * hidden]; });
      row += values * hidden;
      Features::for_each([&](auto feature) {
        for (int j = 0; j < group; ++j) x += token.statistic(feature, j) * row[j * hidden];
        row += group * hidden;
      });
      score += detail::gelu(x) * bias[hidden + unit];
    }
    return score;
  }

  /// Whether there is a judge for a layer of the model.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr bool covers(int model_layer) const {
    return model_layer >= 0 && model_layer < weights.shape.num_layers;
  }

  [[nodiscard]] status check(cache_shape const& cache) const {
    judge_shape const& shape = weights.shape;
    bool const agree = shape.valid() && shape.group == cache.group && shape.key_head_dim == cache.key_head_dim &&
                       shape.value_head_dim == cache.value_head_dim && shape.num_kv_heads == cache.model_kv_heads();
    return detail::first_of(detail::check_that(weights.packed != nullptr, errc::null_pointer, argument::judge),
                            detail::check_that(agree, errc::invalid_shape, argument::judge_shape),
                            detail::check_aligned(weights.packed).at(argument::judge));
  }
};

}  // namespace foresightkv::inline v0
