// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <foresightkv/detail/row_operations.hpp>
#include <foresightkv/scorer.hpp>

namespace foresightkv::inline v0 {

/// Another scorer's scores, brought to mean 0 and standard deviation 1 over the row's candidates, so that scorers of
/// different scale can be added:
///   (score - mean) / (deviation + 1e-6)
/// Mean and population standard deviation are of the candidates whose score is finite; every token of the row is
/// mapped. NaN and infinite scores stay what they are.
template <class Scorer>
struct standardised {
  static_assert(detail::check_scorer<Scorer>());
  using reads = detail::reads_of<Scorer>;
  static constexpr bool needs_time_order = detail::needs_time_order<Scorer>();
  static constexpr int newest_queries = detail::newest_queries<Scorer>();
  static constexpr int scratch_rows = detail::scratch_rows<Scorer>();

  Scorer scorer{};

  template <class Block, class Row>
  FORESIGHTKV_HOST_DEVICE void operator()(Block const& block, Row const& row, float* scores) const {
    detail::evaluate(scorer, block, row, scores);
    int const n = row.length();
    auto const counts = [&](int slot) { return detail::is_finite(scores[slot]) && row.candidate(slot); };
    float const count = block.sum(n, [&](int slot) { return counts(slot) ? 1.0f : 0.0f; });
    if (!(count > 0.0f)) return;
    float const mean = block.sum(n, [&](int slot) { return counts(slot) ? scores[slot] : 0.0f; }) / count;
    float const squares = block.sum(n, [&](int slot) {
      float const difference = counts(slot) ? scores[slot] - mean : 0.0f;
      return difference * difference;
    });
    float const factor = 1.0f / (sqrtf(squares / count) + 1e-6f);
    block.for_each(n, [&](int slot) { scores[slot] = (scores[slot] - mean) * factor; });
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr bool covers(int model_layer) const {
    return detail::covers_layer(scorer, model_layer);
  }
  [[nodiscard]] status check(cache_shape const& shape) const { return detail::check_part(scorer, shape); }
};

}  // namespace foresightkv::inline v0
