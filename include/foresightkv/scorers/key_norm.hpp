// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <foresightkv/scorer.hpp>

namespace foresightkv::inline v0 {

/// Keys of small norm are kept (arXiv 2406.11430; kvpress knorm_press.py):
///   -|key|_2
/// Reads no statistics: with it alone nothing is observed.
struct key_norm {
  using reads = statistics<>;

  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const& lanes, Token const& token) const {
    return -sqrtf(lanes.sum(token.key_head_dim(), [&](int dim) { return token.key(dim) * token.key(dim); }));
  }
};

}  // namespace foresightkv::inline v0
