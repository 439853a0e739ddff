// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/execution.hpp>

namespace foresightkv::inline v0 {

/// When and how far a row is cut. A structural type: usable as a template argument and as a run-time value.
///
/// The paper's regime: at n = budget + interval tokens the newest `interval` are protected and `interval` of the
/// other `budget` are evicted. Recent and sink tokens count inside the budget.
struct eviction_config {
  int budget = 1024;
  int interval = 128;
  int recent_tokens = -1;  ///< newest positions that are never evicted; negative: `interval`
  int sink_tokens = 0;     ///< first positions of the sequence that are never evicted

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int recent() const {
    return recent_tokens < 0 ? interval : recent_tokens;
  }

  [[nodiscard]] constexpr bool valid() const {
    return budget > 0 && interval > 0 && sink_tokens >= 0 && recent() <= budget && sink_tokens <= budget - recent();
  }

  friend constexpr bool operator==(eviction_config const&, eviction_config const&) = default;
};

/// A config fixed at compile time: checked here, converted to the run-time struct wherever it is used, so that both
/// forms give the same bits.
template <eviction_config Config>
struct fixed {
  static_assert(Config.valid(),
                "foresightkv: config must have positive counts and sinks + recent window inside the budget");

  FORESIGHTKV_HOST_DEVICE constexpr operator eviction_config() const { return Config; }
};

/// Length of a row of `length` tokens after an eviction under a uniform budget whose protected tokens leave room.
[[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int next_length(eviction_config const& config, int length) {
  return length < config.budget ? length : config.budget;
}

}  // namespace foresightkv::inline v0
