// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <foresightkv/detail/row_operations.hpp>
#include <foresightkv/scorer.hpp>

namespace foresightkv::inline v0 {

/// Keys that differ from the others are kept (KeyDiff, arXiv 2504.15364; kvpress keydiff_press.py):
///   -cos(key, m),  m = mean over all n cached tokens of key / |key|
/// Protected tokens count in the mean too. A zero key scores 0. O(n * dim).
struct key_diff {
  using reads = statistics<>;
  static constexpr bool needs_time_order = false;
  static constexpr int scratch_rows = 2;

  template <class Block, class Row>
  FORESIGHTKV_HOST_DEVICE void operator()(Block const& block, Row const& row, float* scores) const {
    float* const inverse = row.scratch(0);
    float* const sums = row.scratch(1);
    int const dims = row.key_head_dim();
    detail::inverse_key_norms(block, row, inverse);
    detail::sum_scaled_keys(block, row, inverse, sums);
    // The cosine is the same with the sum as with the mean.
    float const norm = sqrtf(block.sum(dims, [&](int dim) { return sums[dim] * sums[dim]; }));
    float const factor = norm > 1e-8f ? -1.0f / norm : 0.0f;
    block.for_each_token(row.length(), [&](auto const& lanes, int slot) {
      auto const token = row.token(slot);
      float const product = lanes.sum(dims, [&](int dim) { return token.key(dim) * sums[dim]; });
      lanes.store(scores[slot], product * inverse[slot] * factor);
    });
  }
};

}  // namespace foresightkv::inline v0
