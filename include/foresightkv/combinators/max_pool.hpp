// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/row_operations.hpp>
#include <foresightkv/scorer.hpp>

namespace foresightkv::inline v0 {

/// Largest score among a token's neighbours in time:
///   max of score[k], |k - slot| <= Width / 2
/// The domain is the row's candidates, from the first to the last: protected tokens outside neither lend their scores nor
/// change; a pinned one between them lends its score. At the edges fewer tokens are looked at. NaN stays where it is and
/// does not spread. O(n * Width).
template <int Width, class Scorer>
struct max_pool {
  static_assert(Width > 0 && Width % 2 == 1, "foresightkv: max_pool<Width, Scorer> must have an odd width");
  static_assert(detail::check_scorer<Scorer>());
  using reads = detail::reads_of<Scorer>;
  static constexpr bool needs_time_order = true;
  static constexpr int newest_queries = detail::newest_queries<Scorer>();
  static constexpr int scratch_rows = 1 + detail::scratch_rows<Scorer>();

  Scorer scorer{};

  template <class Block, class Row>
  FORESIGHTKV_HOST_DEVICE void operator()(Block const& block, Row const& row, float* scores) const {
    float* const unpooled = row.scratch(0);
    detail::evaluate(scorer, block, row.with_scratch(1), unpooled);
    block.for_each(row.length(), [&](int slot) { scores[slot] = unpooled[slot]; });
    detail::max_pool_row<Width>(block, detail::candidate_range(block, row), unpooled, scores);
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr bool covers(int model_layer) const {
    return detail::covers_layer(scorer, model_layer);
  }
  [[nodiscard]] status check(cache_shape const& shape) const { return detail::check_part(scorer, shape); }
};

}  // namespace foresightkv::inline v0
