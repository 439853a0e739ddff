// SPDX-License-Identifier: Apache-2.0
// expect-error: foresightkv: a scorer must have float operator()(lanes, token) const, or needs_time_order,
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

struct my_scorer {
  using reads = fkv::statistics<fkv::sum>;
  template <class Lanes, class Token>
#ifdef SHOULD_FAIL
  double operator()(Lanes const&, Token const& token) const {
    return double{token.mean(fkv::sum{})};
  }
#else
  float operator()(Lanes const&, Token const& token) const {
    return token.mean(fkv::sum{});
  }
#endif
};

auto policy = fkv::compose(fkv::eviction_config{}, my_scorer{}, fkv::top_k{}, fkv::ordered{});
