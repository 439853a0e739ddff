// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <foresightkv/detail/host/visit.hpp>
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

inline void clear_carried(row_state const& state, int row, int slot) {
  for (int i = 0; i < state.num_carried * state.group; ++i) state.carried_at(row, slot)[i] = 0.0f;
}

inline int empty_slots(row_state const& state, int row) {
  if (state.step[row] == 0) return 0;
  int count = 0;
  for (int slot = 0; slot < state.seen_length[row]; ++slot) count += state.position[state.column(row, slot)] < 0;
  return count;
}

/// Whether `count` tokens can join a row: a pristine row has implicit positions and any length.
inline bool can_append(row_state const& state, int row, int count) {
  int const behind = count - empty_slots(state, row);
  if (count > 0x7fffffff - state.next_position[row] || behind > 0x7fffffff - state.seen_length[row]) return false;
  return state.step[row] == 0 || behind <= 0 || state.seen_length[row] + behind <= state.capacity;
}

inline void append_row(row_state const& state, int row, int count) {
  int next = state.next_position[row];
  int const end = next + count;
  bool const pristine = state.step[row] == 0;
  for (int slot = 0; !pristine && slot < state.seen_length[row] && next < end; ++slot) {
    std::int32_t& position = state.position[state.column(row, slot)];
    if (position >= 0) continue;
    position = next++;
    clear_carried(state, row, slot);
  }
  int slot = state.seen_length[row];
  state.seen_length[row] += end - next;
  state.next_position[row] = end;
  for (; next < end && slot < state.capacity; ++slot, ++next) {
    state.position[state.column(row, slot)] = next;
    clear_carried(state, row, slot);
  }
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
  for (int slot = 0; at_end < count && slot < state.seen_length[row]; ++slot) {
    std::int32_t& position = state.position[state.column(row, slot)];
    if (position < limit) continue;
    position = -1;
    clear_carried(state, row, slot);
  }
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
        if (!every_row(state, sequence, [&](int row) { return can_append(state, row, count); }))
          return set_flag(state, sequence, sequence_flag::state_overflow);
        every_row(state, sequence, [&](int row) { return append_row(state, row, count), true; });
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
    for (int i = 0; i < count; ++i) {
      if (!exists(sources[i]) || !exists(targets[i]) || sources[i] == targets[i]) continue;
      bool clash = false;
      for (int other = 0; other < count; ++other)
        clash = clash || sources[other] == targets[i] || (other != i && targets[other] == targets[i]);
      if (clash) {
        set_flag(state, targets[i], sequence_flag::duplicate);
        continue;
      }
      for (int layer = 0; layer < state.num_layers; ++layer)
        for (int head = 0; head < state.num_kv_heads; ++head)
          copy_row(state, state.row({layer, sources[i], head}), state.row({layer, targets[i], head}));
      state.flags[targets[i]] = state.flags[sources[i]];
    }
    return {};
  }

  static status save(host_execution, row_state const& state, int sequence, std::byte* out) {
    saved_sequence::header const header{saved_sequence::magic, state.num_layers, state.num_kv_heads, state.group,
                                        state.num_carried,     state.capacity,   state.request_id[sequence],
                                        state.flags[sequence], state.seed[sequence]};
    std::memcpy(out, &header, sizeof(header));
    std::size_t index = 0;
    every_row(state, sequence, [&](int row) {
      saved_sequence::row_record const record{state.seen_length[row], state.next_position[row], state.step[row]};
      std::memcpy(out + sizeof(header) + index * sizeof(record), &record, sizeof(record));
      std::memcpy(out + saved_sequence::positions(state) + index * column_bytes(state.capacity),
                  state.position + state.column(row, 0), column_bytes(state.capacity));
      if (state.num_carried > 0)
        std::memcpy(out + saved_sequence::carried(state, state.capacity) + index * carried_bytes(state, state.capacity),
                    state.carried_at(row, 0), carried_bytes(state, state.capacity));
      ++index;
      return true;
    });
    return {};
  }

  static status restore(host_execution, row_state const& state, int sequence, workspace saved) {
    saved_sequence::header header;
    if (saved.size < sizeof(header)) return {errc::workspace_too_small};
    std::memcpy(&header, saved.data, sizeof(header));
    if (header.magic != saved_sequence::magic || header.num_layers != state.num_layers ||
        header.num_kv_heads != state.num_kv_heads || header.group != state.group ||
        header.num_carried != state.num_carried || header.capacity <= 0)
      return {errc::invalid_shape};
    if (saved.size < saved_sequence::bytes(state, header.capacity)) return {errc::workspace_too_small};
    auto const record_of = [&](std::size_t index) {
      saved_sequence::row_record record;
      std::memcpy(&record, saved.data + sizeof(header) + index * sizeof(record), sizeof(record));
      return record;
    };
    for (std::size_t index = 0; index < saved_sequence::rows(state); ++index)
      if (!fits(state, header, record_of(index))) return {errc::invalid_shape};
    std::size_t index = 0;
    every_row(state, sequence, [&](int row) {
      saved_sequence::row_record const record = record_of(index);
      state.seen_length[row] = record.seen_length;
      state.next_position[row] = record.next_position;
      state.step[row] = record.step;
      int const stored = record.seen_length < header.capacity ? record.seen_length : header.capacity;
      int const slots = stored < state.capacity ? stored : state.capacity;
      std::memcpy(state.position + state.column(row, 0),
                  saved.data + saved_sequence::positions(state) + index * column_bytes(header.capacity), column_bytes(slots));
      if (state.num_carried > 0)
        std::memcpy(state.carried_at(row, 0),
                    saved.data + saved_sequence::carried(state, header.capacity) + index * carried_bytes(state, header.capacity),
                    carried_bytes(state, slots));
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
  static std::size_t column_bytes(int slots) { return sizeof(std::int32_t) * static_cast<std::size_t>(slots); }
  static std::size_t carried_bytes(row_state const& state, int slots) {
    return sizeof(float) * static_cast<std::size_t>(slots) * static_cast<std::size_t>(state.num_carried * state.group);
  }

  /// A saved row fits where its columns are stored, or were never needed: a pristine row without carried statistics.
  static bool fits(row_state const& state, saved_sequence::header const& header, saved_sequence::row_record const& row) {
    if (row.seen_length < 0 || row.next_position < row.seen_length) return false;
    if (row.step == 0 && row.next_position != row.seen_length) return false;
    if (row.step != 0 && row.seen_length > header.capacity) return false;
    return row.seen_length <= state.capacity || (row.step == 0 && (state.num_carried == 0 || row.seen_length > header.capacity));
  }

  static void copy_row(row_state const& state, int from, int to) {
    int const slots = state.seen_length[from] < state.capacity ? state.seen_length[from] : state.capacity;
    state.seen_length[to] = state.seen_length[from];
    state.next_position[to] = state.next_position[from];
    state.step[to] = state.step[from];
    std::memcpy(state.position + state.column(to, 0), state.position + state.column(from, 0), column_bytes(slots));
    if (state.num_carried > 0) std::memcpy(state.carried_at(to, 0), state.carried_at(from, 0), carried_bytes(state, slots));
  }
};

}  // namespace foresightkv::inline v0::detail::host
