// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/budget.hpp>

namespace foresightkv::inline v0 {

/// A budget per sequence slot, read from memory of the backend at every call. One that cannot hold the protected
/// tokens sets sequence_flag::bad_budget and leaves the sequence alone.
struct per_sequence {
  static constexpr length_domain domain = length_domain::sequence;

  std::int32_t const* budgets = nullptr;  ///< [sequences]

  FORESIGHTKV_HOST_DEVICE constexpr int operator()(eviction_config const& config, cache_shape const&,
                                                   row_index at) const {
    int const tokens = budgets[at.sequence];
    return tokens >= config.recent() + config.sink_tokens ? tokens : -1;
  }
  [[nodiscard]] status check(cache_shape const&) const { return detail::check_buffer(budgets).at(argument::budget); }
};

}  // namespace foresightkv::inline v0
