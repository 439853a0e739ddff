// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/batch.hpp>
#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/host/backend.hpp>

namespace foresightkv::inline v0 {

/// Tells the state about tokens that joined or left the end of sequences. Call it when the cache and its lengths are as
/// they are to be: after tokens were written, or after rejected ones (drafts) were taken off.
///
/// A positive count gives the next positions to that many tokens, with empty carried statistics: in the empty slots of
/// the row first (slot_list), lowest slot first, then behind its end. Optional where rows have no empty slots: every
/// verb takes tokens beyond seen_length as new. More tokens than the cache's length has room for:
/// sequence_flag::length_mismatch. More than the state's columns hold: sequence_flag::state_overflow, except in a
/// pristine row, whose positions are implicit.
///
/// A negative count takes that many of the newest tokens back. The state loses what it has seen beyond the cache's
/// length, and nothing that it has not seen: drafts that no verb has seen need no call, and do no harm. The tokens that
/// go must stand at the row's end: `take_back` finds them anywhere. Under slot_list, once a row was evicted from, its
/// slots stay and so does its length: the newest tokens leave empty slots, wherever they stand; there every token has to
/// be appended. Anything else sets sequence_flag::length_mismatch too. A flagged sequence is left as it was.
/// \param counts  [sequence] by slot
template <class Exec, class Policy, class Cache>
status append(Exec exec, batch<Policy, Cache> const& rows, std::int32_t const* counts) {
  if constexpr (detail::check_cache<Cache>()) {
    status const checked = detail::first_error(
        [&] { return detail::check_list(rows.sequences); }, [&] { return rows.cache.check().at(argument::cache); },
        [&] { return detail::check_state(rows.state, rows.cache.shape(), eviction_state<Policy>::carried_list::size); },
        [&] { return detail::check_buffer(counts).at(argument::counts); });
    if (!checked.ok()) return checked;
    return detail::backend<Exec>::append(exec, rows.cache, rows.state, rows.sequences, counts,
                                         !Policy::compaction_type::moves_tokens);
  } else {
    return {errc::unsupported};
  }
}

}  // namespace foresightkv::inline v0
