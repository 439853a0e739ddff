// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <foresightkv/cache.hpp>
#include <foresightkv/detail/kernels/collectives.hpp>
#include <foresightkv/detail/kernels/launches.hpp>
#include <foresightkv/detail/kernels/vector_copy.hpp>
#include <foresightkv/detail/row_lifecycle.hpp>
#include <foresightkv/detail/saved_sequence.hpp>
#include <foresightkv/detail/visit_check.hpp>
#include <foresightkv/state.hpp>
#include <foresightkv/workspace.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// Rows of a sequence, and one of them by its number in (layer, head) order.
FORESIGHTKV_HOST_DEVICE inline int rows_of_sequence(row_state const& state) {
  return state.num_layers * state.num_kv_heads;
}
FORESIGHTKV_HOST_DEVICE inline int row_of_sequence(row_state const& state, int sequence, int index) {
  return state.row({index / state.num_kv_heads, sequence, index % state.num_kv_heads});
}

/// Called by one thread.
template <class Context>
FORESIGHTKV_HOST_DEVICE void flag_sequence(Context const& c, row_state const& state, int sequence,
                                           sequence_flag which) {
  c.raise(state.flags + sequence, static_cast<std::uint32_t>(which));
}

/// A sequence, and whether the list names it more than once.
struct listed_sequence {
  int sequence = -1;
  bool repeated = false;
};

/// The sequence that an entry of a list is the first to name; negative if there is none. Every warp finds out alone.
template <class Context>
FORESIGHTKV_HOST_DEVICE listed_sequence first_listing(Context const& c, sequence_list const& list, int entry,
                                                      int num_sequences) {
  int const count = list.count == nullptr ? list.max_count : smaller(*list.count, list.max_count);
  if (entry >= count) return {};
  int const sequence = list.slots == nullptr ? entry : list.slots[entry];
  if (sequence < 0 || sequence >= num_sequences) return {};
  if (list.slots == nullptr) return {sequence, false};
  bool before = false, behind = false;
  for (int other = c.rank() % warp_size; other < count; other += warp_size) {
    bool const named = list.slots[other] == sequence;
    before = before || (named && other < entry);
    behind = behind || (named && other > entry);
  }
  bool const repeated = c.vote(behind) != 0;
  if (c.vote(before) != 0) return {};
  return {sequence, repeated};
}

/// Starts sequences anew. A block per entry of the list.
struct reset_kernel {
  static constexpr int threads = 256;

  sequence_list list{};
  row_state state{};
  std::uint32_t const* request_ids = nullptr;
  std::uint64_t const* seeds = nullptr;

  template <class Context>
  struct shared {};

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>&) const {
    auto const [sequence, repeated] = first_listing(c, list, c.block(), state.num_sequences);
    if (sequence < 0) return;
    for (int index = c.rank(); index < rows_of_sequence(state); index += threads) {
      int const row = row_of_sequence(state, sequence, index);
      state.seen_length[row] = 0;
      state.next_position[row] = 0;
      state.step[row] = 0;
    }
    if (c.rank() != 0) return;
    state.request_id[sequence] = request_ids == nullptr ? static_cast<std::uint32_t>(sequence) : request_ids[sequence];
    state.seed[sequence] = seeds == nullptr ? 0 : seeds[sequence];
    state.flags[sequence] = repeated ? static_cast<std::uint32_t>(sequence_flag::duplicate) : 0;
  }
};

/// Tokens join sequences or leave them. A block per entry of the list: all rows of a sequence are asked before one of
/// them changes. A warp owns a row from then on, and a lane the slots that it reads.
struct append_kernel {
  static constexpr int threads = 512;
  static constexpr int slots_per_lane = 8;  // read at once
  enum sync : int { room_asked, rows_asked, row_read };

  sequence_list list{};
  row_state state{};
  std::int32_t const* counts = nullptr;
  bool empties = false;  // rows may have empty slots

  template <class Context>
  struct shared {
    int full[Context::threads / warp_size];
    int refused[Context::threads / warp_size];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    auto const [sequence, repeated] = first_listing(c, list, c.block(), state.num_sequences);
    if (sequence < 0) return;
    if (repeated && c.rank() == 0) flag_sequence(c, state, sequence, sequence_flag::duplicate);
    int const count = counts[sequence];
    if (count == 0) return;
    if (!possible(c, memory, sequence, count)) {
      auto const why = count > 0 ? sequence_flag::state_overflow : sequence_flag::length_mismatch;
      if (c.rank() == 0) flag_sequence(c, state, sequence, why);
      return;
    }
    each_row_of_warp(c, sequence, [&](int row) {
      if (count > 0)
        join(c, row, count);
      else
        leave(c, row, -count);
    });
  }

 private:
  template <class Context>
  FORESIGHTKV_HOST_DEVICE static int lane(Context const& c) {
    return c.rank() % warp_size;
  }
  template <class Context, class Body>
  FORESIGHTKV_HOST_DEVICE void each_row_of_warp(Context const& c, int sequence, Body const& body) const {
    for (int index = c.rank() / warp_size; index < rows_of_sequence(state); index += threads / warp_size)
      body(row_of_sequence(state, sequence, index));
  }

  template <class Context>
  FORESIGHTKV_HOST_DEVICE bool possible(Context const& c, shared<Context>& memory, int sequence, int count) const {
    if (count == -0x7fffffff - 1) return false;  // has no opposite; no row is that long
    if (count > 0) {
      bool full = false;
      for (int index = c.rank(); index < rows_of_sequence(state); index += threads)
        full = full || !can_append(state, row_of_sequence(state, sequence, index), count, 0);
      if (!block_any(c, memory.full, full, room_asked)) return true;
      if (!empties) return false;
    }
    bool refused = false;
    each_row_of_warp(c, sequence, [&](int row) {
      bool const fits = count > 0 ? can_append(state, row, count, empty_slots(c, row)) : can_leave(c, row, -count);
      refused = refused || !fits;
    });
    return !block_any(c, memory.refused, refused, rows_asked);
  }

  template <class Context>
  FORESIGHTKV_HOST_DEVICE int empty_slots(Context const& c, int row) const {
    if (state.step[row] == 0) return 0;
    return count_slots(c, row, [](int position) { return position < 0; });
  }
  template <class Context, class Question>
  FORESIGHTKV_HOST_DEVICE int count_slots(Context const& c, int row, Question const& question) const {
    int const seen = state.seen_length[row];
    int count = 0;
    for (int slot = lane(c); slot < seen; slot += warp_size)
      count += question(state.position[state.column(row, slot)]) ? 1 : 0;
    return warp_sum(c, count);
  }

  /// How many of the `count` newest tokens stand at a row's end, newest last.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE int newest_at_end(Context const& c, int row, int count) const {
    if (state.step[row] == 0) return count;
    int const last = state.seen_length[row] - 1;
    int const newest = state.next_position[row] - 1;
    for (int first = 0; first < count; first += warp_size) {
      int const i = first + lane(c);
      bool const elsewhere = i < count && state.position[state.column(row, last - i)] != newest - i;
      std::uint32_t const others = c.vote(elsewhere);
      if (others != 0) return first + first_lane(others);
    }
    return count;
  }
  template <class Context>
  FORESIGHTKV_HOST_DEVICE bool can_leave(Context const& c, int row, int count) const {
    if (count > state.seen_length[row] || count > state.next_position[row]) return false;
    if (newest_at_end(c, row, count) == count) return true;
    if (!empties) return false;
    int const limit = state.next_position[row] - count;
    return count_slots(c, row, [&](int position) { return position >= limit; }) == count;
  }

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void join(Context const& c, int row, int count) const {
    int const seen = state.seen_length[row];
    int const next = state.next_position[row];
    int const filled = empties && state.step[row] != 0 ? fill_empty(c, row, seen, next, count) : 0;
    int const behind = count - filled;
    int const stored = smaller(behind, state.capacity - seen);
    for (int i = lane(c); i < stored; i += warp_size) state.position[state.column(row, seen + i)] = next + filled + i;
    int const values = stored * state.num_carried * state.group;
    for (int i = lane(c); i < values; i += warp_size) state.carried_at(row, seen)[i] = 0.0f;
    settle(c, row, seen + behind, next + count);
  }
  /// Fills empty slots, lowest first, with up to `count` tokens, and says how many.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE int fill_empty(Context const& c, int row, int seen, int next, int count) const {
    int filled = 0;
    for (int first = 0; first < seen && filled < count; first += warp_size * slots_per_lane) {
      int const mine = first + lane(c) * slots_per_lane;
      bool empty[slots_per_lane];
      int num_empty = 0;
      for (int i = 0; i < slots_per_lane; ++i) {
        empty[i] = mine + i < seen && state.position[state.column(row, mine + i)] < 0;
        num_empty += empty[i] ? 1 : 0;
      }
      int const left = count - filled;
      int all = 0;
      int place = warp_exclusive_sum(c, num_empty, all);
      for (int i = 0; i < slots_per_lane; ++i) {
        if (!empty[i]) continue;
        if (place < left) place_token(state, row, mine + i, next + filled + place);
        ++place;
      }
      filled += smaller(all, left);
    }
    return filled;
  }

  /// Takes the newest tokens back: from the row's end, and out of the slots before it.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void leave(Context const& c, int row, int count) const {
    int const seen = state.seen_length[row];
    int const limit = state.next_position[row] - count;
    int const at_end = newest_at_end(c, row, count);
    // Backwards, as newest_at_end does: another lane than the one that read a slot there could be too early here.
    for (int i = lane(c); at_end < count && i < seen; i += warp_size) {
      int const slot = seen - 1 - i;
      if (i >= at_end && state.position[state.column(row, slot)] >= limit) place_token(state, row, slot, -1);
    }
    settle(c, row, seen - at_end, limit);
  }

  /// Last of all: the other lanes have read what is overwritten.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void settle(Context const& c, int row, int seen, int next) const {
    c.sync_warp(row_read);
    if (lane(c) != 0) return;
    state.seen_length[row] = seen;
    state.next_position[row] = next;
  }
};

/// Copies the rows of sequences, a block per pair and row; one more block copies and sets flags. A target that is also
/// another pair's source, or its target, is not written, so that no block reads a row that another one writes.
struct fork_kernel {
  static constexpr int threads = 256;
  enum sync : int { flags_copied };

  row_state state{};
  std::int32_t const* sources = nullptr;
  std::int32_t const* targets = nullptr;
  int count = 0;

  [[nodiscard]] std::int64_t blocks() const {
    return count == 0 ? 0 : std::int64_t{count} * rows_of_sequence(state) + 1;
  }

  template <class Context>
  struct shared {};

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>&) const {
    int const pair = c.block() / rows_of_sequence(state);
    if (pair == count) return copy_flags(c);
    if (!exists(pair) || clashes(c, pair)) return;
    int const index = c.block() % rows_of_sequence(state);
    copy_row(c, row_of_sequence(state, sources[pair], index), row_of_sequence(state, targets[pair], index));
  }

 private:
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE bool exists(int pair) const {
    int const source = sources[pair];
    int const target = targets[pair];
    return source >= 0 && source < state.num_sequences && target >= 0 && target < state.num_sequences &&
           source != target;
  }
  /// Whether another pair names the target of this one. Every warp finds out alone.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE bool clashes(Context const& c, int pair) const {
    int const target = targets[pair];
    bool named = false;
    for (int other = c.rank() % warp_size; other < count; other += warp_size)
      named = named || sources[other] == target || (other != pair && targets[other] == target);
    return c.vote(named) != 0;
  }

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void copy_row(Context const& c, int from, int to) const {
    int const slots = smaller(state.seen_length[from], state.capacity);
    for (int slot = c.rank(); slot < slots; slot += threads)
      state.position[state.column(to, slot)] = state.position[state.column(from, slot)];
    for (int i = c.rank(); i < slots * state.num_carried * state.group; i += threads)
      state.carried_at(to, 0)[i] = state.carried_at(from, 0)[i];
    if (c.rank() != 0) return;
    state.seen_length[to] = state.seen_length[from];
    state.next_position[to] = state.next_position[from];
    state.step[to] = state.step[from];
  }

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void copy_flags(Context const& c) const {
    each_pair_of_warp(c, false, [&](int pair) { state.flags[targets[pair]] = state.flags[sources[pair]]; });
    c.sync(flags_copied);  // a target that clashes may be another pair's source
    each_pair_of_warp(c, true, [&](int pair) { flag_sequence(c, state, targets[pair], sequence_flag::duplicate); });
  }
  template <class Context, class Body>
  FORESIGHTKV_HOST_DEVICE void each_pair_of_warp(Context const& c, bool clashing, Body const& body) const {
    for (int pair = c.rank() / warp_size; pair < count; pair += threads / warp_size)
      if (exists(pair) && clashes(c, pair) == clashing && c.rank() % warp_size == 0) body(pair);
  }
};

/// Copies bytes by all threads of a block, whatever their alignment.
template <class Context>
FORESIGHTKV_HOST_DEVICE void copy_bytes(Context const& c, void* to, void const* from, std::size_t bytes) {
  auto* const target = static_cast<std::byte*>(to);
  auto const* const source = static_cast<std::byte const*>(from);
  std::size_t constexpr step = static_cast<std::size_t>(Context::threads) * vector_bytes;
  for (std::size_t at = static_cast<std::size_t>(c.rank()) * vector_bytes; at < bytes; at += step) {
    std::size_t const left = bytes - at;
    copy_vector(target + at, source + at, left < vector_bytes ? static_cast<int>(left) : vector_bytes);
  }
}

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

/// Writes a sequence's state to bytes. A block per row.
struct save_kernel {
  static constexpr int threads = 256;

  row_state state{};
  int sequence = 0;
  std::byte* out = nullptr;

  template <class Context>
  struct shared {};

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>&) const {
    auto const index = static_cast<std::size_t>(c.block());
    int const row = row_of_sequence(state, sequence, c.block());
    if (c.rank() == 0 && index == 0) store_bytes(out, saved_sequence::header_of(state, sequence));
    if (c.rank() == 0) store_bytes(out + saved_sequence::record(index), saved_sequence::record_of(state, row));
    std::size_t const column = saved_sequence::column_bytes(state.capacity);
    copy_bytes(c, out + saved_sequence::positions(state) + index * column, state.position + state.column(row, 0),
               column);
    std::size_t const carried = saved_sequence::carried_bytes(state, state.capacity);
    if (carried > 0)
      copy_bytes(c, out + saved_sequence::carried(state, state.capacity) + index * carried, state.carried_at(row, 0),
                 carried);
  }
};

/// Reads a saved sequence. A block per row: each asks about all saved rows before it writes its own, and none reads what
/// another one writes.
struct restore_kernel {
  static constexpr int threads = 256;
  enum sync : int { records_asked };

  row_state state{};
  int sequence = 0;
  workspace saved{};

  template <class Context>
  struct shared {
    int misfits[Context::threads / warp_size];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    auto const header = load_bytes<saved_sequence::header>(saved.data);
    if (!fits(c, memory, header)) {
      if (c.block() == 0 && c.rank() == 0) flag_sequence(c, state, sequence, sequence_flag::bad_length);
      return;
    }
    copy_row(c, header);
    if (c.block() != 0 || c.rank() != 0) return;
    state.request_id[sequence] = header.request_id;
    state.seed[sequence] = header.seed;
    state.flags[sequence] = header.flags;
  }

 private:
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE saved_sequence::row_record record_at(int index) const {
    auto const at = saved_sequence::record(static_cast<std::size_t>(index));
    return load_bytes<saved_sequence::row_record>(saved.data + at);
  }

  template <class Context>
  FORESIGHTKV_HOST_DEVICE bool fits(Context const& c, shared<Context>& memory,
                                    saved_sequence::header const& header) const {
    if (!saved_sequence::matches(state, header)) return false;
    if (saved.size < saved_sequence::bytes(state, header.capacity)) return false;
    bool misfit = false;
    for (int index = c.rank(); index < rows_of_sequence(state); index += threads)
      misfit = misfit || !saved_sequence::fits(state, header, record_at(index));
    return !block_any(c, memory.misfits, misfit, records_asked);
  }

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void copy_row(Context const& c, saved_sequence::header const& header) const {
    auto const index = static_cast<std::size_t>(c.block());
    int const row = row_of_sequence(state, sequence, c.block());
    auto const record = record_at(c.block());
    int const known = smaller(record.seen_length, state.capacity);
    int const slots = smaller(known, header.capacity);
    std::byte const* const positions =
        saved.data + saved_sequence::positions(state) + index * saved_sequence::column_bytes(header.capacity);
    copy_bytes(c, state.position + state.column(row, 0), positions, saved_sequence::column_bytes(slots));
    if (state.num_carried > 0) {
      std::byte const* const carried = saved.data + saved_sequence::carried(state, header.capacity) +
                                       index * saved_sequence::carried_bytes(state, header.capacity);
      copy_bytes(c, state.carried_at(row, 0), carried, saved_sequence::carried_bytes(state, slots));
    }
    // Slots that the saved columns did not reach: a pristine row, whose carried statistics were not stored either.
    for (int slot = slots + c.rank(); slot < known; slot += threads) clear_carried(state, row, slot);
    if (c.rank() != 0) return;
    state.seen_length[row] = record.seen_length;
    state.next_position[row] = record.next_position;
    state.step[row] = record.step;
  }
};

/// The verbs that touch a state and no cache: one launch each.
template <class Exec>
struct lifecycle {
  static status reset(Exec const& exec, row_state const& state, sequence_list const& list,
                      std::uint32_t const* request_ids, std::uint64_t const* seeds) {
    launches<Exec> launch(exec);
    launch(list.max_count, reset_kernel{list, state, request_ids, seeds});
    return launch.result();
  }

  static status append(Exec const& exec, row_state const& state, sequence_list const& list, std::int32_t const* counts,
                       bool empties) {
    launches<Exec> launch(exec);
    launch(list.max_count, append_kernel{list, state, counts, empties});
    return launch.result();
  }

  static status fork(Exec const& exec, row_state const& state, std::int32_t const* sources,
                     std::int32_t const* targets, int count) {
    launches<Exec> launch(exec);
    fork_kernel const body{state, sources, targets, count};
    launch(body.blocks(), body);
    return launch.result();
  }

  static status save(Exec const& exec, row_state const& state, int sequence, std::byte* out) {
    launches<Exec> launch(exec);
    launch(rows_of_sequence(state), save_kernel{state, sequence, out});
    return launch.result();
  }

  /// What the buffer holds is data of the device: what does not fit sets sequence_flag::bad_length.
  static status restore(Exec const& exec, row_state const& state, int sequence, workspace saved) {
    if (saved.size < sizeof(saved_sequence::header)) return {errc::workspace_too_small};
    launches<Exec> launch(exec);
    launch(rows_of_sequence(state), restore_kernel{state, sequence, saved});
    return launch.result();
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
