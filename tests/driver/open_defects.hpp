// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace driver {

// Situations in which the library is wrong, or the documentation does not say who is right. The model has
// what should be; the driver does not play a situation before its constant is true.

/// Logits above some 1e10 in magnitude: where products are fused into differences, a query's own largest
/// exponential may overflow, and the query counts as masked.
inline constexpr bool logits_may_be_extreme = false;
/// A later chunk where no statistic is wanted: the first statistic of a token is read though there is none.
inline constexpr bool nothing_may_be_observed_in_chunks = true;
/// A chunk without a query after tokens joined: they got nothing from the queries before, and so have 0.
inline constexpr bool empty_chunks_reach_new_tokens = false;
/// A window that has had no query before continues, and every cached token stands at its query's position or
/// behind it: nothing that earlier chunks left says that there was no query.
inline constexpr bool windows_may_begin_before_all_tokens = false;
/// A slot_list row whose newest tokens were taken back may have more slots than it ever had tokens, all but
/// some empty: restore takes it.
inline constexpr bool rows_of_empty_slots_are_restored = true;
/// A negative first_position beside no window_end: queries before the first token, which see nothing.
inline constexpr bool windows_may_start_below_zero = false;

}  // namespace driver
