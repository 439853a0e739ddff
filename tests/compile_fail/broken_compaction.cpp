// SPDX-License-Identifier: Apache-2.0
// expect-error: foresightkv: a compaction is ordered, fill_holes or slot_list, and none of your own
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

// Looks like one, and no backend knows how it moves tokens.
struct my_compaction {
  static constexpr bool keeps_time_order = true;
  static constexpr bool moves_tokens = true;
};

#ifdef SHOULD_FAIL
using chosen = my_compaction;
#else
using chosen = fkv::ordered;
#endif

auto policy = fkv::compose(fkv::eviction_config{}, fkv::window_sum{}, fkv::top_k{}, chosen{});
