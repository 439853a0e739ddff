// SPDX-License-Identifier: Apache-2.0
// expect-error: foresightkv: this policy gives rows different lengths inside one length domain of the cache
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

struct per_layer {
  static constexpr fkv::length_domain domain = fkv::length_domain::layer;
  int operator()(fkv::eviction_config const& config, fkv::cache_shape const&, fkv::row_index at) const {
    return config.budget + at.layer;
  }
};

using policy =
    decltype(fkv::compose(fkv::eviction_config{}, fkv::window_sum{}, fkv::top_k{}, fkv::ordered{}, per_layer{}));
#ifdef SHOULD_FAIL
using cache_type = fkv::dense_cache<float>;
#else
using cache_type = fkv::dense_cache<float, float, fkv::length_domain::layer>;
#endif

fkv::status run(policy const& rule, cache_type const& cache, fkv::eviction_state<policy> const& state,
                std::int32_t* new_lengths) {
  return fkv::evict(fkv::host, fkv::batch{rule, cache, {}, state, fkv::workspace{}}, fkv::observation<float>{},
                    {new_lengths});
}
