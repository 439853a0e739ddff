// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/batch.hpp>
#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/host/backend.hpp>

namespace foresightkv::inline v0 {

/// Scores every token of the visited rows; higher = keep. Window statistics come from `window`, carried ones from the
/// state as it stands (see carry). Writes scores of protected tokens too.
///
/// \param scores  [row][slot], rows of the visited sequences only
/// Workspace and errors as evict.
template <class Exec, class Policy, class Cache, class Window>
status score(Exec exec, batch<Policy, Cache> const& rows, Window const& window, score_view const& scores) {
  if constexpr (detail::check_policy_on_cache<Policy, Cache>() && detail::check_policy_window<Policy, Window>()) {
    status const checked = detail::first_error(
        [&] { return detail::check_batch(exec, rows, detail::max_queries(window)); },
        [&] { return detail::check_whole_window(window); }, [&] { return detail::check_scores(scores); });
    if (!checked.ok()) return checked;
    return detail::backend<Exec>::score(exec, rows.policy, rows.cache, rows.sequences, window, rows.state, scores,
                                        rows.scratch);
  } else {
    return {errc::unsupported};
  }
}

}  // namespace foresightkv::inline v0
