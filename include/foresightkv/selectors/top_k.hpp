// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/selector.hpp>

namespace foresightkv::inline v0 {

/// Evicts the lowest scores, exactly: of equal scores the lowest slot goes first, NaN ranks below everything,
/// -0 equals +0.
struct top_k {
  static constexpr length_domain domain = length_domain::sequence;

#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
  template <class Row>
  FORESIGHTKV_HOST_DEVICE void operator()(Row& row) const {
    row.evict_lowest(row.count());
  }
};

}  // namespace foresightkv::inline v0
