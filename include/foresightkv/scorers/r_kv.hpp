// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/scorers/snap_kv.hpp>

namespace foresightkv::inline v0 {

namespace detail {

/// out[0, length) = R-KV's redundancy of every token. Borrows five rows.
template <class Block, class Row>
FORESIGHTKV_HOST_DEVICE float const* key_redundancy(Block const& block, Row const& row, float threshold) {
  float* const inverse = row.scratch(0);
  float* const sums = row.scratch(1);
  float* const similar = row.scratch(2);
  float* const cosine = row.scratch(3);
  float* const redundancy = row.scratch(4);
  int const n = row.length();
  int const dims = row.key_head_dim();
  inverse_key_norms(block, row, inverse);
  sum_scaled_keys(block, row, inverse, sums);
  last_similar_keys(block, row, threshold, inverse, similar, cosine);
  // Column sums of the cosine matrix from one product per column: the sum over all rows, less the diagonal, less what
  // the rows that single this column out would have added.
  block.for_each_token(n, [&](auto const& lanes, int slot) {
    auto const token = row.token(slot);
    float const all = lanes.sum(dims, [&](int dim) { return token.key(dim) * sums[dim]; }) * inverse[slot];
    float const own =
        lanes.sum(dims, [&](int dim) { return token.key(dim) * token.key(dim); }) * inverse[slot] * inverse[slot];
    auto const column = static_cast<float>(slot);
    float const removed = lanes.sum(n, [&](int other) { return similar[other] == column ? cosine[other] : 0.0f; });
    lanes.store(redundancy[slot], bounded_logit((all - own - removed) / static_cast<float>(n)));
  });
  softmax_row(block, redundancy, n);
  return redundancy;
}

}  // namespace detail

/// R-KV (arXiv 2505.24133; Zefan-Cai/R-KV, rkv/compression/r1_kv.py), higher = keep:
///   lambda * importance - (1 - lambda) * redundancy
/// importance is snap_kv<Window, Kernel>. redundancy: the n x n matrix of cosines between the keys of all n cached
/// tokens, its diagonal 0; in each row the highest-index entry above `threshold` is set to 0, so that the newest of
/// several similar tokens is not held against them; mean over rows; softmax over the n tokens.
/// As in the published code, where no entry of a row is above `threshold`, the entry of column 0 is set to 0, and
/// entries below `threshold` count. The newest Window tokens score 1 above the best of the others. `lambda` is 0.1 on
/// the published command line, 0.07 in its class. O(n * dim * (Window * group + n)) at worst: the search for the
/// highest similar key ends where it finds one.
template <int Window = 8, int Kernel = 7>
struct r_kv {
  static_assert(Window > 0, "foresightkv: r_kv<Window, Kernel> must look at one query at least");
  static_assert(Kernel > 0 && Kernel % 2 == 1, "foresightkv: r_kv<Window, Kernel> must have an odd kernel");
  using reads = statistics<>;
  static constexpr bool needs_time_order = true;
  static constexpr int newest_queries = Window;
  static constexpr int scratch_rows = Window > 5 ? Window : 5;

  float lambda = 0.1f;
  float threshold = 0.5f;

  template <class Block, class Row>
  FORESIGHTKV_HOST_DEVICE void operator()(Block const& block, Row const& row, float* scores) const {
    int const keys = detail::tokens_before(Window, row.length());
    detail::pooled_window_attention<Window, Kernel>(block, row, scores);
    float const* const redundancy = detail::key_redundancy(block, row, threshold);
    block.for_each(keys, [&](int slot) { scores[slot] = lambda * scores[slot] - (1.0f - lambda) * redundancy[slot]; });
    detail::keep_window(block, keys, row.length(), scores);
  }
};

}  // namespace foresightkv::inline v0
