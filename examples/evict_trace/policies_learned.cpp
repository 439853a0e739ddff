// SPDX-License-Identifier: Apache-2.0
#include <foresightkv/scorers/foresight.hpp>

#include "policies.hpp"

namespace evict_trace {

record replay_golden(replay_input const& input) {
  auto const& [layer, golden, judge, given] = input;
  return replay_with(layer, golden, given, given.config(), oracle{});
}

record replay_foresight(replay_input const& input) {
  auto const& [layer, golden, judge, given] = input;
  return replay_with(layer, golden, given, given.config(), fkv::foresight<fkv::paper>{judge});
}

}  // namespace evict_trace
