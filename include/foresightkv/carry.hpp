// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/host/backend.hpp>

namespace foresightkv::inline v0 {

/// Folds a window into the carried statistics of every token of the visited rows and marks them as seen; evicts
/// nothing. `evict` does this by itself for the rows that it cuts: call `carry` where nothing is cut, to start the
/// statistics with a prompt's queries, or between `observe` and `score` when the stages are called one by one.
///
/// A row longer than the state's capacity sets sequence_flag::state_overflow and is left alone.
/// Workspace and errors as evict.
template <class Exec, eviction_policy Policy, class Cache, class Window>
status carry(Exec exec, Policy const& policy, Cache const& cache, sequence_list const& sequences,
             Window const& window, eviction_state<Policy> const& state, workspace scratch) {
  if constexpr (detail::check_policy_on_cache<Policy, Cache>() && detail::check_window_type<Window>()) {
    status const checked = detail::first_error(
        [&] { return detail::check_policy_call(exec, policy, cache, sequences, scratch, detail::max_queries(window)); },
        [&] { return detail::check_whole_window(window); },
        [&] { return detail::check_policy_state(policy, state, cache.shape()); });
    if (!checked.ok()) return checked;
    return detail::backend<Exec>::carry(exec, policy, cache, sequences, window, state, scratch);
  } else {
    return {errc::unsupported};
  }
}

}  // namespace foresightkv::inline v0
