// SPDX-License-Identifier: Apache-2.0
#include <foresightkv/scorers/accumulated_sum.hpp>
#include <foresightkv/scorers/h2o.hpp>
#include <foresightkv/scorers/h2o_per_query.hpp>
#include <foresightkv/scorers/tova.hpp>
#include <foresightkv/scorers/window_sum.hpp>

#include "policies.hpp"

namespace evict_trace {

record replay_window_sum(replay_input const& input) {
  auto const& [layer, golden, judge, given] = input;
  return replay_with(layer, golden, given, given.config(), fkv::window_sum{});
}

record replay_accumulated(replay_input const& input) {
  auto const& [layer, golden, judge, given] = input;
  return replay_with(layer, golden, given, given.config(), fkv::accumulated_sum{});
}

record replay_h2o(replay_input const& input) {
  auto const& [layer, golden, judge, given] = input;
  return replay_with(layer, golden, given, fkv::with_newest_half(given.config()), fkv::h2o{});
}

record replay_h2o_per_query(replay_input const& input) {
  auto const& [layer, golden, judge, given] = input;
  return replay_with(layer, golden, given, given.config(), fkv::h2o_per_query{});
}

record replay_tova(replay_input const& input) {
  auto const& [layer, golden, judge, given] = input;
  return replay_with(layer, golden, given, given.config(), fkv::tova{});
}

}  // namespace evict_trace
