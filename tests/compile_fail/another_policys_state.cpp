// SPDX-License-Identifier: Apache-2.0
// expect-error: eviction_state<
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

constexpr auto policy = fkv::compose(fkv::eviction_config{}, fkv::window_sum{}, fkv::top_k{}, fkv::ordered{});
constexpr auto other = fkv::compose(fkv::eviction_config{}, fkv::h2o{}, fkv::top_k{}, fkv::ordered{});

#ifdef SHOULD_FAIL
using its_policy = decltype(other);
#else
using its_policy = decltype(policy);
#endif

fkv::status run(fkv::dense_cache<float> const& cache, fkv::eviction_state<std::remove_const_t<its_policy>> const& state,
                std::int32_t const* counts) {
  return fkv::append(fkv::host, fkv::batch{policy, cache, {}, state}, counts);
}
