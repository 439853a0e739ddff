// SPDX-License-Identifier: Apache-2.0
// expect-error: foresightkv: a compaction must have keeps_time_order and moves_tokens
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

struct my_compaction {
  static constexpr bool keeps_time_order = true;
#ifndef SHOULD_FAIL
  static constexpr bool moves_tokens = true;
#endif
};

auto policy = fkv::compose(fkv::eviction_config{}, fkv::window_sum{}, fkv::top_k{}, my_compaction{});
