// SPDX-License-Identifier: Apache-2.0
// expect-error: foresightkv: slot_list leaves tokens where they are: what goes to another cache takes ordered or fill_holes
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

#ifdef SHOULD_FAIL
using compaction = fkv::slot_list;
#else
using compaction = fkv::fill_holes;
#endif

constexpr auto policy = fkv::compose(fkv::eviction_config{}, fkv::key_norm{}, fkv::top_k{}, compaction{});

fkv::status run(fkv::dense_cache<float> const& tokens, fkv::paged_cache<fkv::scaled_by_token<std::int8_t>> const& pages,
                fkv::eviction_state<std::remove_const_t<decltype(policy)>> const& state, std::int32_t* new_lengths) {
  fkv::batch const rows{policy, tokens, {}, state, fkv::workspace{}};
  return fkv::evict(fkv::host, rows.into(pages), fkv::observation<float>{}, {new_lengths});
}
