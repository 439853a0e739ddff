// SPDX-License-Identifier: Apache-2.0
// expect-error: foresightkv: this scorer reads a column that the cache does not have: see with_column
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

struct gate {
  using reads = fkv::statistics<>;
  template <class Lanes, class Token>
  float operator()(Lanes const&, Token const& token) const {
    return token.column(0);
  }
};

constexpr auto policy = fkv::compose(fkv::eviction_config{}, gate{}, fkv::top_k{}, fkv::ordered{});

#ifdef SHOULD_FAIL
using cache = fkv::dense_cache<float>;
#else
using cache = fkv::column_cache<fkv::dense_cache<float>>;
#endif

fkv::status run(cache const& tokens, fkv::eviction_state<std::remove_const_t<decltype(policy)>> const& state,
                std::int32_t* new_lengths) {
  return fkv::evict(fkv::host, fkv::batch{policy, tokens, {}, state, fkv::workspace{}}, fkv::observation<float>{},
                    {new_lengths});
}
