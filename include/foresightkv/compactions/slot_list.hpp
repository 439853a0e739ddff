// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/compaction.hpp>

namespace foresightkv::inline v0 {

/// Nothing moves and lengths stay: evicted slots become empty (position -1), the engine masks them and writes its next
/// tokens there, lowest slot first, telling `append`, which gives them their positions.
struct slot_list {
  static constexpr bool keeps_time_order = false;
  static constexpr bool moves_tokens = false;
};

}  // namespace foresightkv::inline v0
