// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/host/backend.hpp>

namespace foresightkv::inline v0 {

/// Tells the state about tokens that joined or left the end of sequences. Call it after the engine wrote them.
///
/// A positive count gives the next positions to that many tokens, with empty carried statistics: in the empty slots of
/// the row first (slot_list), lowest slot first, then behind its end. Optional where rows have no empty slots: every
/// verb takes tokens beyond seen_length as new. A negative count takes the newest tokens back (rejected drafts): they
/// must still stand at the row's end, or, under slot_list, become empty slots again; otherwise
/// sequence_flag::length_mismatch. More tokens than the state's columns hold: sequence_flag::state_overflow, except in a
/// pristine row, whose positions are implicit. A flagged sequence is left as it was.
/// Drafts that no verb has seen need no call: a shorter cache is enough.
/// \param counts  [sequence] by slot
template <class Exec, eviction_policy Policy>
status append(Exec exec, eviction_state<Policy> const& state, sequence_list const& sequences,
              std::int32_t const* counts) {
  status const checked = detail::first_error([&] { return detail::check_list(sequences); },
                                             [&] { return detail::check_state(state); },
                                             [&] { return counts == nullptr ? status{errc::null_pointer} : detail::check_aligned(counts); });
  if (!checked.ok()) return checked;
  return detail::backend<Exec>::append(exec, state, sequences, counts, !Policy::compaction_type::moves_tokens);
}

}  // namespace foresightkv::inline v0
