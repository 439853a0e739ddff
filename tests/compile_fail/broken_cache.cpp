// SPDX-License-Identifier: Apache-2.0
// expect-error: foresightkv: a cache must be trivially copyable and have domain, shape(), length(row), keys(row), values(row)
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

struct my_cache : fkv::dense_cache<float> {
#ifdef SHOULD_FAIL
  int values(fkv::row_index) const;
#endif
};

using policy = decltype(fkv::compose(fkv::eviction_config{}, fkv::window_sum{}, fkv::top_k{}, fkv::ordered{}));

fkv::status run(policy const& rule, my_cache const& cache, fkv::eviction_state<policy> const& state,
                std::int32_t* new_lengths) {
  return fkv::evict(fkv::host, fkv::batch{rule, cache, {}, state, fkv::workspace{}}, fkv::observation<float>{},
                    {new_lengths});
}
