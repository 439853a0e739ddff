// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/compactions/ordered.hpp>
#include <foresightkv/policy.hpp>
#include <foresightkv/selectors/top_k.hpp>

namespace foresightkv::inline v0::detail {

/// A scorer that is never called: it only says what to observe.
template <class List>
struct reader {
  using reads = List;
  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const&) const {
    return 0.0f;
  }
};

/// The policy of a call that observes and evicts nothing.
template <class List>
using observer = policy<fixed<eviction_config{}>, reader<List>, top_k, ordered>;

}  // namespace foresightkv::inline v0::detail
