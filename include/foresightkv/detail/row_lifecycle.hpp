// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <foresightkv/detail/one_lane.hpp>
#include <foresightkv/detail/row_view.hpp>
#include <foresightkv/detail/saved_sequence.hpp>
#include <foresightkv/detail/visit_check.hpp>
#include <foresightkv/state.hpp>

namespace foresightkv::inline v0::detail {

// What tokens and sequences that come and go do to rows, once for every backend. Lanes share the work, see one_lane.

/// Rows of a sequence, and one of them by its number in (layer, head) order.
FORESIGHTKV_HOST_DEVICE inline int rows_of_sequence(row_state const& state) {
  return state.num_layers * state.num_kv_heads;
}
FORESIGHTKV_HOST_DEVICE inline int row_of_sequence(row_state const& state, int sequence, int index) {
  return state.row({index / state.num_kv_heads, sequence, index % state.num_kv_heads});
}

FORESIGHTKV_HOST_DEVICE inline void clear_carried(row_state const& state, int row, int slot) {
  for (int i = 0; i < state.num_carried * state.group; ++i) state.carried_at(row, slot)[i] = 0.0f;
}

/// Puts a new token into a slot; a negative position makes the slot empty.
FORESIGHTKV_HOST_DEVICE inline void place_token(row_state const& state, int row, int slot, int position) {
  state.position[state.column(row, slot)] = position;
  clear_carried(state, row, slot);
}

/// Starts a sequence anew, apart from its flags.
template <class Lanes>
FORESIGHTKV_HOST_DEVICE void reset_rows(Lanes const& lanes, row_state const& state, int sequence) {
  for (int index = lanes.rank(); index < rows_of_sequence(state); index += lanes.width()) {
    int const row = row_of_sequence(state, sequence, index);
    state.seen_length[row] = 0;
    state.next_position[row] = 0;
    state.step[row] = 0;
  }
}

/// Slots of a row that the state has seen for which question(position) holds.
template <class Lanes, class Question>
FORESIGHTKV_HOST_DEVICE int count_slots(Lanes const& lanes, row_state const& state, int row, Question const& question) {
  int const seen = state.seen_length[row];
  int count = 0;
  for (int slot = lanes.rank(); slot < seen; slot += lanes.width())
    count += question(state.position[state.column(row, slot)]) ? 1 : 0;
  return lanes.sum(count);
}

// --- tokens that join

template <class Lanes>
FORESIGHTKV_HOST_DEVICE int empty_slots(Lanes const& lanes, row_state const& state, int row) {
  if (state.step[row] == 0) return 0;
  return count_slots(lanes, state, row, [](int position) { return position < 0; });
}

/// What keeps `count` tokens from joining a row whose cache has `length` slots by now; no_flag if nothing does. A
/// pristine row has implicit positions and may outgrow the state's columns.
template <class Lanes>
FORESIGHTKV_HOST_DEVICE sequence_flag check_append(Lanes const& lanes, row_state const& state, int row, int count,
                                                   int length, bool empties) {
  int const seen = state.seen_length[row];
  int const behind = count - (empties ? empty_slots(lanes, state, row) : 0);
  int const limit = state.step[row] == 0 ? no_limit : state.capacity;
  if (count > no_limit - state.next_position[row] || behind > limit - seen) return sequence_flag::state_overflow;
  return behind > length - seen ? sequence_flag::length_mismatch : no_flag;
}

/// Fills empty slots, lowest first, with up to `count` tokens, and says how many.
template <class Lanes>
FORESIGHTKV_HOST_DEVICE int fill_empty(Lanes const& lanes, row_state const& state, int row, int count) {
  constexpr int of_lane = 8;  // slots that a lane reads at once
  int const seen = state.seen_length[row];
  int const next = state.next_position[row];
  int filled = 0;
  for (int first = 0; first < seen && filled < count; first += lanes.width() * of_lane) {
    int const mine = first + lanes.rank() * of_lane;
    bool empty[of_lane];
    int num_empty = 0;
    for (int i = 0; i < of_lane; ++i) {
      empty[i] = mine + i < seen && state.position[state.column(row, mine + i)] < 0;
      num_empty += empty[i] ? 1 : 0;
    }
    int const left = count - filled;
    int all = 0;
    int place = lanes.exclusive_sum(num_empty, all);
    for (int i = 0; i < of_lane; ++i) {
      if (!empty[i]) continue;
      if (place < left) place_token(state, row, mine + i, next + filled + place);
      ++place;
    }
    filled += smaller(all, left);
  }
  return filled;
}

/// Last of all: the other lanes have read what is overwritten.
template <class Lanes>
FORESIGHTKV_HOST_DEVICE void settle_row(Lanes const& lanes, row_state const& state, int row, int seen, int next) {
  lanes.settle();
  if (lanes.rank() != 0) return;
  state.seen_length[row] = seen;
  state.next_position[row] = next;
}

/// `count` tokens join a row: in its empty slots first, where it may have some, then behind its end.
template <class Lanes>
FORESIGHTKV_HOST_DEVICE void append_row(Lanes const& lanes, row_state const& state, int row, int count, bool empties) {
  int const seen = state.seen_length[row];
  int const next = state.next_position[row];
  int const filled = empties && state.step[row] != 0 ? fill_empty(lanes, state, row, count) : 0;
  int const behind = count - filled;
  int const stored = smaller(behind, state.capacity - seen);
  for (int i = lanes.rank(); i < stored; i += lanes.width())
    state.position[state.column(row, seen + i)] = next + filled + i;
  int const values = stored * state.num_carried * state.group;
  for (int i = lanes.rank(); i < values; i += lanes.width()) state.carried_at(row, seen)[i] = 0.0f;
  settle_row(lanes, state, row, seen + behind, next + count);
}

// --- tokens that leave again

/// Tokens that leave a row's columns when its sequence takes `count` back, its cache having `length` slots afterwards;
/// negative if that cannot be. Where slots may be empty those of a row that was evicted from stay: its cache is as long
/// as before, and all tokens have been appended. Other rows lose what the state has seen beyond the cache's end: a
/// token that it has not seen leaves no trace.
FORESIGHTKV_HOST_DEVICE inline int tokens_to_take_back(row_state const& state, int row, int count, int length,
                                                       bool empties) {
  int const seen = state.seen_length[row];
  if (empties && state.step[row] != 0) return length == seen && count <= state.next_position[row] ? count : -1;
  int const beyond = seen - length;
  return length < 0 || beyond > count ? -1 : beyond > 0 ? beyond : 0;
}

/// How many of the `count` newest tokens stand at a row's end, newest last.
template <class Lanes>
FORESIGHTKV_HOST_DEVICE int newest_at_end(Lanes const& lanes, row_state const& state, int row, int count) {
  if (state.step[row] == 0) return count;
  int const last = state.seen_length[row] - 1;
  int const newest = state.next_position[row] - 1;
  for (int first = 0; first < count; first += lanes.width()) {
    int const i = first + lanes.rank();
    bool const elsewhere = i < count && state.position[state.column(row, last - i)] != newest - i;
    int const other = lanes.first(elsewhere);
    if (other < lanes.width()) return first + other;
  }
  return count;
}

template <class Lanes>
FORESIGHTKV_HOST_DEVICE bool can_take_back(Lanes const& lanes, row_state const& state, int row, int count, int length,
                                           bool empties) {
  int const gone = tokens_to_take_back(state, row, count, length, empties);
  if (gone <= 0) return gone == 0;
  if (!empties || state.step[row] == 0) return newest_at_end(lanes, state, row, gone) == gone;
  int const limit = state.next_position[row] - gone;
  return count_slots(lanes, state, row, [&](int position) { return position >= limit; }) == gone;
}

/// Makes slots empty whose tokens leave; the columns describe all `length` slots of the row from now on.
template <class Lanes>
FORESIGHTKV_HOST_DEVICE void empty_newest(Lanes const& lanes, row_state const& state, int row, int length, int limit) {
  row_positions const positions = positions_of(state, row);
  for (int slot = lanes.rank(); slot < length; slot += lanes.width()) {
    int const position = positions.at(slot);
    bool const leaves = position >= limit;
    if (leaves || slot >= positions.seen) place_token(state, row, slot, leaves ? -1 : position);
  }
}

/// Takes the newest tokens back; can_take_back holds.
template <class Lanes>
FORESIGHTKV_HOST_DEVICE void take_back_row(Lanes const& lanes, row_state const& state, int row, int count, int length,
                                           bool empties) {
  int const gone = tokens_to_take_back(state, row, count, length, empties);
  int const seen = state.seen_length[row];
  int const limit = state.next_position[row] - gone;
  bool const slots_stay = empties && state.step[row] != 0;
  if (slots_stay) empty_newest(lanes, state, row, seen, limit);
  settle_row(lanes, state, row, slots_stay ? seen : seen - gone, limit);
}

/// What keeps a row from taking part in `append`, whose counts may be negative. Its cache has room for `capacity` tokens.
template <class Lanes>
FORESIGHTKV_HOST_DEVICE sequence_flag check_count(Lanes const& lanes, row_state const& state, int row, int count,
                                                  int length, int capacity, bool empties) {
  if (length < 0 || length > capacity) return sequence_flag::bad_length;
  if (count > 0) return check_append(lanes, state, row, count, length, empties);
  bool const has_opposite = count >= -no_limit;
  bool const possible = has_opposite && can_take_back(lanes, state, row, -count, length, empties);
  return possible ? no_flag : sequence_flag::length_mismatch;
}

/// Tokens join a row, or leave it; check_count holds.
template <class Lanes>
FORESIGHTKV_HOST_DEVICE void change_row(Lanes const& lanes, row_state const& state, int row, int count, int length,
                                        bool empties) {
  if (count > 0)
    append_row(lanes, state, row, count, empties);
  else
    take_back_row(lanes, state, row, -count, length, empties);
}

// --- sequences that are copied

/// Which sequences become copies of which.
struct fork_pairs {
  std::int32_t const* sources = nullptr;
  std::int32_t const* targets = nullptr;
  int count = 0;
  std::byte* copies = nullptr;  // [count] saved sources, written before any target; null: no target is a source

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE bool exists(row_state const& state, int pair) const {
    int const source = sources[pair];
    int const target = targets[pair];
    return source >= 0 && source < state.num_sequences && target >= 0 && target < state.num_sequences &&
           source != target;
  }
  /// Where a pair's source is saved.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::byte* copy(row_state const& state, int pair) const {
    return copies + static_cast<std::size_t>(pair) * saved_sequence::bytes(state);
  }
  /// Whether another pair names the target of this one: then it is not written, so that nobody reads a row that another
  /// pair writes. Sources that were saved may be written.
  template <class Lanes>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE bool clashes(Lanes const& lanes, int pair) const {
    int const target = targets[pair];
    bool named = false;
    for (int other = lanes.rank(); other < count; other += lanes.width())
      named = named || (copies == nullptr && sources[other] == target) || (other != pair && targets[other] == target);
    return lanes.first(named) < lanes.width();
  }
};

template <class Lanes>
FORESIGHTKV_HOST_DEVICE void copy_row(Lanes const& lanes, row_state const& state, int from, int to) {
  int const slots = smaller(state.seen_length[from], state.capacity);
  for (int slot = lanes.rank(); slot < slots; slot += lanes.width())
    state.position[state.column(to, slot)] = state.position[state.column(from, slot)];
  for (int i = lanes.rank(); i < slots * state.num_carried * state.group; i += lanes.width())
    state.carried_at(to, 0)[i] = state.carried_at(from, 0)[i];
  if (lanes.rank() != 0) return;
  state.seen_length[to] = state.seen_length[from];
  state.next_position[to] = state.next_position[from];
  state.step[to] = state.step[from];
}

// --- sequences that are saved

template <class Value>
FORESIGHTKV_HOST_DEVICE void store_bytes(std::byte* to, Value const& value) {
  std::memcpy(to, &value, sizeof(value));
}
template <class Value>
FORESIGHTKV_HOST_DEVICE Value load_bytes(std::byte const* from) {
  Value value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

/// Saves row `index` of a sequence. `copy(to, from, bytes)` takes any alignment.
template <class Lanes, class Copy>
FORESIGHTKV_HOST_DEVICE void save_row(Lanes const& lanes, row_state const& state, int sequence, int index,
                                      std::byte* out, Copy const& copy) {
  auto const place = static_cast<std::size_t>(index);
  int const row = row_of_sequence(state, sequence, index);
  if (lanes.rank() == 0 && index == 0) store_bytes(out, saved_sequence::header_of(state, sequence));
  if (lanes.rank() == 0) store_bytes(out + saved_sequence::record(place), saved_sequence::record_of(state, row));
  std::size_t const column = saved_sequence::column_bytes(state.capacity);
  copy(out + saved_sequence::positions(state) + place * column, state.position + state.column(row, 0), column);
  std::size_t const carried = saved_sequence::carried_bytes(state, state.capacity);
  if (carried > 0)
    copy(out + saved_sequence::carried(state, state.capacity) + place * carried, state.carried_at(row, 0), carried);
}

FORESIGHTKV_HOST_DEVICE inline saved_sequence::row_record saved_record(std::byte const* saved, int index) {
  return load_bytes<saved_sequence::row_record>(saved + saved_sequence::record(static_cast<std::size_t>(index)));
}

/// Reads row `index` of a sequence, which fits.
template <class Lanes, class Copy>
FORESIGHTKV_HOST_DEVICE void restore_row(Lanes const& lanes, row_state const& state, int sequence, int index,
                                         std::byte const* saved, Copy const& copy) {
  auto const place = static_cast<std::size_t>(index);
  int const row = row_of_sequence(state, sequence, index);
  int const saved_capacity = load_bytes<saved_sequence::header>(saved).capacity;
  auto const record = saved_record(saved, index);
  int const known = smaller(record.seen_length, state.capacity);
  int const slots = smaller(known, saved_capacity);
  copy(state.position + state.column(row, 0),
       saved + saved_sequence::positions(state) + place * saved_sequence::column_bytes(saved_capacity),
       saved_sequence::column_bytes(slots));
  if (state.num_carried > 0)
    copy(state.carried_at(row, 0),
         saved + saved_sequence::carried(state, saved_capacity) +
             place * saved_sequence::carried_bytes(state, saved_capacity),
         saved_sequence::carried_bytes(state, slots));
  // Slots of a pristine row that the saved columns did not reach.
  for (int slot = slots + lanes.rank(); slot < known; slot += lanes.width()) clear_carried(state, row, slot);
  if (lanes.rank() != 0) return;
  state.seen_length[row] = record.seen_length;
  state.next_position[row] = record.next_position;
  state.step[row] = record.step;
}

/// Of a source that was never reset there are no rows to copy, and its copy is as little started.
FORESIGHTKV_HOST_DEVICE inline void copy_flags(row_state const& state, int source, int target) {
  bool const sound = is_started(state, source);
  state.flags[target] = sound ? state.flags[source] : static_cast<std::uint32_t>(sequence_flag::not_reset);
  if (!sound) state.started[target] = 0;
}

/// The same from a saved source.
FORESIGHTKV_HOST_DEVICE inline bool is_started(saved_sequence::header const& saved) {
  return (saved.flags & static_cast<std::uint32_t>(sequence_flag::not_reset)) == 0;
}
FORESIGHTKV_HOST_DEVICE inline void copy_flags(row_state const& state, saved_sequence::header const& saved,
                                               int target) {
  state.flags[target] = is_started(saved) ? saved.flags : static_cast<std::uint32_t>(sequence_flag::not_reset);
  if (!is_started(saved)) state.started[target] = 0;
}

FORESIGHTKV_HOST_DEVICE inline void restore_request(row_state const& state, int sequence,
                                                    saved_sequence::header const& header) {
  state.request_id[sequence] = header.request_id;
  state.seed[sequence] = header.seed;
  state.flags[sequence] = header.flags;
  state.started[sequence] = is_started(header) ? start_mark : 0;
}

}  // namespace foresightkv::inline v0::detail
