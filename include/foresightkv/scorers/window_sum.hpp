// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/scorer.hpp>

namespace foresightkv::inline v0 {

/// Attention that the window's queries gave the token: sum over queries, mean over the group.
struct window_sum {
  using reads = statistics<sum>;

  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const& token) const {
    return token.mean(sum{});
  }
};

}  // namespace foresightkv::inline v0
