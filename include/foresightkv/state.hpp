// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <foresightkv/cache.hpp>
#include <foresightkv/detail/buffer.hpp>
#include <foresightkv/statistics.hpp>
#include <foresightkv/status.hpp>
#include <foresightkv/workspace.hpp>

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
  bad_budget = 32,      ///< a budget read from memory: below the protected tokens, or above the state's capacity
  duplicate = 64,       ///< listed twice in one call: visited once
  missing_judge = 128,  ///< a layer that the device names has no judge; the host answers invalid_shape instead
  list_cut = 256,       ///< the list's count was above its max_count: visited as one of its first max_count entries
  not_reset = 1024,     ///< the slot was never reset since its state was laid out: its other bits say nothing
  not_finite = 512      ///< a key or query gave a log-sum-exp that is no number, so that the query counted as masked
};

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
      return "bad budget: below the protected tokens, or above the state's capacity";
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
  }
  return "unknown flag";
}

/// Memory that follows the tokens of every row: columns indexed [row][slot], and scalars per row and per sequence.
/// Rows stand in cache_shape order. Each block of a call reads and writes its own row only.
///
/// A row is *pristine* while nothing was evicted from it (step == 0): then slot = position, the position column is not
/// read, and the row may be longer than `capacity`. Tokens beyond seen_length are new: they take the next positions
/// and start with empty carried statistics.
struct row_state {
  std::int32_t* position = nullptr;       ///< [rows][capacity]; negative: an empty slot (slot_list)
  float* carried = nullptr;               ///< [rows][capacity][num_carried][group]
  std::int32_t* seen_length = nullptr;    ///< [rows] slots that the columns describe
  std::int32_t* next_position = nullptr;  ///< [rows] position of the next token after those
  std::uint32_t* step = nullptr;          ///< [rows] evictions so far; part of a sampling selector's counter
  std::uint32_t* request_id = nullptr;    ///< [sequences]
  std::uint64_t* seed = nullptr;          ///< [sequences]
  std::uint32_t* flags = nullptr;         ///< [sequences] bits of sequence_flag
  std::uint32_t* started = nullptr;       ///< [sequences] `start_mark` since `reset`
  int num_layers = 0;
  int num_sequences = 0;
  int num_kv_heads = 0;
  /// Slots per row: at least the largest budget, which is enough for `evict` by a compaction that moves tokens.
  /// `append`, `carry` and slot_list store rows as long as they are: budget + interval.
  int capacity = 0;
  int num_carried = 0;
  int group = 0;

  /// The default state stands for fresh rows: implicit positions, nothing carried.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr bool empty() const { return seen_length == nullptr; }

  /// Made over a buffer that is missing or too small: extents, and not one array. Every verb refuses it.
  [[nodiscard]] constexpr bool lacks_memory() const {
    return capacity > 0 && seen_length == nullptr && position == nullptr && flags == nullptr;
  }

  /// As cache_shape::num_rows and cache_shape::row.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int num_rows() const {
    return num_layers * num_sequences * num_kv_heads;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int row(row_index at) const {
    return (at.layer * num_sequences + at.sequence) * num_kv_heads + at.kv_head;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::size_t column(int row, int slot) const {
    return static_cast<std::size_t>(row) * static_cast<std::size_t>(capacity) + static_cast<std::size_t>(slot);
  }
  /// Carried statistics of one token: [num_carried][group].
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr float* carried_at(int row, int slot) const {
    return carried + column(row, slot) * static_cast<std::size_t>(num_carried * group);
  }
};

/// The state of a policy: its columns follow from the statistics that the policy carries.
template <class Policy>
struct eviction_state : row_state {
  constexpr eviction_state() = default;  // no aggregate: the state of another policy does not turn into this one's
  using carried_list = carried_statistics<typename Policy::reads>;
};

namespace detail {

/// What memory that nobody wrote hardly holds: zeros and fill patterns least of all.
inline constexpr std::uint32_t start_mark = 0x26020323u;

FORESIGHTKV_HOST_DEVICE constexpr bool is_started(row_state const& state, int sequence) {
  return state.started[sequence] == start_mark;
}

inline row_state carve_state(arena& memory, cache_shape const& shape, int capacity, int num_carried) {
  row_state state;
  state.num_layers = shape.num_layers;
  state.num_sequences = shape.num_sequences;
  state.num_kv_heads = shape.num_kv_heads;
  state.capacity = capacity;
  state.num_carried = num_carried;
  state.group = shape.group;
  auto const rows = static_cast<std::size_t>(state.num_rows());
  auto const sequences = static_cast<std::size_t>(state.num_sequences);
  auto const slots = rows * static_cast<std::size_t>(capacity);
  state.position = memory.take<std::int32_t>(slots);
  state.carried = memory.take<float>(slots * static_cast<std::size_t>(num_carried * shape.group));
  state.seen_length = memory.take<std::int32_t>(rows);
  state.next_position = memory.take<std::int32_t>(rows);
  state.step = memory.take<std::uint32_t>(rows);
  state.request_id = memory.take<std::uint32_t>(sequences);
  state.seed = memory.take<std::uint64_t>(sequences);
  state.flags = memory.take<std::uint32_t>(sequences);
  state.started = memory.take<std::uint32_t>(sequences);
  return state;
}

/// What a backend can check of a state before a call.
inline status check_state(row_state const& state) {
  bool const present = state.seen_length != nullptr && state.next_position != nullptr && state.step != nullptr &&
                       state.request_id != nullptr && state.seed != nullptr && state.flags != nullptr &&
                       state.started != nullptr && state.position != nullptr &&
                       (state.num_carried <= 0 || state.carried != nullptr);
  bool const sound = state.num_layers > 0 && state.num_sequences > 0 && state.num_kv_heads > 0 && state.capacity > 0 &&
                     state.num_carried >= 0 && state.group > 0;
  return first_of(check_that(!state.lacks_memory(), errc::workspace_too_small), check_that(present, errc::null_pointer),
                  check_that(sound, errc::invalid_shape),
                  check_aligned(state.position, state.carried, state.seen_length, state.next_position, state.step,
                                state.request_id, state.seed, state.flags, state.started))
      .at(argument::state);
}

inline status check_state(row_state const& state, cache_shape const& shape, int num_carried) {
  bool const agree = state.num_layers == shape.num_layers && state.num_sequences == shape.num_sequences &&
                     state.num_kv_heads == shape.num_kv_heads && state.num_carried == num_carried &&
                     state.group == shape.group;
  return first_of(check_state(state), check_that(agree, errc::invalid_shape, argument::state));
}

}  // namespace detail

/// Bytes of the buffer behind a policy's state, for rows of up to `capacity` slots. Of the policy only its type counts.
template <class Policy>
[[nodiscard]] std::size_t state_bytes(Policy const&, cache_shape const& shape, int capacity) {
  detail::arena counter;
  (void)detail::carve_state(counter, shape, capacity, eviction_state<Policy>::carried_list::size);
  return counter.bytes();
}

/// Lays a state out over a buffer of state_bytes. Call `reset` on every sequence before its first use.
/// Over a buffer that is missing or too small the state stays empty, and verbs answer workspace_too_small.
template <class Policy>
[[nodiscard]] eviction_state<Policy> make_state(Policy const& policy, cache_shape const& shape, int capacity,
                                                workspace buffer) {
  bool const enough = buffer.data != nullptr && buffer.size >= state_bytes(policy, shape, capacity);
  detail::arena memory(enough ? buffer : workspace{});  // without a base it hands out null pointers
  eviction_state<Policy> state;
  static_cast<row_state&>(state) =
      detail::carve_state(memory, shape, capacity, eviction_state<Policy>::carried_list::size);
  return state;
}

}  // namespace foresightkv::inline v0
