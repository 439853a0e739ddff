// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/compaction.hpp>

namespace foresightkv::inline v0 {

/// Kept tokens close up in place and stay in time order. Moves every kept token behind the first evicted slot.
struct ordered {
  static constexpr bool keeps_time_order = true;
  static constexpr bool moves_tokens = true;
};

}  // namespace foresightkv::inline v0
