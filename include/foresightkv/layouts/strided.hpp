// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <foresightkv/cache.hpp>

namespace foresightkv::inline v0 {

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
};

/// Bytes of a strided row's tokens.
struct strided_place {
  std::byte* first = nullptr;
  int stride = 0;  // bytes

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::byte* operator()(int slot) const {
    return first + std::int64_t{slot} * stride;
  }
  /// The same for what stands so many bytes further on.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE strided_place behind(int bytes) const { return {first + bytes, stride}; }
  /// Whether all addresses are multiples of a power of two.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE bool aligned_to(int bytes) const {
    return ((reinterpret_cast<std::uintptr_t>(first) | static_cast<std::uintptr_t>(stride)) &
            static_cast<std::uintptr_t>(bytes - 1)) == 0;
  }
};

/// The token vectors of a strided row. A token's stride is an int: its product with a slot is then one instruction.
template <class Storage>
struct strided_vectors {
  using element_type = typename Storage::element_type;
  using storage_row = typename Storage::row;

  element_type* first = nullptr;
  int stride = 0;
  [[no_unique_address]] storage_row storage{};

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr element_type* at(int slot) const {
    return first + std::int64_t{slot} * stride;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE strided_place place() const {
    return {reinterpret_cast<std::byte*>(first), stride * static_cast<int>(sizeof(element_type))};
  }

  // What the storage says of scales, word for word: a constant stays one.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static constexpr float scale(int slot) requires requires {
    storage_row::scale(0);
  } &&(std::is_empty_v<storage_row>) {
    return storage_row::scale(slot);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr float scale(int slot) const requires(!std::is_empty_v<storage_row>) {
    return storage.scale(slot);
  }
  static constexpr bool one_scale = requires { requires storage_row::one_scale; };
};

}  // namespace foresightkv::inline v0
