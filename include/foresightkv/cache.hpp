// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <foresightkv/element.hpp>
#include <foresightkv/execution.hpp>
#include <foresightkv/status.hpp>
#include <type_traits>

namespace foresightkv::inline v0 {

/// Which rows of a cache share one length.
enum class length_domain : int {
  sequence,  ///< lengths[sequence]: all layers and heads of a sequence are equally long
  layer,     ///< lengths[layer][sequence]
  row        ///< lengths[layer][sequence][kv_head]
};

/// Names one row: a layer of the cache (not of the model), a sequence slot, a KV head of this rank.
struct row_index {
  int layer = 0;
  int sequence = 0;
  int kv_head = 0;
};

/// Extents of a cache. Counts are of what this cache holds, on this rank.
struct cache_shape {
  int num_layers = 1;     ///< cached layers that take part in eviction, in order
  int num_sequences = 1;  ///< sequence slots
  int num_kv_heads = 1;
  int group = 1;  ///< query heads per KV head; query head = kv_head * group + j
  int key_head_dim = 0;
  int value_head_dim = 0;
  int capacity = 0;              ///< tokens that one row can hold
  int const* layers = nullptr;   ///< model layer number of each cached layer; null: 0, 1, 2, ...
  int first_kv_head = 0;         ///< number of local head 0 in the whole model (tensor parallelism)
  int total_kv_heads = 0;        ///< KV heads of the whole model; 0: num_kv_heads

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int num_rows() const {
    return num_layers * num_sequences * num_kv_heads;
  }
  /// Place of a row in every [rows] array of the library: [layer][sequence][kv_head].
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int row(row_index at) const {
    return (at.layer * num_sequences + at.sequence) * num_kv_heads + at.kv_head;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int model_layer(int layer) const {
    return layers == nullptr ? layer : layers[layer];
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int model_kv_head(int kv_head) const {
    return first_kv_head + kv_head;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int model_kv_heads() const {
    return total_kv_heads == 0 ? num_kv_heads : total_kv_heads;
  }

  [[nodiscard]] constexpr bool valid() const {
    auto const limit = std::int64_t{1} << 31;
    if (num_layers <= 0 || num_sequences <= 0 || num_kv_heads <= 0 || group <= 0) return false;
    if (key_head_dim <= 0 || value_head_dim <= 0 || capacity <= 0) return false;
    if (first_kv_head < 0 || total_kv_heads < 0 || first_kv_head > model_kv_heads() - num_kv_heads) return false;
    auto const layer_rows = std::int64_t{num_layers} * num_sequences;
    return layer_rows < limit && layer_rows * num_kv_heads < limit && std::int64_t{num_kv_heads} * group < limit;
  }
};

namespace detail {

/// Where a row's length stands in a length buffer of a domain.
FORESIGHTKV_HOST_DEVICE constexpr int length_index(length_domain domain, cache_shape const& shape, row_index at) {
  if (domain == length_domain::sequence) return at.sequence;
  if (domain == length_domain::layer) return at.layer * shape.num_sequences + at.sequence;
  return shape.row(at);
}

FORESIGHTKV_HOST_DEVICE constexpr int num_lengths(length_domain domain, cache_shape const& shape) {
  if (domain == length_domain::sequence) return shape.num_sequences;
  if (domain == length_domain::layer) return shape.num_layers * shape.num_sequences;
  return shape.num_rows();
}

}  // namespace detail

/// A view of cached keys and values that a backend can read and compact. Trivially copyable: it travels to a device
/// by value.
///
///   element_type                storage type, see element.hpp
///   domain                      the length domain
///   shape()                     extents
///   lengths()                   current lengths, indexed by the domain; read by the backend, never written
///   key(row, slot), value(...)  first of key_head_dim (value_head_dim) contiguous elements of a token
///   check()                     what the host can see: extents, missing pointers, alignment
///   key_scale(row), value_scale(row)  (optional) what a row's stored keys (values) are multiplied by, such as fp8 ones
///   fixed_key_head_dim          (optional) static constexpr int, the key_head_dim of every shape() or 0: a device backend is
///                               compiled for this one alone
template <class Cache>
concept kv_cache = std::is_trivially_copyable_v<Cache> && element<typename Cache::element_type> &&
                   requires(Cache const cache, row_index at, int slot) {
                     { Cache::domain } -> std::convertible_to<length_domain>;
                     { cache.shape() } -> std::convertible_to<cache_shape>;
                     { cache.lengths() } -> std::same_as<std::int32_t const*>;
                     { cache.key(at, slot) } -> std::same_as<typename Cache::element_type*>;
                     { cache.value(at, slot) } -> std::same_as<typename Cache::element_type*>;
                     { cache.check() } -> std::same_as<status>;
                   };

namespace detail {

template <class Cache>
FORESIGHTKV_HOST_DEVICE constexpr float key_scale_of(Cache const& cache, row_index at) {
  if constexpr (requires { cache.key_scale(at); }) return cache.key_scale(at);
  return 1.0f;
}
template <class Cache>
FORESIGHTKV_HOST_DEVICE constexpr float value_scale_of(Cache const& cache, row_index at) {
  if constexpr (requires { cache.value_scale(at); }) return cache.value_scale(at);
  return 1.0f;
}

/// Key dimension that a cache type fixes; 0 where it fixes none.
template <class Cache>
constexpr int fixed_key_head_dim() {
  if constexpr (requires { Cache::fixed_key_head_dim; }) return Cache::fixed_key_head_dim;
  return 0;
}

template <class Cache>
constexpr bool check_cache() {
  static_assert(kv_cache<Cache>,
                "foresightkv: a cache must be trivially copyable and have element_type, domain, shape(), lengths(), "
                "key(row, slot), value(row, slot) and check()");
  return kv_cache<Cache>;
}

}  // namespace detail

/// Sequence slots that a call visits. Both arrays are data of the backend (device memory for a device): a captured
/// call can be replayed with another list. The two bounds are promises of the host: they set grids and workspaces.
/// A slot out of range is passed over; one listed twice is flagged and visited once; one with a row longer than
/// max_length is flagged and left alone.
struct sequence_list {
  std::int32_t const* slots = nullptr;  ///< null: 0, 1, 2, ...
  std::int32_t const* count = nullptr;  ///< null: max_count
  int max_count = 0;
  int max_length = 0;  ///< longest row among them, in slots
};

}  // namespace foresightkv::inline v0
