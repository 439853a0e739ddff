// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/row_operations.hpp>
#include <foresightkv/scorer.hpp>

namespace foresightkv::inline v0 {

namespace detail {

/// Number of tokens before the newest `window` of a row.
FORESIGHTKV_HOST_DEVICE constexpr int tokens_before(int window, int length) {
  return length > window ? length - window : 0;
}

/// scores[0, keys) = the importance that SnapKV gives to all but the newest Window tokens; borrows Window rows.
template <int Window, int Kernel, class Block, class Row>
FORESIGHTKV_HOST_DEVICE void pooled_window_attention(Block const& block, Row const& row, float* scores) {
  int const keys = tokens_before(Window, row.length());
  int const queries = row.num_queries() < Window ? row.num_queries() : Window;
  window_logits(block, row, queries, keys);
  for (int r = 0; r < queries; ++r) softmax_row(block, row.scratch(r), keys);
  float* const mean = row.scratch(0);
  block.for_each(keys, [&](int slot) {
    float total = 0.0f;
    for (int r = 0; r < queries; ++r) total += row.scratch(r)[slot];
    mean[slot] = queries > 0 ? total / static_cast<float>(queries) : 0.0f;
  });
  max_pool_row<Kernel>(block, {0, keys}, mean, scores);
}

/// The newest tokens of a row, which its scorer always keeps, go above the others: scores[keys, n) = 1 + the largest.
template <class Block>
FORESIGHTKV_HOST_DEVICE void keep_window(Block const& block, int keys, int n, float* scores) {
  float const largest = block.max(keys, [&](int slot) { return scores[slot]; });
  block.for_each(n - keys, [&](int i) { scores[keys + i] = largest + 1.0f; });
}

}  // namespace detail

/// SnapKV as the R-KV repository has it (SnapKV: arXiv 2404.14469; R-KV: arXiv 2505.24133, rkv/compression/snapkv.py):
///   logit[r][k] = max over the group of query r . key k * scale
///   mean over the newest Window queries of softmax over k of logit[r][k], k all but the newest Window tokens
///   largest of the Kernel neighbours in time of each, those among the same tokens
/// The logits are maxed *before* the softmax, and the newest Window tokens are not in its denominator; they score 1
/// above the best of the others. Queries come from the observation (fewer than Window: those there are); a soft cap is
/// applied, a given log-sum-exp only masks, sink logits are ignored; a query sees no token after its own position.
/// Equal scores are common, by the pooling: top_k evicts the lowest slot first. O(n * dim * Window * group).
template <int Window = 8, int Kernel = 7>
struct snap_kv {
  static_assert(Window > 0, "foresightkv: snap_kv<Window, Kernel> must look at one query at least");
  static_assert(Kernel > 0 && Kernel % 2 == 1, "foresightkv: snap_kv<Window, Kernel> must have an odd kernel");
  using reads = statistics<>;
  static constexpr bool needs_time_order = true;
  static constexpr int newest_queries = Window;
  static constexpr int scratch_rows = Window;

  template <class Block, class Row>
  FORESIGHTKV_HOST_DEVICE void operator()(Block const& block, Row const& row, float* scores) const {
    detail::pooled_window_attention<Window, Kernel>(block, row, scores);
    detail::keep_window(block, detail::tokens_before(Window, row.length()), row.length(), scores);
  }
};

}  // namespace foresightkv::inline v0
