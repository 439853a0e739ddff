// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/batch.hpp>
#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/host/backend.hpp>

namespace foresightkv::inline v0 {

/// Folds a window into the carried statistics of every token of the visited rows and marks them as seen; evicts
/// nothing. `evict` does this by itself for the rows that it cuts: call `carry` where nothing is cut, to start the
/// statistics with a prompt's queries, or between `observe` and `score` when the stages are called one by one.
///
/// A row longer than the state's capacity sets sequence_flag::state_overflow and is left alone.
/// Workspace and errors as evict.
template <class Exec, class Policy, class Cache, class Window>
status carry(Exec exec, batch<Policy, Cache> const& rows, Window const& window) {
  if constexpr (detail::check_policy_on_cache<Policy, Cache>() && detail::check_window_type<Window>()) {
    status const checked =
        detail::first_error([&] { return detail::check_batch(exec, rows, detail::max_queries(window)); },
                            [&] { return detail::check_whole_window(window); });
    if (!checked.ok()) return checked;
    return detail::backend<Exec>::carry(exec, rows.policy, rows.cache, rows.sequences, window, rows.state,
                                        rows.scratch);
  } else {
    return {errc::unsupported};
  }
}

}  // namespace foresightkv::inline v0
