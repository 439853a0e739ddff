// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/batch.hpp>
#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/host/backend.hpp>

namespace foresightkv::inline v0 {

/// Takes the newest tokens of sequences back, wherever they stand: rejected drafts, also after an eviction has moved
/// them. The cache's lengths still include them.
///
/// Of each visited row the tokens leave whose positions are the sequence's `count` newest: those that the state has not
/// seen, at the row's end, and others in any slot; one that was evicted meanwhile is gone already. The next token gets
/// the first position that was taken back. Staying tokens keep their carried statistics to the bit, and no eviction step
/// is counted. They move as the policy's compaction has it: rows in time order lose their end; under `fill_holes` the
/// last ones that stay fill the holes, at most `count` moves a row; under `slot_list` slots become empty and the length
/// stays. A row that nothing was evicted from gets shorter, whatever the compaction. A row without such tokens keeps
/// every byte but its next position, one of a count of 0 that too.
///
/// Flags, beside those that every verb sets for lengths, lists and tables:
///   length_mismatch  a count below 0, or of more tokens than there ever were; or rows that share a length would lose
///                    different numbers of tokens
///   state_overflow   slot_list: a row that was evicted from is longer than the state's columns, which have to hold it
///   shared_page      tokens would have to move in pages that others read, from the first hole that is filled on
/// A flagged sequence is left as it was.
/// \param counts       [sequence] by slot
/// \param new_lengths  indexed by the cache's length domain; not the cache's own buffer. freed_pages takes them
/// Workspace of evict_bytes, for no queries; errors as evict. Launches: three.
template <class Exec, class Policy, class Cache>
status take_back(Exec exec, batch<Policy, Cache> const& rows, std::int32_t const* counts, std::int32_t* new_lengths) {
  if constexpr (detail::check_policy_on_cache<Policy, Cache>()) {
    status const checked = detail::first_error([&] { return detail::check_batch(exec, rows, 0); },
                                               [&] { return detail::check_buffer(counts).at(argument::counts); },
                                               [&] { return detail::check_new_lengths(rows.cache, new_lengths); });
    if (!checked.ok()) return checked;
    return detail::backend<Exec>::take_back(exec, rows.policy, rows.cache, rows.sequences, counts, rows.state,
                                            new_lengths, rows.scratch);
  } else {
    return {errc::unsupported};
  }
}

}  // namespace foresightkv::inline v0
