// SPDX-License-Identifier: Apache-2.0
// expect-error: foresightkv: a window must be an observation<...> or an observed<statistics<...>>
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

using policy = decltype(fkv::compose(fkv::eviction_config{}, fkv::window_sum{}, fkv::top_k{}, fkv::ordered{}));
#ifdef SHOULD_FAIL
using window_type = float const*;
#else
using window_type = fkv::observation<float>;
#endif

fkv::status run(policy const& rule, fkv::dense_cache<float> const& cache, fkv::eviction_state<policy> const& state,
                window_type const& window, std::int32_t* new_lengths) {
  return fkv::evict(fkv::host, fkv::batch{rule, cache, {}, state, fkv::workspace{}}, window, {new_lengths});
}
