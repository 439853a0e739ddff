// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/batch.hpp>
#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/host/backend.hpp>

namespace foresightkv::inline v0 {

/// Chooses which tokens of the visited rows go: min(tokens - budget, candidates) of them, none where that is not
/// positive. Reads lengths, scores and the state; writes lists only. Same scores, same lists, on every backend.
///
/// \param scores  [row][slot]; higher = keep; of equal scores the lowest slot goes first, NaN ranks lowest, -0 == +0
/// \param lists   kept and evicted slots, ascending; counts; any of them may be null
/// Workspace and errors as evict. O(length) per row.
template <class Exec, class Policy, class Cache>
status select(Exec exec, batch<Policy, Cache> const& rows, score_view const& scores, selection const& lists) {
  if constexpr (detail::check_policy_on_cache<Policy, Cache>()) {
    status const checked = detail::first_error([&] { return detail::check_batch(exec, rows, 0); },
                                               [&] { return detail::check_scores(scores); },
                                               [&] { return detail::check_selection(lists); });
    if (!checked.ok()) return checked;
    return detail::backend<Exec>::select(exec, rows.policy, rows.cache, rows.sequences, scores, rows.state, lists,
                                         rows.scratch);
  } else {
    return {errc::unsupported};
  }
}

}  // namespace foresightkv::inline v0
