// SPDX-License-Identifier: Apache-2.0
// expect-error: foresightkv: this scorer needs tokens in time order, which this compaction does not keep
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

#ifdef SHOULD_FAIL
auto policy = fkv::compose(fkv::eviction_config{}, fkv::snap_kv<>{}, fkv::top_k{}, fkv::fill_holes{});
#else
auto policy = fkv::compose(fkv::eviction_config{}, fkv::snap_kv<>{}, fkv::top_k{}, fkv::ordered{});
#endif
