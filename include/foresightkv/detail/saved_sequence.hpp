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

  static std::size_t rows(row_state const& state) {
    return static_cast<std::size_t>(state.num_layers) * static_cast<std::size_t>(state.num_kv_heads);
  }
  static std::size_t positions(row_state const& state) { return sizeof(header) + rows(state) * sizeof(row_record); }
  static std::size_t carried(row_state const& state, int capacity) {
    return positions(state) + rows(state) * static_cast<std::size_t>(capacity) * sizeof(std::int32_t);
  }
  static std::size_t bytes(row_state const& state, int capacity) {
    return carried(state, capacity) + rows(state) * static_cast<std::size_t>(capacity) *
                                          static_cast<std::size_t>(state.num_carried * state.group) * sizeof(float);
  }
  static std::size_t bytes(row_state const& state) { return bytes(state, state.capacity); }
};

}  // namespace foresightkv::inline v0::detail
