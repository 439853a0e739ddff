// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/compaction.hpp>

namespace foresightkv::inline v0 {

/// The row's last kept tokens move into its evicted slots, i-th into i-th, both ascending: at most one move per
/// evicted token. Time order then lives in the position column alone. Attention kernels that infer causality from slot
/// order must not see such a row with more than one query.
struct fill_holes {
  static constexpr bool keeps_time_order = false;
  static constexpr bool moves_tokens = true;
};

}  // namespace foresightkv::inline v0
