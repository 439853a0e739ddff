// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <foresightkv/cache.hpp>
#include <foresightkv/detail/buffer.hpp>
#include <foresightkv/sequence_flag.hpp>
#include <foresightkv/statistics.hpp>
#include <foresightkv/status.hpp>
#include <foresightkv/workspace.hpp>

namespace foresightkv::inline v0 {

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
  std::uint32_t const* pinned = nullptr;  ///< the engine's: [sequences][pinned_words], see with_pinned; null: none
  int pinned_words = 0;
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

  /// The same state with tokens that stay: a bit for every position, [sequence][words], 32 positions to a word, lowest
  /// bit first; later positions are not pinned. They count inside the budget, beside sinks and recent tokens, whether
  /// they are still cached or not: more of them flag the sequence, bad_budget. The engine's own memory, of the backend.
  [[nodiscard]] constexpr eviction_state with_pinned(std::uint32_t const* bits, int words) const {
    eviction_state state = *this;
    state.pinned = bits;
    state.pinned_words = words;
    return state;
  }
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
                     state.num_carried >= 0 && state.group > 0 && state.pinned_words >= 0;
  return first_of(check_that(!state.lacks_memory(), errc::workspace_too_small), check_that(present, errc::null_pointer),
                  check_that(sound, errc::invalid_shape),
                  check_aligned(state.position, state.carried, state.seen_length, state.next_position, state.step,
                                state.request_id, state.seed, state.flags, state.started, state.pinned))
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
