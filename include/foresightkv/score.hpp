// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/host/backend.hpp>

namespace foresightkv::inline v0 {

/// Scores every token of the visited rows; higher = keep. Window statistics come from `window`, carried ones from the
/// state as it stands (see carry). Writes scores of protected tokens too.
///
/// \param scores  [row][slot], rows of the visited sequences only
/// Workspace and errors as evict.
template <class Exec, eviction_policy Policy, class Cache, class Window>
status score(Exec exec, Policy const& policy, Cache const& cache, sequence_list const& sequences,
             Window const& window, eviction_state<Policy> const& state, score_view const& scores, workspace scratch) {
  if constexpr (detail::check_policy_on_cache<Policy, Cache>() && detail::check_policy_window<Policy, Window>()) {
    status const checked = detail::first_error(
        [&] { return detail::check_policy_call(exec, policy, cache, sequences, scratch, detail::max_queries(window)); },
        [&] { return detail::check_whole_window(window); },
        [&] { return detail::check_policy_state(policy, state, cache.shape()); },
        [&] { return detail::check_scores(scores); });
    if (!checked.ok()) return checked;
    return detail::backend<Exec>::score(exec, policy, cache, sequences, window, state, scores, scratch);
  } else {
    return {errc::unsupported};
  }
}

}  // namespace foresightkv::inline v0
