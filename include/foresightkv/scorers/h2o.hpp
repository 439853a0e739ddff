// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/config.hpp>
#include <foresightkv/scorers/accumulated_sum.hpp>

namespace foresightkv::inline v0 {

/// Heavy hitters (H2O, arXiv 2306.14048, section 4; FMInference/H2O): mean over the group of the accumulated sum.
///
/// The score is accumulated_sum. The original also keeps the newest half of its budget whatever their score; here that
/// is the config's recent window: see with_newest_half.
using h2o = accumulated_sum;

/// The config with H2O's recent window: of the tokens that the config leaves to the scores, the newer half (rounded down)
/// is kept too, as far as sinks leave room. With the default window that is the newest interval + floor(budget / 2).
/// \param config  valid; so is the result, of which a second call would keep still more
[[nodiscard]] constexpr eviction_config with_newest_half(eviction_config config) {
  int const candidates = config.budget + config.interval - config.recent();
  int const most = config.budget - config.sink_tokens, wanted = config.recent() + candidates / 2;
  config.recent_tokens = wanted < most ? wanted : most;
  return config;
}

}  // namespace foresightkv::inline v0
