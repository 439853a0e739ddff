// SPDX-License-Identifier: Apache-2.0
#include <foresightkv/scorers/r_kv.hpp>
#include <foresightkv/scorers/snap_kv.hpp>

#include "policies.hpp"

namespace evict_trace {

record replay_snap_kv(replay_input const& input) {
  auto const& [layer, golden, judge, given] = input;
  return replay_with(layer, golden, given, given.config(), fkv::snap_kv<8, 7>{});
}

record replay_r_kv(replay_input const& input) {
  auto const& [layer, golden, judge, given] = input;
  return replay_with(layer, golden, given, given.config(), fkv::r_kv{});
}

}  // namespace evict_trace
