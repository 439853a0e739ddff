// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace foresightkv::inline v0 {

/// Why a sequence was left alone, or what the engine should know about it; bits of row_state::flags.
///
/// Verbs set bits and never read them; `reset` clears all of a slot. The engine may clear bits itself between two
/// calls, on a device by a copy or kernel on the stream of the calls: flags[slot] &= ~static_cast<std::uint32_t>(flag).
enum class sequence_flag : std::uint32_t {
  over_budget = 1,  ///< protected tokens left fewer to evict than the budget asked for
  bad_length = 2,   ///< a length below 0 or above the capacity or max_length, or lists or saved bytes that do not fit
  length_mismatch = 4,  ///< the cache is shorter than the state has seen or was told: tell `append` what left or came
  state_overflow = 8,   ///< the row must be stored and is longer than the state's capacity
  bad_window = 16,      ///< query_count or positions of the window out of range, or statistics of too few slots
  bad_budget = 32,      ///< a budget below the protected tokens, pinned ones among them, or above the state's capacity
  duplicate = 64,       ///< listed twice in one call: visited once
  missing_judge = 128,  ///< a layer that the device names has no judge; the host answers invalid_shape instead
  list_cut = 256,       ///< the list's count was above its max_count: visited as one of its first max_count entries
  not_finite = 512,     ///< a key or query gave a log-sum-exp that is no number, so that the query counted as masked
  not_reset = 1024,     ///< the slot was never reset since its state was laid out: its other bits say nothing
  bad_table = 2048,     ///< a page table names a page outside the pool or one twice, or is too short for the length
  shared_page = 4096    ///< tokens may move in a page that another sequence reads too: copy it first
};

/// Flags that leave no sequence alone: the call did for it what it does.
inline constexpr std::uint32_t sequence_notices =
    static_cast<std::uint32_t>(sequence_flag::over_budget) | static_cast<std::uint32_t>(sequence_flag::duplicate) |
    static_cast<std::uint32_t>(sequence_flag::list_cut) | static_cast<std::uint32_t>(sequence_flag::not_finite);

/// Whether flags say that a sequence was left alone. They stay until they are cleared: those of an earlier call, too.
[[nodiscard]] constexpr bool left_alone(std::uint32_t flags) { return (flags & ~sequence_notices) != 0; }

/// What one bit says, as a fixed text in static storage.
[[nodiscard]] constexpr char const* message(sequence_flag flag) {
  switch (flag) {
    case sequence_flag::over_budget:
      return "over budget: protected tokens left fewer to evict than the budget asked for";
    case sequence_flag::bad_length:
      return "bad length: negative, above the capacity or the call's max_length, or lists or saved bytes do not fit";
    case sequence_flag::length_mismatch:
      return "length mismatch: the cache is shorter than the state has seen or was told by append";
    case sequence_flag::state_overflow:
      return "state overflow: the row must be stored and is longer than the state's capacity";
    case sequence_flag::bad_window:
      return "bad window: query_count or positions out of range, or observed statistics of too few slots";
    case sequence_flag::bad_budget:
      return "bad budget: below the protected tokens, pinned ones among them, or above the state's capacity";
    case sequence_flag::duplicate:
      return "duplicate: listed twice in one call, visited once";
    case sequence_flag::missing_judge:
      return "missing judge: a layer that the device names has no judge";
    case sequence_flag::list_cut:
      return "list cut: the list's count was above its max_count, the rest was not visited";
    case sequence_flag::not_reset:
      return "not reset: call reset on a slot before its first use";
    case sequence_flag::not_finite:
      return "not finite: a query or key is no number, and its query counted as masked";
    case sequence_flag::bad_table:
      return "bad table: a page outside the pool, a page named twice, or fewer pages than the length takes";
    case sequence_flag::shared_page:
      return "shared page: tokens may move in a page that another sequence reads too: copy it first";
  }
  return "unknown flag";
}

}  // namespace foresightkv::inline v0
