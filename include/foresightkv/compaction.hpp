// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>

namespace foresightkv::inline v0 {

/// Where the kept tokens of a row end up.
///   keeps_time_order  slots stay in order of position
///   moves_tokens      evicted slots are filled and the row gets shorter; otherwise they become empty slots
/// A backend knows the members of compactions/: they are tags.
template <class Compaction>
concept compaction = requires {
  { Compaction::keeps_time_order } -> std::convertible_to<bool>;
  { Compaction::moves_tokens } -> std::convertible_to<bool>;
};

namespace detail {

template <class Compaction>
constexpr bool check_compaction() {
  static_assert(compaction<Compaction>,
                "foresightkv: a compaction must have keeps_time_order and moves_tokens (ordered, fill_holes, slot_list)");
  return compaction<Compaction>;
}

}  // namespace detail

}  // namespace foresightkv::inline v0
