// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <foresightkv/state.hpp>

namespace foresightkv::inline v0::detail {

/// Layout of a saved sequence: header, row records [layer][kv_head], positions [row][capacity], carried statistics
/// [row][capacity][num_carried][group]. Plain bytes in host order; no alignment asked of the buffer.
struct saved_sequence {
  static constexpr std::uint32_t magic = 0x31564b46;  // "FKV1": the digit is the format's version

  struct header {
    std::uint32_t magic;
    std::int32_t num_layers, num_kv_heads, group, num_carried, capacity;
    std::uint32_t request_id, flags;
    std::uint64_t seed;
  };
  struct row_record {
    std::int32_t seen_length, next_position;
    std::uint32_t step;
  };

  FORESIGHTKV_HOST_DEVICE static std::size_t rows(row_state const& state) {
    return static_cast<std::size_t>(state.num_layers) * static_cast<std::size_t>(state.num_kv_heads);
  }
  /// Bytes of one row's slots.
  FORESIGHTKV_HOST_DEVICE static std::size_t column_bytes(int slots) {
    return sizeof(std::int32_t) * static_cast<std::size_t>(slots);
  }
  FORESIGHTKV_HOST_DEVICE static std::size_t carried_bytes(row_state const& state, int slots) {
    return sizeof(float) * static_cast<std::size_t>(slots) * static_cast<std::size_t>(state.num_carried * state.group);
  }
  /// Where the parts begin.
  FORESIGHTKV_HOST_DEVICE static std::size_t record(std::size_t index) {
    return sizeof(header) + index * sizeof(row_record);
  }
  FORESIGHTKV_HOST_DEVICE static std::size_t positions(row_state const& state) { return record(rows(state)); }
  FORESIGHTKV_HOST_DEVICE static std::size_t carried(row_state const& state, int capacity) {
    return positions(state) + rows(state) * column_bytes(capacity);
  }
  FORESIGHTKV_HOST_DEVICE static std::size_t bytes(row_state const& state, int capacity) {
    return carried(state, capacity) + rows(state) * carried_bytes(state, capacity);
  }
  FORESIGHTKV_HOST_DEVICE static std::size_t bytes(row_state const& state) { return bytes(state, state.capacity); }

  FORESIGHTKV_HOST_DEVICE static header header_of(row_state const& state, int sequence) {
    return {magic,
            state.num_layers,
            state.num_kv_heads,
            state.group,
            state.num_carried,
            state.capacity,
            state.request_id[sequence],
            state.flags[sequence] |
                (is_started(state, sequence) ? 0 : static_cast<std::uint32_t>(sequence_flag::not_reset)),
            state.seed[sequence]};
  }
  FORESIGHTKV_HOST_DEVICE static row_record record_of(row_state const& state, int row) {
    return {state.seen_length[row], state.next_position[row], state.step[row]};
  }

  /// Whether a sequence was saved in this format from a state of these extents; its capacity may be another one.
  FORESIGHTKV_HOST_DEVICE static bool matches(row_state const& state, header const& saved) {
    return saved.magic == magic && saved.num_layers == state.num_layers && saved.num_kv_heads == state.num_kv_heads &&
           saved.group == state.group && saved.num_carried == state.num_carried && saved.capacity > 0;
  }
  /// A saved row fits where its slots are stored; of a pristine row only those that carry statistics have to be. An
  /// evicted row may have more slots than positions before its next one: some are empty.
  FORESIGHTKV_HOST_DEVICE static bool fits(row_state const& state, header const& saved, row_record const& row) {
    if (row.seen_length < 0 || row.next_position < 0) return false;
    if (row.step == 0 && row.next_position != row.seen_length) return false;
    if (row.step != 0 && row.seen_length > saved.capacity) return false;
    int const stored = row.seen_length < saved.capacity ? row.seen_length : saved.capacity;
    return row.seen_length <= state.capacity || (row.step == 0 && (state.num_carried == 0 || stored <= state.capacity));
  }
};

}  // namespace foresightkv::inline v0::detail
