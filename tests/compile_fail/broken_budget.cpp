// SPDX-License-Identifier: Apache-2.0
// expect-error: foresightkv: a budget must be trivially copyable and have domain and int operator()(config, cache_shape, row_index) const
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

struct my_budget {
  static constexpr fkv::length_domain domain = fkv::length_domain::sequence;
#ifdef SHOULD_FAIL
  int operator()(fkv::eviction_config const& config) const { return config.budget; }
#else
  int operator()(fkv::eviction_config const& config, fkv::cache_shape const&, fkv::row_index) const {
    return config.budget;
  }
#endif
};

auto policy = fkv::compose(fkv::eviction_config{}, fkv::window_sum{}, fkv::top_k{}, fkv::ordered{}, my_budget{});
