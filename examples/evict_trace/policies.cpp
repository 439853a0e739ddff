// SPDX-License-Identifier: Apache-2.0
#include "policies.hpp"

#include <algorithm>

namespace evict_trace {
namespace {

record replay_full(replay_input const& input) { return keep_everything(input.layer, input.given); }

constexpr policy_entry entries[] = {
    {"full", "everything: no eviction", "position", replay_full, false},
    {"golden", "what the future attends to: the oracle", "oracle", replay_golden},
    {"foresight", "what the learned judge wants", "learned", replay_foresight, true, true},
    {"window_sum", "attended to by the last interval", "window", replay_window_sum},
    {"accumulated", "attended to by all queries so far", "accumulated", replay_accumulated},
    {"h2o", "attended to so far, and the newer half", "accumulated", replay_h2o},
    {"h2o_per_query", "attended to per query so far", "accumulated", replay_h2o_per_query},
    {"tova", "attended to by the last query", "window", replay_tova},
    {"snap_kv", "attended to by the last 8, pooled", "window", replay_snap_kv},
    {"r_kv", "attended to by the last 8, less repeats", "window", replay_r_kv},
    {"key_diff", "keys far from the mean key", "keys", replay_key_diff},
    {"key_norm", "short keys", "keys", replay_key_norm},
    {"streaming_llm", "the first 4 tokens and the newest", "position", replay_streaming_llm},
    {"random", "tokens drawn by lot", "position", replay_random},
};

}  // namespace

std::span<policy_entry const> all_policies() { return entries; }

policy_entry const* find_policy(std::string_view name) {
  auto const* const found = std::ranges::find(entries, name, &policy_entry::name);
  return found == std::end(entries) ? nullptr : found;
}

}  // namespace evict_trace
