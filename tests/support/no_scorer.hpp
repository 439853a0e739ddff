// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/scorer.hpp>

namespace testing {

/// A scorer for calls that bring their own scores.
struct no_scorer {
  using reads = foresightkv::statistics<>;
  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const&) const {
    return 0.0f;
  }
};

}  // namespace testing
