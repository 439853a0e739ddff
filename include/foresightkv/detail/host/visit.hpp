// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/cache.hpp>
#include <foresightkv/detail/host/row.hpp>
#include <foresightkv/detail/one_lane.hpp>
#include <foresightkv/detail/visit_check.hpp>

namespace foresightkv::inline v0::detail::host {

/// The sequences of a call that passed every check of their data.
struct visit {
  std::int32_t* sequences = nullptr;  // [max_count]
  int count = 0;

  [[nodiscard]] int num_rows(cache_shape const& shape) const { return count * shape.num_layers * shape.num_kv_heads; }
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

/// Asks `check` about every row of a sequence until one answers with a flag, which the sequence then gets.
template <class Check>
bool check_rows(cache_shape const& shape, int sequence, row_state const& state, Check const& check) {
  for (int layer = 0; layer < shape.num_layers; ++layer)
    for (int head = 0; head < shape.num_kv_heads; ++head)
      if (sequence_flag const flag = check(row_index{layer, sequence, head}); flag != no_flag)
        return set_flag(state, sequence, flag), false;
  return true;
}

/// Whether every row of a sequence has a length that this call can handle; flags the sequence otherwise.
template <class Cache>
bool check_lengths(Cache const& cache, int sequence, length_limits const& limits, row_state const& state) {
  return check_rows(cache.shape(), sequence, state,
                    [&](row_index at) { return check_length(cache.shape(), at, cache.length(at), limits, state); });
}

/// Whether a window has what it takes for a sequence; flags it otherwise.
template <class Cache>
bool check_queries(Cache const& cache, window_extent const& window, int sequence, row_state const& state) {
  sequence_flag const flag = check_window_of(window, sequence);
  if (flag != no_flag) return set_flag(state, sequence, flag), false;
  return check_rows(cache.shape(), sequence, state,
                    [&](row_index at) { return check_window_row(window, cache.length(at)); });
}

/// Whether what the cache has beside a sequence's tokens is sound; flags it otherwise. The last question: lengths and
/// lists have been checked.
template <class Cache>
bool check_tables(Cache const& cache, int sequence, row_state const& state) {
  if constexpr (requires { cache.check_sequence(one_lane{}, sequence); }) {
    sequence_flag const flag = cache.check_sequence(one_lane{}, sequence);
    if (flag != no_flag) return set_flag(state, sequence, flag), false;
  }
  return true;
}

/// Whether rows that share a length will have the same length, as ends(row) tells; flags the sequence otherwise.
template <class Cache, class Ends>
bool check_agreement(Cache const& cache, int sequence, row_state const& state, Ends const& ends) {
  return check_rows(cache.shape(), sequence, state, [&](row_index at) {
    row_index const first = first_of_length(Cache::domain, at);
    return ends(at) == ends(first) ? no_flag : sequence_flag::length_mismatch;
  });
}

/// Whether tokens may move where they stand, from slot first_moved(row) of each row on (negative: none moves); flags the
/// sequence otherwise.
template <class Compaction, class Cache, class First>
bool check_owners(Cache const& cache, int sequence, row_state const& state, First const& first_moved) {
  if constexpr (Compaction::moves_tokens && requires { cache.is_shared(one_lane{}, row_index{}, 0); }) {
    return check_rows(cache.shape(), sequence, state, [&](row_index at) {
      int const first = first_moved(at);
      return first >= 0 && cache.is_shared(one_lane{}, at, first) ? sequence_flag::shared_page : no_flag;
    });
  }
  return true;
}

/// body(sequence) for every slot of a list that exists, in order; repeats are flagged and skipped, and who was visited
/// by a list that is cut is flagged afterwards.
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
    if (wanted > list.max_count) set_flag(state, sequence, sequence_flag::list_cut);
  }
}

/// Reads the call's list and keeps the sequences that `accept`.
template <class Accept>
visit plan_visit(sequence_list const& list, cache_shape const& shape, row_state const& state, std::int32_t* sequences,
                 Accept const& accept) {
  visit plan{sequences, 0};
  every_sequence(list, shape.num_sequences, state, [&](int sequence) {
    if (accept(sequence)) plan.sequences[plan.count++] = sequence;
  });
  return plan;
}

}  // namespace foresightkv::inline v0::detail::host
