// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/cache.hpp>

namespace foresightkv::inline v0 {

/// Distances in elements between neighbours of a dense cache. A token's own elements are contiguous.
struct cache_strides {
  std::int64_t layer = 0;  ///< unused where the cache holds one pointer per layer
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
};

/// Keys and values in strided arrays: one allocation, or one per layer.
/// \tparam KeyHeadDim  where it is known at compile time; 0: a device backend is compiled for several
template <element Element, length_domain Domain = length_domain::sequence, int KeyHeadDim = 0>
struct dense_cache {
  using element_type = Element;
  static constexpr length_domain domain = Domain;
  static constexpr int fixed_key_head_dim = KeyHeadDim;

  Element* keys = nullptr;    ///< null where layer_keys is given
  Element* values = nullptr;  ///< null where layer_values is given
  std::int32_t const* row_lengths = nullptr;
  cache_shape extents{};
  cache_strides key_strides{};
  cache_strides value_strides{};
  Element* const* layer_keys = nullptr;    ///< [num_layers] base pointers, readable by the backend
  Element* const* layer_values = nullptr;  ///< [num_layers]
  float const* key_scales = nullptr;       ///< [layer][kv_head] stored key * scale = key; null: 1
  float const* value_scales = nullptr;     ///< [layer][kv_head]

  /// Keys and values as [layer][sequence][kv_head][capacity][head_dim].
  [[nodiscard]] static constexpr dense_cache hnd(Element* keys, Element* values, std::int32_t const* lengths,
                                                 cache_shape const& shape) {
    return {keys, values, lengths, shape, cache_strides::hnd(shape, shape.key_head_dim),
            cache_strides::hnd(shape, shape.value_head_dim)};
  }
  /// Keys and values as [layer][sequence][capacity][kv_head][head_dim].
  [[nodiscard]] static constexpr dense_cache nhd(Element* keys, Element* values, std::int32_t const* lengths,
                                                 cache_shape const& shape) {
    return {keys, values, lengths, shape, cache_strides::nhd(shape, shape.key_head_dim),
            cache_strides::nhd(shape, shape.value_head_dim)};
  }

  /// The same cache whose elements are scaled per layer and KV head, as fp8 ones are.
  [[nodiscard]] constexpr dense_cache with_scales(float const* keys_by_head, float const* values_by_head) const {
    dense_cache cache = *this;
    cache.key_scales = keys_by_head;
    cache.value_scales = values_by_head;
    return cache;
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr cache_shape const& shape() const { return extents; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::int32_t const* lengths() const { return row_lengths; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr Element* key(row_index at, int slot) const {
    return address(keys, layer_keys, key_strides, at, slot);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr Element* value(row_index at, int slot) const {
    return address(values, layer_values, value_strides, at, slot);
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr float key_scale(row_index at) const { return scale(key_scales, at); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr float value_scale(row_index at) const {
    return scale(value_scales, at);
  }

  [[nodiscard]] status check() const {
    if (!extents.valid()) return {errc::invalid_shape};
    if (KeyHeadDim != 0 && extents.key_head_dim != KeyHeadDim) return {errc::invalid_shape};
    if (row_lengths == nullptr) return {errc::null_pointer};
    if ((keys == nullptr && layer_keys == nullptr) || (values == nullptr && layer_values == nullptr))
      return {errc::null_pointer};
    status const aligned = detail::check_aligned(keys, values, row_lengths, layer_keys, layer_values, key_scales, value_scales);
    if (!aligned.ok()) return aligned;
    if (!fits(key_strides, extents.key_head_dim, layer_keys != nullptr) ||
        !fits(value_strides, extents.value_head_dim, layer_values != nullptr))
      return {errc::invalid_shape};
    return {};
  }

 private:
  FORESIGHTKV_HOST_DEVICE static constexpr Element* address(Element* base, Element* const* layer_base,
                                                            cache_strides const& strides, row_index at, int slot) {
    Element* const start = layer_base == nullptr ? base + at.layer * strides.layer : layer_base[at.layer];
    return start + at.sequence * strides.sequence + at.kv_head * strides.kv_head + slot * strides.token;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr float scale(float const* scales, row_index at) const {
    return scales == nullptr ? 1.0f : scales[at.layer * extents.num_kv_heads + at.kv_head];
  }
  [[nodiscard]] bool fits(cache_strides const& strides, int head_dim, bool per_layer) const {
    return (extents.capacity == 1 || strides.token >= head_dim) &&
           (extents.num_kv_heads == 1 || strides.kv_head >= head_dim) &&
           (extents.num_sequences == 1 || strides.sequence >= head_dim) && strides.sequence >= 0 &&
           (extents.num_layers == 1 || per_layer || strides.layer >= head_dim) && strides.layer >= 0;
  }
};

}  // namespace foresightkv::inline v0
