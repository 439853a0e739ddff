// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/execution.hpp>

namespace foresightkv::inline v0::detail {

/// The first of [0, count) for which `holds` is false, or count: it is true for all before and for none behind.
template <class Predicate>
FORESIGHTKV_HOST_DEVICE constexpr int partition_point(int count, Predicate const& holds) {
  int low = 0, high = count;
  while (low < high) {
    int const middle = low + (high - low) / 2;
    if (holds(middle))
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

}  // namespace foresightkv::inline v0::detail
