// SPDX-License-Identifier: Apache-2.0
// expect-error: foresightkv: this scorer reads the window's queries: hand over an observation, not observed statistics
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

using policy = decltype(fkv::compose(fkv::eviction_config{}, fkv::snap_kv<>{}, fkv::top_k{}, fkv::ordered{}));
#ifdef SHOULD_FAIL
using window_type = fkv::observed<fkv::statistics<>>;
#else
using window_type = fkv::observation<float>;
#endif

fkv::status run(policy const& rule, fkv::dense_cache<float> const& cache, fkv::eviction_state<policy> const& state,
                std::int32_t* new_lengths) {
  return fkv::evict(fkv::host, fkv::batch{rule, cache, {}, state, fkv::workspace{}}, window_type{}, {new_lengths});
}
