// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>

namespace foresightkv::inline v0 {

struct ordered;
struct fill_holes;
struct slot_list;

/// Where the kept tokens of a row end up: one of `compactions/`. The set is closed, since a backend has to know how
/// each of them moves tokens without a copy. What they say of themselves:
///   keeps_time_order  slots stay in order of position
///   moves_tokens      evicted slots are filled and the row gets shorter; otherwise they become empty slots
template <class Compaction>
concept compaction =
    std::same_as<Compaction, ordered> || std::same_as<Compaction, fill_holes> || std::same_as<Compaction, slot_list>;

namespace detail {

template <class Compaction>
constexpr bool check_compaction() {
  static_assert(compaction<Compaction>,
                "foresightkv: a compaction is ordered, fill_holes or slot_list, and none of your own");
  return compaction<Compaction>;
}

}  // namespace detail

}  // namespace foresightkv::inline v0
