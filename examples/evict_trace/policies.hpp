// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/judge.hpp>
#include <span>
#include <string_view>

#include "replay.hpp"

namespace evict_trace {

/// What a policy may look at.
struct replay_input {
  fkv::io::trace_layer const& layer;
  golden_table const& golden;
  fkv::judge_weights const& judge;  ///< packed == null: none
  setting const& given;
};

struct policy_entry {
  std::string_view name;
  std::string_view summary;
  std::string_view family;  ///< what it judges by; the page's colours follow it
  record (*replay)(replay_input const&);
  bool evicts = true;
  bool needs_judge = false;
};

/// All policies, in the order in which they are printed.
[[nodiscard]] std::span<policy_entry const> all_policies();

/// Null if there is none of that name.
[[nodiscard]] policy_entry const* find_policy(std::string_view name);

// Each policy is a type of its own, so they are instantiated in several translation units.
record replay_golden(replay_input const&);
record replay_foresight(replay_input const&);
record replay_window_sum(replay_input const&);
record replay_accumulated(replay_input const&);
record replay_h2o(replay_input const&);
record replay_h2o_per_query(replay_input const&);
record replay_tova(replay_input const&);
record replay_snap_kv(replay_input const&);
record replay_r_kv(replay_input const&);
record replay_key_diff(replay_input const&);
record replay_key_norm(replay_input const&);
record replay_streaming_llm(replay_input const&);
record replay_random(replay_input const&);

}  // namespace evict_trace
