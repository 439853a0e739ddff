// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/row_operations.hpp>
#include <foresightkv/scorer.hpp>

namespace foresightkv::inline v0 {

/// Softmax of another scorer's scores over the row's candidates:
///   exp(score) / sum over candidates of exp(score)
/// Protected tokens and empty slots get 0. So do NaN and -inf; scores above 1e38 share the whole mass.
template <class Scorer>
struct softmax {
  static_assert(detail::check_scorer<Scorer>());
  using reads = detail::reads_of<Scorer>;
  static constexpr bool needs_time_order = detail::needs_time_order<Scorer>();
  static constexpr int newest_queries = detail::newest_queries<Scorer>();
  static constexpr int scratch_rows = detail::scratch_rows<Scorer>();

  Scorer scorer{};

  template <class Block, class Row>
  FORESIGHTKV_HOST_DEVICE void operator()(Block const& block, Row const& row, float* scores) const {
    detail::evaluate(scorer, block, row, scores);
    block.for_each(row.length(), [&](int slot) {
      scores[slot] = row.candidate(slot) ? detail::bounded_logit(scores[slot]) : detail::hidden_logit;
    });
    detail::softmax_row(block, scores, row.length());
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr bool covers(int model_layer) const {
    return detail::covers_layer(scorer, model_layer);
  }
  [[nodiscard]] status check(cache_shape const& shape) const { return detail::check_part(scorer, shape); }
};

}  // namespace foresightkv::inline v0
