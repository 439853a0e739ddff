// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/selector.hpp>

namespace foresightkv::inline v0 {

/// The published rule of ForesightKV: of the 2k lowest scores, k are drawn without replacement with probabilities
/// softmax(-score) over those 2k. Drawn as a Gumbel top-k, which has the same distribution. The pool is clamped to
/// the candidates. Ties inside the pool's border: lowest slot first.
struct sampled_top_k {
  static constexpr length_domain domain = length_domain::sequence;

#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
  template <class Row>
  FORESIGHTKV_HOST_DEVICE void operator()(Row& row) const {
    int const count = row.count();
    int const pool = count < row.candidates() - count ? 2 * count : row.candidates();
    row.restrict_to_lowest(pool);
    row.rescore([&](int slot) { return row.score(slot) - row.gumbel(slot); });
    row.evict_lowest(count);
  }
};

}  // namespace foresightkv::inline v0
