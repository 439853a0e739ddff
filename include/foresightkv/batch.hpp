// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/cache.hpp>
#include <foresightkv/policy.hpp>
#include <foresightkv/state.hpp>
#include <foresightkv/workspace.hpp>

namespace foresightkv::inline v0 {

/// What the verbs of a policy work on: a view, made once and handed to each of them.
///
///     fkv::batch const rows{policy, cache, active, state, scratch};
///     fkv::status done = fkv::evict(fkv::host, rows, window, {.new_lengths = lengths_after});
///
/// Owns nothing; copies of the views stand in it, so that a cache whose pointers change needs a new one.
template <class Policy, class Cache>
struct batch {
  static_assert(eviction_policy<Policy>, "foresightkv: a policy must come from compose(...)");

  Policy policy;
  Cache cache;
  sequence_list sequences;       ///< slots to visit, and the host's bounds
  eviction_state<Policy> state;  ///< from make_state
  workspace scratch{};           ///< of evict_bytes at least; `append` and `collect_due` need none

  /// The same with other sequences: those that are due.
  [[nodiscard]] batch visiting(sequence_list const& others) const { return {policy, cache, others, state, scratch}; }
};

template <class Policy, class Cache, class State>
batch(Policy, Cache, sequence_list, State) -> batch<Policy, Cache>;
template <class Policy, class Cache, class State>
batch(Policy, Cache, sequence_list, State, workspace) -> batch<Policy, Cache>;

}  // namespace foresightkv::inline v0
