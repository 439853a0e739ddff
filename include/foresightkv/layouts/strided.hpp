// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/cache.hpp>
#include <foresightkv/layout.hpp>

namespace foresightkv::inline v0 {

/// Tokens at equal distances. The distance is an int: its product with a slot is then one instruction.
struct strided_map {
  int stride = 0;

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::int64_t operator()(int slot) const {
    return std::int64_t{slot} * stride;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr strided_map times(int bytes) const { return {stride * bytes}; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::int64_t distances() const { return stride; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static constexpr int steady(int) { return 0x7fffffff; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::int64_t step() const { return stride; }
};

/// Distances in elements between neighbours of a strided array of tokens. A token's own elements are contiguous.
struct cache_strides {
  std::int64_t layer = 0;  ///< unused where there is one pointer per layer
  std::int64_t sequence = 0;
  std::int64_t kv_head = 0;
  std::int64_t token = 0;

  /// [layer][sequence][kv_head][token][dim]
  [[nodiscard]] static constexpr cache_strides hnd(cache_shape const& shape, int head_dim) {
    cache_strides strides;
    strides.token = head_dim;
    strides.kv_head = strides.token * shape.capacity;
    strides.sequence = strides.kv_head * shape.num_kv_heads;
    strides.layer = strides.sequence * shape.num_sequences;
    return strides;
  }
  /// [layer][sequence][token][kv_head][dim]
  [[nodiscard]] static constexpr cache_strides nhd(cache_shape const& shape, int head_dim) {
    cache_strides strides;
    strides.kv_head = head_dim;
    strides.token = strides.kv_head * shape.num_kv_heads;
    strides.sequence = strides.token * shape.capacity;
    strides.layer = strides.sequence * shape.num_sequences;
    return strides;
  }

  /// Where a row begins inside its layer.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::int64_t in_layer(row_index at) const {
    return at.sequence * sequence + at.kv_head * kv_head;
  }
  /// Where a row begins.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::int64_t of(row_index at) const {
    return at.layer * layer + in_layer(at);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr strided_map map(row_index) const { return {static_cast<int>(token)}; }

  [[nodiscard]] constexpr std::int64_t elements(cache_shape const& shape, int head_dim) const {
    std::int64_t const all = std::int64_t{shape.num_rows()} * shape.capacity * head_dim;
    std::int64_t const end = (shape.num_layers - 1) * layer + (shape.num_sequences - 1) * sequence +
                             (shape.num_kv_heads - 1) * kv_head + (shape.capacity - 1) * token + head_dim;
    return end == all ? all : 0;
  }
  /// Tokens, heads, sequences and layers must not overlap. Sequences may stand in any order, but none before the first.
  [[nodiscard]] status check(cache_shape const& shape, int head_dim, bool by_layer) const {
    constexpr std::int64_t longest = 0x7fffffff / 8;  // elements between tokens: their bytes fit an int
    bool const fits = (shape.capacity == 1 || token >= head_dim) && token >= 0 && token <= longest &&
                      (shape.num_kv_heads == 1 || kv_head >= head_dim) &&
                      (shape.num_sequences == 1 || sequence >= head_dim) && sequence >= 0 &&
                      (shape.num_layers == 1 || by_layer || layer >= head_dim) && layer >= 0;
    return detail::check_that(fits, errc::invalid_shape);
  }
};

}  // namespace foresightkv::inline v0
