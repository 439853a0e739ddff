// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <foresightkv/scorers/key_diff.hpp>
#include <foresightkv/scorers/key_norm.hpp>
#include <foresightkv/scorers/random.hpp>
#include <foresightkv/scorers/streaming_llm.hpp>

#include "policies.hpp"

namespace evict_trace {

record replay_key_diff(replay_input const& input) {
  auto const& [layer, golden, judge, given] = input;
  return replay_with(layer, golden, given, given.config(), fkv::key_diff{});
}

record replay_key_norm(replay_input const& input) {
  auto const& [layer, golden, judge, given] = input;
  return replay_with(layer, golden, given, given.config(), fkv::key_norm{});
}

record replay_streaming_llm(replay_input const& input) {
  auto const& [layer, golden, judge, given] = input;
  auto config = given.config();
  config.sink_tokens = std::min(4, given.budget);
  // It keeps the newest tokens anyway: those that are protected make room for the sinks.
  config.recent_tokens = std::min(given.recent, given.budget - config.sink_tokens);
  return replay_with(layer, golden, given, config, fkv::streaming_llm{});
}

record replay_random(replay_input const& input) {
  auto const& [layer, golden, judge, given] = input;
  return replay_with(layer, golden, given, given.config(), fkv::random{given.seed});
}

}  // namespace evict_trace
