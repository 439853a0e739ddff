// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/row_operations.hpp>
#include <foresightkv/scorer.hpp>

namespace foresightkv::inline v0 {

/// What a mean over neighbours divides by at the edges of its domain.
enum class pool_edge : int {
  zeros,        ///< always Width: what lies outside counts as 0 (PyTorch's avg_pool1d, so kvpress's SnapKV)
  valid_tokens  ///< the number of neighbours inside
};

/// Mean score of a token's neighbours in time:
///   sum of score[k], |k - slot| <= Width / 2, divided by Width or by the number of terms
/// The domain is the row's candidates, from the first to the last: protected tokens outside neither lend their scores nor
/// change; a pinned one between them lends its score. NaN and infinities spread to their neighbours. O(n * Width).
template <int Width, pool_edge Edge, class Scorer>
struct mean_pool {
  static_assert(Width > 0 && Width % 2 == 1, "foresightkv: mean_pool<Width, Edge, Scorer> must have an odd width");
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
    detail::slot_range const range = detail::candidate_range(block, row);
    block.for_each(range.last - range.first, [&](int i) {
      int const center = range.first + i;
      int const from = center - Width / 2 > range.first ? center - Width / 2 : range.first;
      int const to = center + Width / 2 < range.last - 1 ? center + Width / 2 : range.last - 1;
      float total = 0.0f;
      for (int k = from; k <= to; ++k) total += unpooled[k];
      scores[center] = total / static_cast<float>(Edge == pool_edge::zeros ? Width : to - from + 1);
    });
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr bool covers(int model_layer) const {
    return detail::covers_layer(scorer, model_layer);
  }
  [[nodiscard]] status check(cache_shape const& shape) const { return detail::check_part(scorer, shape); }
};

}  // namespace foresightkv::inline v0
