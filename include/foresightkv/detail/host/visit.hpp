// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/cache.hpp>
#include <foresightkv/detail/host/row.hpp>
#include <foresightkv/observation.hpp>
#include <foresightkv/state.hpp>

namespace foresightkv::inline v0::detail::host {

/// The sequences of a call that passed every check of their data.
struct visit {
  std::int32_t* sequences = nullptr;  // [max_count]
  int count = 0;

  [[nodiscard]] int num_rows(cache_shape const& shape) const {
    return count * shape.num_layers * shape.num_kv_heads;
  }
  /// Row of a task: neighbouring tasks are heads of one layer and sequence.
  [[nodiscard]] row_index row(cache_shape const& shape, int task) const {
    row_index at;
    at.kv_head = task % shape.num_kv_heads;
    at.layer = task / shape.num_kv_heads % shape.num_layers;
    at.sequence = sequences[task / shape.num_kv_heads / shape.num_layers];
    return at;
  }
};

inline void set_flag(row_state const& state, int sequence, sequence_flag flag) {
  if (state.empty()) return;
  // Atomic: rows of one sequence run on several threads.
  __atomic_fetch_or(state.flags + sequence, static_cast<std::uint32_t>(flag), __ATOMIC_RELAXED);
}

template <class Cache>
int row_length(Cache const& cache, row_index at) {
  return cache.lengths()[length_index(Cache::domain, cache.shape(), at)];
}

/// Whether every row of a sequence has a length that this call can handle; flags the sequence otherwise.
template <class Cache>
bool check_lengths(Cache const& cache, int sequence, int max_length, int storable, row_state const& state) {
  cache_shape const& shape = cache.shape();
  int const limit = max_length < shape.capacity ? max_length : shape.capacity;
  for (int layer = 0; layer < shape.num_layers; ++layer)
    for (int head = 0; head < shape.num_kv_heads; ++head) {
      row_index const at{layer, sequence, head};
      int const length = row_length(cache, at);
      if (length < 0 || length > limit) return set_flag(state, sequence, sequence_flag::bad_length), false;
      if (length > storable) return set_flag(state, sequence, sequence_flag::state_overflow), false;
      if (!state.empty() && length < state.seen_length[shape.row(at)])
        return set_flag(state, sequence, sequence_flag::length_mismatch), false;
    }
  return true;
}

/// Whether a window has what it takes for a sequence; flags it otherwise. Of its positions no sum or difference
/// overflows then.
template <class Cache, class Query, log_base Base>
bool check_queries(Cache const&, observation<Query, Base> const& window, int sequence, row_state const& state) {
  int const count = window.query_count == nullptr ? window.max_queries : window.query_count[sequence];
  constexpr std::int64_t highest = 0x7fffffff;
  std::int64_t const end = window.window_end == nullptr ? highest : window.window_end[sequence];
  std::int64_t const first = window.first_position == nullptr ? end - count : window.first_position[sequence];
  bool const counted = count >= 0 && count <= window.max_queries;
  bool const placed = first >= -highest && first <= end - count && end - first <= highest;
  if (counted && placed) return true;
  return set_flag(state, sequence, sequence_flag::bad_window), false;
}
template <class Cache, class List>
bool check_queries(Cache const& cache, observed<List> const& window, int sequence, row_state const& state) {
  cache_shape const& shape = cache.shape();
  bool enough = true;
  for (int layer = 0; layer < shape.num_layers; ++layer)
    for (int head = 0; head < shape.num_kv_heads; ++head)
      enough = enough && row_length(cache, {layer, sequence, head}) <= window.statistics.capacity;
  if (enough || List::size == 0) return true;
  return set_flag(state, sequence, sequence_flag::bad_window), false;
}

/// body(sequence) for every slot of a list that exists, in order; repeats are flagged and skipped.
template <class Body>
void every_sequence(sequence_list const& list, int num_sequences, row_state const& state, Body const& body) {
  int const wanted = list.count == nullptr ? list.max_count : *list.count;
  for (int i = 0; i < wanted && i < list.max_count; ++i) {
    int const sequence = list.slots == nullptr ? i : list.slots[i];
    if (sequence < 0 || sequence >= num_sequences) continue;
    bool repeated = false;
    for (int before = 0; list.slots != nullptr && before < i; ++before)
      repeated = repeated || list.slots[before] == sequence;
    if (repeated)
      set_flag(state, sequence, sequence_flag::duplicate);
    else
      body(sequence);
  }
}

/// Reads the call's list and keeps the sequences that `accept`.
template <class Accept>
visit plan_visit(sequence_list const& list, cache_shape const& shape, row_state const& state,
                 std::int32_t* sequences, Accept const& accept) {
  visit plan{sequences, 0};
  every_sequence(list, shape.num_sequences, state, [&](int sequence) {
    if (accept(sequence)) plan.sequences[plan.count++] = sequence;
  });
  return plan;
}

}  // namespace foresightkv::inline v0::detail::host
