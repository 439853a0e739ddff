// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/batch.hpp>
#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/host/backend.hpp>

namespace foresightkv::inline v0 {

/// Moves keys, values and every state column of the visited rows together, as the policy's compaction says, and counts
/// one eviction step for the rows that lose tokens. A row with evicted_count 0 keeps every byte.
///
/// \param lists        as `select` wrote them: ascending, unique, inside the row; kept, evicted and evicted_count
/// \param new_lengths  indexed by the cache's length domain; not the cache's own buffer
/// Workspace and errors as evict.
template <class Exec, class Policy, class Cache>
status compact(Exec exec, batch<Policy, Cache> const& rows, selection const& lists, std::int32_t* new_lengths) {
  if constexpr (detail::check_policy_on_cache<Policy, Cache>()) {
    status const checked = detail::first_error([&] { return detail::check_batch(exec, rows, 0); },
                                               [&] { return detail::check_given(lists); },
                                               [&] { return detail::check_new_lengths(rows.cache, new_lengths); });
    if (!checked.ok()) return checked;
    return detail::backend<Exec>::compact(exec, rows.policy, rows.cache, rows.sequences, lists, rows.state, new_lengths,
                                          rows.scratch);
  } else {
    return {errc::unsupported};
  }
}

/// The same into another cache: every visited sequence is copied there, rows with evicted_count 0 as they are. See
/// moving_batch.
/// \param moving       rows.into(target)
/// \param new_lengths  indexed by the target's length domain; neither cache's own buffer
/// Workspace as evict in place, errors as evict into another cache.
template <class Exec, class Policy, class Cache, class Target>
status compact(Exec exec, moving_batch<Policy, Cache, Target> const& moving, selection const& lists,
               std::int32_t* new_lengths) {
  if constexpr (detail::check_target_type<Policy, Cache, Target>()) {
    auto const& rows = moving.rows;
    status const checked = detail::first_error([&] { return detail::check_moving(exec, moving, 0, new_lengths); },
                                               [&] { return detail::check_given(lists); });
    if (!checked.ok()) return checked;
    return detail::backend<Exec>::compact(exec, rows.policy, rows.cache, rows.sequences, lists, rows.state, new_lengths,
                                          rows.scratch, moving.target);
  } else {
    return {errc::unsupported};
  }
}

}  // namespace foresightkv::inline v0
