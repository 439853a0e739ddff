// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/batch.hpp>
#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/host/backend.hpp>
#include <foresightkv/eviction_output.hpp>

namespace foresightkv::inline v0 {

/// Workspace of `evict`, and of every other verb of a policy, in bytes.
///
/// `list` gives the bounds max_count and max_length; `max_queries` the largest window. Of the policy only its type
/// counts.
template <class Exec, eviction_policy Policy>
[[nodiscard]] std::size_t evict_bytes(Exec exec, Policy const&, cache_shape const& shape, sequence_list const& list,
                                      int max_queries) {
  return detail::backend<Exec>::template bytes<Policy>(exec, shape, list, max_queries);
}

/// The same of an `evict` into another cache.
template <class Exec, eviction_policy Policy>
[[nodiscard]] std::size_t evict_into_bytes(Exec exec, Policy const&, cache_shape const& shape,
                                           sequence_list const& list, int max_queries) {
  return detail::backend<Exec>::template bytes_into<Policy>(exec, shape, list, max_queries);
}

/// Cuts every visited row that is longer than its budget: observe, carry, score, select and compact in one call.
///
/// A row with no more tokens than its budget keeps every byte of cache and state. Protected tokens stay: the newest
/// config.recent() positions, the first config.sink_tokens, and those that the state has pinned. Carried statistics of a row that is cut take in the
/// window first. Sequences whose data breaks a rule are flagged in the state and left alone, their new lengths and lists
/// unwritten.
/// \param rows    tokens to cut; the lengths() of the cache are read, never written, and the state is advanced
/// \param window  an observation, or statistics observed before
/// \param output  new lengths, and optional lists of tokens and of pages (see freed_pages)
/// \return errc::invalid_config, invalid_shape, null_pointer, misaligned, overlap, workspace_too_small or unsupported
///        (a window that continues another), nothing written; else ok. Ties: lowest slot first. Host: parallel over
///        rows, does not allocate.
template <class Exec, class Policy, class Cache, class Window>
status evict(Exec exec, batch<Policy, Cache> const& rows, Window const& window, eviction_output const& output) {
  if constexpr (detail::check_policy_on_cache<Policy, Cache>() && detail::check_policy_window<Policy, Window>()) {
    status const checked = detail::first_error(
        [&] { return detail::check_batch(exec, rows, detail::max_queries(window)); },
        [&] { return detail::check_whole_window(window); }, [&] { return detail::check_selection(output.lists); },
        [&] { return detail::check_new_lengths(rows.cache, output.new_lengths); },
        [&] { return output.freed.counts == nullptr ? status{} : detail::check_pages(rows.cache, output.freed); });
    if (!checked.ok()) return checked;
    return detail::backend<Exec>::evict(exec, rows.policy, rows.cache, rows.sequences, window, rows.state, output,
                                        rows.scratch);
  } else {
    return {errc::unsupported};
  }
}

/// The same into another cache: every visited sequence is copied there, without the tokens that go. See moving_batch.
/// \param moving  rows.into(target); its workspace is of evict_into_bytes
/// \param output  new lengths by the target's length domain; of freed pages those of the target, between its room and the
///                new lengths. A dry run does not ask whether pages are shared
/// \return as evict; errc::invalid_shape for a target of other extents, errc::overlap for one that the host sees to stand
///         in the cache's memory
template <class Exec, class Policy, class Cache, class Target, class Window>
status evict(Exec exec, moving_batch<Policy, Cache, Target> const& moving, Window const& window,
             eviction_output const& output) {
  if constexpr (detail::check_target_type<Policy, Cache, Target>() && detail::check_policy_window<Policy, Window>()) {
    auto const& rows = moving.rows;
    int const queries = detail::max_queries(window);
    status const checked = detail::first_error(
        [&] { return detail::check_moving(exec, moving, queries, output.new_lengths); },
        [&] { return detail::check_whole_window(window); }, [&] { return detail::check_selection(output.lists); },
        [&] { return output.freed.counts == nullptr ? status{} : detail::check_pages(moving.target, output.freed); },
        [&] {
          return detail::check_scratch(
              rows.scratch, evict_into_bytes(exec, rows.policy, rows.cache.shape(), rows.sequences, queries));
        });
    if (!checked.ok()) return checked;
    return detail::backend<Exec>::evict(exec, rows.policy, rows.cache, rows.sequences, window, rows.state, output,
                                        rows.scratch, moving.target);
  } else {
    return {errc::unsupported};
  }
}

}  // namespace foresightkv::inline v0
