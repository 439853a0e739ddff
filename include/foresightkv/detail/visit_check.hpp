// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/config.hpp>
#include <foresightkv/detail/row_view.hpp>
#include <foresightkv/observation.hpp>
#include <foresightkv/state.hpp>

namespace foresightkv::inline v0::detail {

// What is checked of a sequence's data before any of its rows is touched, one question per function, on every backend.
// Each answers with the flag that the sequence gets; no_flag if all is well.

inline constexpr sequence_flag no_flag{};
inline constexpr int no_limit = 0x7fffffff;

FORESIGHTKV_HOST_DEVICE constexpr int smaller(int a, int b) { return a < b ? a : b; }

/// Lengths that a call can handle.
struct length_limits {
  int longest = 0;          // of the call, and of the arrays that it reads and writes per slot
  int storable = no_limit;  // longest row whose columns have to be stored as it is
};

/// Of a row with `length` slots.
FORESIGHTKV_HOST_DEVICE inline sequence_flag check_length(cache_shape const& shape, row_index at, int length,
                                                          length_limits const& limits, row_state const& state) {
  if (!state.empty() && !is_started(state, at.sequence)) return sequence_flag::not_reset;
  if (length < 0 || length > smaller(limits.longest, shape.capacity)) return sequence_flag::bad_length;
  if (length > limits.storable) return sequence_flag::state_overflow;
  bool const shorter = !state.empty() && length < state.seen_length[shape.row(at)];
  return shorter ? sequence_flag::length_mismatch : no_flag;
}

/// Of a row that has room for so many tokens in another cache.
FORESIGHTKV_HOST_DEVICE inline sequence_flag check_room(cache_shape const& shape, int room) {
  return room < 0 || room > shape.capacity ? sequence_flag::bad_length : no_flag;
}

/// What a call knows of a window without its queries.
struct window_extent {
  int max_queries = 0;
  std::int32_t const* query_count = nullptr;
  std::int32_t const* query_starts = nullptr;
  std::int32_t const* window_end = nullptr;
  std::int32_t const* first_position = nullptr;
  int longest = no_limit;  // slots that were observed before
};

template <class Query, log_base Base>
window_extent extent_of(observation<Query, Base> const& window) {
  return {window.max_queries, window.query_count, window.query_starts, window.window_end, window.first_position};
}
template <class List>
window_extent extent_of(observed<List> const& window) {
  return {0, nullptr, nullptr, nullptr, nullptr, List::size == 0 ? no_limit : window.statistics.capacity};
}

/// Queries that a window has for a sequence.
template <class Window>
FORESIGHTKV_HOST_DEVICE std::int64_t count_queries(Window const& window, int sequence) {
  if (window.query_count != nullptr) return window.query_count[sequence];
  if (window.query_starts == nullptr) return window.max_queries;
  return std::int64_t{window.query_starts[sequence + 1]} - window.query_starts[sequence];
}

/// Whether a window has what it takes for a sequence. Of its positions no sum or difference overflows then.
FORESIGHTKV_HOST_DEVICE inline sequence_flag check_window_of(window_extent const& window, int sequence) {
  std::int32_t const* const starts = window.query_starts;
  std::int64_t const count = count_queries(window, sequence);
  constexpr std::int64_t highest = 0x7fffffff;
  std::int64_t const end = window.window_end == nullptr ? highest : window.window_end[sequence];
  std::int64_t const first = window.first_position == nullptr ? end - count : window.first_position[sequence];
  bool const counted = count >= 0 && count <= window.max_queries && (starts == nullptr || starts[sequence] >= 0);
  bool const placed = first >= -highest && first <= end - count && end - first <= highest;
  return counted && placed ? no_flag : sequence_flag::bad_window;
}

/// Whether the statistics that were observed before cover a row.
FORESIGHTKV_HOST_DEVICE inline sequence_flag check_window_row(window_extent const& window, int length) {
  return length <= window.longest ? no_flag : sequence_flag::bad_window;
}

/// In place of the number of tokens that a row keeps: it stays as it is, or what it keeps cannot be stored.
inline constexpr int kept_whole = -1;
inline constexpr int kept_too_many = -2;

/// The first slot of a row whose token `evict` may move; negative if the row is within its budget. Sinks stand in the
/// first slots and stay there.
template <class Budget>
FORESIGHTKV_HOST_DEVICE int first_moved(Budget const& budget, eviction_config const& config, cache_shape const& shape,
                                        row_index at, int length) {
  return length > budget(config, shape, at) ? smaller(config.sink_tokens, length) : -1;
}
/// The same of `compact`, of a row's list of evicted slots.
FORESIGHTKV_HOST_DEVICE inline int first_moved(std::int32_t const* evicted, int num_evicted) {
  return num_evicted > 0 ? evicted[0] : -1;
}

/// Of a row with `length` slots. Pinned tokens have to fit beside sinks and recent ones, so that all rows of a sequence
/// lose the same number.
template <class Budget>
FORESIGHTKV_HOST_DEVICE sequence_flag check_budget_of(Budget const& budget, eviction_config const& config,
                                                      cache_shape const& shape, row_state const& state, row_index at,
                                                      int length) {
  int const tokens = budget(config, shape, at);
  if (tokens < 0 || tokens > state.capacity) return sequence_flag::bad_budget;
  row_pins const pins = pins_of(state, at.sequence);
  if (pins.bits == nullptr) return no_flag;
  int const recent_from = positions_of(state, shape.row(at)).end(length) - config.recent();
  int const pinned = count_pinned(pins, config.sink_tokens, recent_from);
  return pinned > 0 && config.sink_tokens + config.recent() + pinned > tokens ? sequence_flag::bad_budget : no_flag;
}

}  // namespace foresightkv::inline v0::detail
