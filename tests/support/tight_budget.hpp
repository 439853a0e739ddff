// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/budget.hpp>

namespace testing {

namespace fkv = foresightkv;

/// A budget that nobody checks against what is protected.
struct tight_budget {
  static constexpr fkv::length_domain domain = fkv::length_domain::sequence;
  std::int32_t const* budgets = nullptr;
  FORESIGHTKV_HOST_DEVICE int operator()(fkv::eviction_config const&, fkv::cache_shape const&,
                                         fkv::row_index at) const {
    return budgets[at.sequence];
  }
};

}  // namespace testing
