// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/scorer.hpp>

namespace foresightkv::inline v0 {

/// Accumulated attention per query that could see the token:
///   mean over the group of the accumulated sum / (next_position - position)
/// The divisor is the number of queries from the token's own on, for a window that ends at the newest token and an
/// engine that hands every query to observe or carry. On one causal prompt this is kvpress's
/// observed_attention_press.py.
struct h2o_per_query {
  using reads = statistics<accumulated>;

  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const& token) const {
    return token.mean(accumulated{}) / static_cast<float>(token.next_position() - token.position());
  }
};

}  // namespace foresightkv::inline v0
