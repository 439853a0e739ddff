// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/host/backend.hpp>
#include <foresightkv/detail/observer.hpp>

namespace foresightkv::inline v0 {

/// Workspace of `observe` for the window statistics `List`, in bytes.
template <class List, class Exec>
[[nodiscard]] std::size_t observe_bytes(Exec exec, cache_shape const& shape, sequence_list const& list,
                                        int max_queries) {
  return detail::backend<Exec>::template bytes<detail::observer<List>>(exec, shape, list, max_queries);
}

/// Computes statistics of the window's attention to every cached token of the visited rows.
///
/// Nothing is kept between calls but `out`: a window may come in chunks (window.continues), oldest first, all with the
/// same window_end and each with its first_position; tokens may join between them. The statistics do not depend on the
/// chunking, up to the rounding of sums.
/// Without a query so far they are negative zeros, by which a later chunk knows. A chunk without a query has a
/// first_position too: the tokens from there on get what no query before gave them, all others are left alone.
/// \param state  positions of the tokens; row_state{} for rows from which nothing was evicted. Its group may be another
///               than the cache's: that of a KV head whose query heads are spread over ranks
/// \param out    [row][slot][statistic][j], rows of the visited sequences only
/// \return as evict
template <class Exec, class Cache, class Query, log_base Base, class List>
status observe(Exec exec, Cache const& cache, sequence_list const& sequences, observation<Query, Base> const& window,
               row_state const& state, statistics_view<List> const& out, workspace scratch) {
  if constexpr (detail::check_cache<Cache>()) {
    detail::observer<List> const policy{};
    status const checked = detail::first_error(
        [&] { return detail::check_policy_call(exec, policy, cache, sequences, scratch, window.max_queries); },
        [&] { return detail::check_window(window); }, [&] { return detail::check_window(observed<List>{out}); },
        [&] { return detail::check_optional_state(state, cache.shape()); });
    if (!checked.ok()) return checked;
    return detail::backend<Exec>::observe(exec, policy, cache, sequences, window, state, out.data, out.capacity,
                                          scratch);
  } else {
    return {errc::unsupported};
  }
}

}  // namespace foresightkv::inline v0
