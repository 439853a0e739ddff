// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/scorer.hpp>

namespace foresightkv::inline v0 {

// A statistic has one value per query head. Each of these makes a pointwise scorer of it, over the query heads
// j = 0 .. group-1 of the token's KV head.

/// Mean over the group: sum_j statistic[j] / group.
template <class Statistic>
struct group_mean {
  using reads = statistics<Statistic>;

  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const& token) const {
    return token.mean(Statistic{});
  }
};

/// Largest of the group: max_j statistic[j].
template <class Statistic>
struct group_max {
  using reads = statistics<Statistic>;

  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const& token) const {
    float largest = token.statistic(Statistic{}, 0);
    for (int j = 1; j < token.group(); ++j) {
      float const next = token.statistic(Statistic{}, j);
      largest = next > largest ? next : largest;
    }
    return largest;
  }
};

/// Sum over the group: sum_j statistic[j].
template <class Statistic>
struct group_sum {
  using reads = statistics<Statistic>;

  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const& token) const {
    float total = 0.0f;
    for (int j = 0; j < token.group(); ++j) total += token.statistic(Statistic{}, j);
    return total;
  }
};

/// Sum of squares over the group: sum_j statistic[j]^2.
template <class Statistic>
struct group_sum_of_squares {
  using reads = statistics<Statistic>;

  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const& token) const {
    float total = 0.0f;
    for (int j = 0; j < token.group(); ++j) {
      float const value = token.statistic(Statistic{}, j);
      total += value * value;
    }
    return total;
  }
};

}  // namespace foresightkv::inline v0
