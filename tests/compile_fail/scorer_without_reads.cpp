// SPDX-License-Identifier: Apache-2.0
// expect-error: foresightkv: a scorer must name what it reads: using reads = statistics<...>
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

#ifdef SHOULD_FAIL
struct my_scorer {
#else
struct my_scorer {
  using reads = fkv::statistics<>;
#endif
  template <class Lanes, class Token>
  float operator()(Lanes const&, Token const& token) const {
    return token.key(0);
  }
};

auto policy = fkv::compose(fkv::eviction_config{}, my_scorer{}, fkv::top_k{}, fkv::ordered{});
