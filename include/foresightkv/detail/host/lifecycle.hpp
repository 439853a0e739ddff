// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <foresightkv/detail/host/visit.hpp>
#include <foresightkv/detail/row_lifecycle.hpp>
#include <foresightkv/detail/saved_sequence.hpp>

namespace foresightkv::inline v0::detail::host {

/// body(row) for every row of a sequence, in order; stops at the first that answers false.
template <class Body>
bool every_row(row_state const& state, int sequence, Body const& body) {
  for (int layer = 0; layer < state.num_layers; ++layer)
    for (int head = 0; head < state.num_kv_heads; ++head)
      if (!body(state.row({layer, sequence, head}))) return false;
  return true;
}

inline int empty_slots(row_state const& state, int row) {
  if (state.step[row] == 0) return 0;
  int count = 0;
  for (int slot = 0; slot < state.seen_length[row]; ++slot) count += state.position[state.column(row, slot)] < 0;
  return count;
}

inline void append_row(row_state const& state, int row, int count, bool empties) {
  int next = state.next_position[row];
  int const end = next + count;
  bool const fills = empties && state.step[row] != 0;
  for (int slot = 0; fills && slot < state.seen_length[row] && next < end; ++slot)
    if (state.position[state.column(row, slot)] < 0) place_token(state, row, slot, next++);
  int slot = state.seen_length[row];
  state.seen_length[row] += end - next;
  state.next_position[row] = end;
  while (next < end && slot < state.capacity) place_token(state, row, slot++, next++);
}

/// How many of the `count` newest tokens stand at a row's end, newest last.
inline int newest_at_end(row_state const& state, int row, int count) {
  if (state.step[row] == 0) return count;
  int found = 0;
  int const seen = state.seen_length[row];
  int const next = state.next_position[row];
  while (found < count && found < seen && state.position[state.column(row, seen - 1 - found)] == next - 1 - found) ++found;
  return found;
}

/// The newest `count` tokens, wherever they stand.
inline int newest_anywhere(row_state const& state, int row, int count) {
  int found = 0;
  for (int slot = 0; slot < state.seen_length[row]; ++slot)
    found += state.position[state.column(row, slot)] >= state.next_position[row] - count;
  return found;
}

inline bool can_take_back(row_state const& state, int row, int count, bool empties) {
  if (count > state.seen_length[row] || count > state.next_position[row]) return false;
  if (newest_at_end(state, row, count) == count) return true;
  return empties && newest_anywhere(state, row, count) == count;
}

inline void take_back_row(row_state const& state, int row, int count) {
  int const at_end = newest_at_end(state, row, count);
  state.seen_length[row] -= at_end;
  int const limit = state.next_position[row] - count;
  for (int slot = 0; at_end < count && slot < state.seen_length[row]; ++slot)
    if (state.position[state.column(row, slot)] >= limit) place_token(state, row, slot, -1);
  state.next_position[row] = limit;
}

/// The verbs that touch a state and no cache.
struct lifecycle {
  static status reset(host_execution, row_state const& state, sequence_list const& list,
                      std::uint32_t const* request_ids, std::uint64_t const* seeds) {
    every_sequence(list, state.num_sequences, state, [&](int sequence) {
      every_row(state, sequence, [&](int row) {
        state.seen_length[row] = 0;
        state.next_position[row] = 0;
        state.step[row] = 0;
        return true;
      });
      state.request_id[sequence] = request_ids == nullptr ? static_cast<std::uint32_t>(sequence) : request_ids[sequence];
      state.seed[sequence] = seeds == nullptr ? 0 : seeds[sequence];
      state.flags[sequence] = 0;
    });
    return {};
  }

  static status append(host_execution, row_state const& state, sequence_list const& list, std::int32_t const* counts,
                       bool empties) {
    every_sequence(list, state.num_sequences, state, [&](int sequence) {
      int const count = counts[sequence];
      if (count >= 0) {
        bool const possible = every_row(state, sequence, [&](int row) {
          return can_append(state, row, count, 0) ||
                 (empties && can_append(state, row, count, empty_slots(state, row)));
        });
        if (!possible) return set_flag(state, sequence, sequence_flag::state_overflow);
        every_row(state, sequence, [&](int row) { return append_row(state, row, count, empties), true; });
      } else {
        // -(count + 1) does not overflow; no row is that long.
        bool const possible = count != -0x7fffffff - 1 && every_row(state, sequence, [&](int row) {
          return can_take_back(state, row, -count, empties);
        });
        if (!possible) return set_flag(state, sequence, sequence_flag::length_mismatch);
        every_row(state, sequence, [&](int row) { return take_back_row(state, row, -count), true; });
      }
    });
    return {};
  }

  static status fork(host_execution, row_state const& state, std::int32_t const* sources, std::int32_t const* targets,
                     int count) {
    auto const exists = [&](int sequence) { return sequence >= 0 && sequence < state.num_sequences; };
    auto const clashes = [&](int pair) {
      bool named = false;
      for (int other = 0; other < count; ++other)
        named = named || sources[other] == targets[pair] || (other != pair && targets[other] == targets[pair]);
      return named;
    };
    auto const every_pair = [&](bool clashing, auto const& body) {
      for (int i = 0; i < count; ++i)
        if (exists(sources[i]) && exists(targets[i]) && sources[i] != targets[i] && clashes(i) == clashing)
          body(sources[i], targets[i]);
    };
    every_pair(false, [&](int source, int target) {
      for (int layer = 0; layer < state.num_layers; ++layer)
        for (int head = 0; head < state.num_kv_heads; ++head)
          copy_row(state, state.row({layer, source, head}), state.row({layer, target, head}));
      state.flags[target] = state.flags[source];
    });
    // Last: such a target may be another pair's source.
    every_pair(true, [&](int, int target) { set_flag(state, target, sequence_flag::duplicate); });
    return {};
  }

  static status save(host_execution, row_state const& state, int sequence, std::byte* out) {
    auto const header = saved_sequence::header_of(state, sequence);
    std::memcpy(out, &header, sizeof(header));
    std::size_t index = 0;
    every_row(state, sequence, [&](int row) {
      auto const record = saved_sequence::record_of(state, row);
      std::memcpy(out + saved_sequence::record(index), &record, sizeof(record));
      std::size_t const column = saved_sequence::column_bytes(state.capacity);
      std::memcpy(out + saved_sequence::positions(state) + index * column, state.position + state.column(row, 0),
                  column);
      std::size_t const carried = saved_sequence::carried_bytes(state, state.capacity);
      if (carried > 0)
        std::memcpy(out + saved_sequence::carried(state, state.capacity) + index * carried, state.carried_at(row, 0),
                    carried);
      ++index;
      return true;
    });
    return {};
  }

  static status restore(host_execution, row_state const& state, int sequence, workspace saved) {
    saved_sequence::header header;
    if (saved.size < sizeof(header)) return {errc::workspace_too_small};
    std::memcpy(&header, saved.data, sizeof(header));
    if (!saved_sequence::matches(state, header)) return {errc::invalid_shape};
    if (saved.size < saved_sequence::bytes(state, header.capacity)) return {errc::workspace_too_small};
    auto const record_of = [&](std::size_t index) {
      saved_sequence::row_record record;
      std::memcpy(&record, saved.data + saved_sequence::record(index), sizeof(record));
      return record;
    };
    for (std::size_t index = 0; index < saved_sequence::rows(state); ++index)
      if (!saved_sequence::fits(state, header, record_of(index))) return {errc::invalid_shape};
    std::size_t index = 0;
    every_row(state, sequence, [&](int row) {
      saved_sequence::row_record const record = record_of(index);
      state.seen_length[row] = record.seen_length;
      state.next_position[row] = record.next_position;
      state.step[row] = record.step;
      int const stored = record.seen_length < header.capacity ? record.seen_length : header.capacity;
      int const slots = stored < state.capacity ? stored : state.capacity;
      std::memcpy(state.position + state.column(row, 0),
                  saved.data + saved_sequence::positions(state) + index * saved_sequence::column_bytes(header.capacity),
                  saved_sequence::column_bytes(slots));
      if (state.num_carried > 0)
        std::memcpy(state.carried_at(row, 0),
                    saved.data + saved_sequence::carried(state, header.capacity) +
                        index * saved_sequence::carried_bytes(state, header.capacity),
                    saved_sequence::carried_bytes(state, slots));
      // Slots that the saved columns did not reach: a pristine row, whose carried statistics were not stored either.
      for (int slot = slots; slot < record.seen_length && slot < state.capacity; ++slot) clear_carried(state, row, slot);
      ++index;
      return true;
    });
    state.request_id[sequence] = header.request_id;
    state.seed[sequence] = header.seed;
    state.flags[sequence] = header.flags;
    return {};
  }

 private:
  static void copy_row(row_state const& state, int from, int to) {
    int const slots = state.seen_length[from] < state.capacity ? state.seen_length[from] : state.capacity;
    state.seen_length[to] = state.seen_length[from];
    state.next_position[to] = state.next_position[from];
    state.step[to] = state.step[from];
    std::memcpy(state.position + state.column(to, 0), state.position + state.column(from, 0),
                saved_sequence::column_bytes(slots));
    if (state.num_carried > 0)
      std::memcpy(state.carried_at(to, 0), state.carried_at(from, 0), saved_sequence::carried_bytes(state, slots));
  }
};

}  // namespace foresightkv::inline v0::detail::host
