// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/budget.hpp>

namespace foresightkv::inline v0 {

/// The config's budget for every row. A config given at run time makes it a run-time budget.
struct uniform {
  static constexpr length_domain domain = length_domain::sequence;

  FORESIGHTKV_HOST_DEVICE constexpr int operator()(eviction_config const& config, cache_shape const&, row_index) const {
    return config.budget;
  }
};

}  // namespace foresightkv::inline v0
