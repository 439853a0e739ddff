// SPDX-License-Identifier: Apache-2.0
// expect-error: foresightkv: a scorer must list every statistic that it reads in `reads`
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

struct my_scorer {
#ifdef SHOULD_FAIL
  using reads = fkv::statistics<fkv::sum>;
#else
  using reads = fkv::statistics<fkv::sum, fkv::maximum>;
#endif
  template <class Lanes, class Token>
  float operator()(Lanes const&, Token const& token) const {
    return token.mean(fkv::sum{}) + token.mean(fkv::maximum{});
  }
};

using policy = decltype(fkv::compose(fkv::eviction_config{}, my_scorer{}, fkv::top_k{}, fkv::ordered{}));

fkv::status run(policy const& rule, fkv::dense_cache<float> const& cache, fkv::eviction_state<policy> const& state,
                std::int32_t* new_lengths) {
  return fkv::evict(fkv::host, fkv::batch{rule, cache, {}, state, fkv::workspace{}}, fkv::observation<float>{},
                    {new_lengths});
}
