// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/buffer.hpp>
#include <foresightkv/element.hpp>
#include <foresightkv/execution.hpp>
#include <foresightkv/status.hpp>
#include <type_traits>
#include <utility>

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
  int capacity = 0;             ///< tokens that one row can hold
  int const* layers = nullptr;  ///< model layer number of each cached layer; null: 0, 1, 2, ...
  int first_kv_head = 0;        ///< number of local head 0 in the whole model (tensor parallelism)
  int total_kv_heads = 0;       ///< KV heads of the whole model; 0: num_kv_heads

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

/// The first of the rows that share a row's length.
FORESIGHTKV_HOST_DEVICE constexpr row_index first_of_length(length_domain domain, row_index at) {
  if (domain == length_domain::row) return at;
  return {domain == length_domain::layer ? at.layer : 0, at.sequence, 0};
}

FORESIGHTKV_HOST_DEVICE constexpr int num_lengths(length_domain domain, cache_shape const& shape) {
  if (domain == length_domain::sequence) return shape.num_sequences;
  if (domain == length_domain::layer) return shape.num_layers * shape.num_sequences;
  return shape.num_rows();
}

}  // namespace detail

/// The keys (or values) of one row, made once for it: what does not depend on the slot is worked out by then.
///   element_type  storage type, see element.hpp
///   at(slot)      first of head_dim contiguous elements of a token
///   scale(slot)   stored element * scale = element. A static constexpr function that gives 1 costs nothing; where the
///                 scale is the row's, `static constexpr bool one_scale = true` says so and saves a product per logit
///   scale_at(slot) (optional) where a token's own scale stands, a float*: without it verbs do not make such tokens of
///                 others, see moving_batch
///   place()       (optional) the same addresses without their type: place()(slot) is a std::byte*. If keys and values
///                 have the same type of place, their moves share their code
template <class Vectors>
concept token_vectors = std::is_trivially_copyable_v<Vectors> && element<typename Vectors::element_type> &&
    requires(Vectors const vectors, int slot) {
  { vectors.at(slot) } -> std::same_as<typename Vectors::element_type*>;
  { vectors.scale(slot) } -> std::same_as<float>;
};

/// A view of cached keys and values that a backend can read and compact. Trivially copyable: it travels to a device
/// by value.
///
///   domain                      the length domain
///   shape()                     extents
///   length(row)                 slots of a row; rows of one domain agree. Read by the backend, never written
///   keys(row), values(row)      its token_vectors; the two may have different element types
///   check()                     what the host can see: extents, missing pointers, alignment
///   num_parts(), part_bytes(i), part(row, i)  (optional, all three) what moves with a token: of each part so many
///                               bytes, from part(row, i)(slot) on, a std::byte*. Else its key and its value. For
///                               scales of tokens, and where a value is a part of its key's memory, which moves once
///   lengths()                   (optional) where the lengths of a domain stand, so that new ones are not written there
///   check_sequence(lanes, sequence)  (optional) what is wrong with data of a sequence that lies beside its tokens, as
///                               page tables do: a sequence_flag that it gets before any of its tokens is touched, or
///                               sequence_flag{}. A const template over lanes, who share the work: each, lanes.rank() of
///                               lanes.width(), answers for its own share. Lengths have been checked
///   is_shared(lanes, row, first)  (optional) whether a token of the row in the slots [first, length) stands where
///                               another sequence reads it too, and must not be written: asked before a row is cut by
///                               moving tokens. A template as above
///   most_pages(), tables_per_sequence(), list_freed(lanes, sequence, table, new_lengths, out)  (optional, all three)
///                               pages of a row as long as the capacity, tables of a sequence, and what freed_pages
///                               lists of one of them, 0 <= table < tables_per_sequence(): out.pages from (sequence *
///                               tables + table) * out.capacity on, their number in out.counts[sequence * tables +
///                               table] (by one lane, 0 too), and the same in out.value_pages if that is not null. A
///                               template as above. For freed_pages neither lengths nor tables have been checked
///   column(row)                 (optional) token_vectors of floats that scorers read as a token's column: see with_column
///   values_in_keys              (optional) static constexpr bool: values are a part of their keys' memory, so that who
///                               writes keys has written them
///   extent(values)              (optional) what the host can see of where keys (or values) stand: a token_extent
///   fixed_key_head_dim          (optional) static constexpr int, the key_head_dim of every shape() or 0: a device
///                               backend is compiled for this one alone
template <class Cache>
concept kv_cache = std::is_trivially_copyable_v<Cache> && requires(Cache const cache, row_index at) {
  { Cache::domain } -> std::convertible_to<length_domain>;
  { cache.shape() } -> std::convertible_to<cache_shape>;
  { cache.length(at) } -> std::convertible_to<int>;
  { cache.keys(at) } -> token_vectors;
  { cache.values(at) } -> token_vectors;
  { cache.check() } -> std::same_as<status>;
};

/// What a host sees of where keys or values of all rows stand.
struct token_extent {
  void const* first = nullptr;    ///< the array, or the layers' pointers to it; null: it sees nothing
  std::int64_t bytes = 0;         ///< that they fill without a gap; 0: not known
  void const* entries = nullptr;  ///< what else it takes to find them: page numbers

  /// Whether two of them are known to have memory in common.
  [[nodiscard]] bool overlaps(token_extent const& other) const {
    if (first == nullptr || other.first == nullptr) return false;
    auto const a = reinterpret_cast<std::uintptr_t>(first), b = reinterpret_cast<std::uintptr_t>(other.first);
    if (bytes == 0 || other.bytes == 0) return a == b && entries == other.entries;
    return a < b + static_cast<std::uintptr_t>(other.bytes) && b < a + static_cast<std::uintptr_t>(bytes);
  }
};

namespace detail {

template <class Cache>
using key_vectors = decltype(std::declval<Cache const&>().keys(row_index{}));
template <class Cache>
using value_vectors = decltype(std::declval<Cache const&>().values(row_index{}));
template <class Cache>
using key_element = typename key_vectors<Cache>::element_type;
template <class Cache>
using value_element = typename value_vectors<Cache>::element_type;

/// Whether elements are what is stored.
template <class Vectors>
FORESIGHTKV_HOST_DEVICE constexpr bool is_unscaled() {
  if constexpr (requires { requires std::bool_constant<Vectors::scale(0) == 1.0f>::value; }) return true;
  return false;
}
/// Whether every token has a scale of its own.
template <class Vectors>
FORESIGHTKV_HOST_DEVICE constexpr bool is_scaled_by_token() {
  if constexpr (is_unscaled<Vectors>()) return false;
  if constexpr (requires { requires Vectors::one_scale; }) return false;
  return true;
}

/// A scale in two factors: the row's, and that of a token of it. One of them is the constant 1.
template <class Vectors>
FORESIGHTKV_HOST_DEVICE constexpr float row_scale(Vectors const& vectors) {
  if constexpr (is_unscaled<Vectors>() || is_scaled_by_token<Vectors>())
    return 1.0f;
  else
    return vectors.scale(0);
}
template <class Vectors>
FORESIGHTKV_HOST_DEVICE constexpr float token_scale([[maybe_unused]] Vectors const& vectors,
                                                    [[maybe_unused]] int slot) {
  if constexpr (is_scaled_by_token<Vectors>())
    return vectors.scale(slot);
  else
    return 1.0f;
}

/// Addresses of a row's vectors without their type.
template <class Vectors>
struct vectors_place {
  Vectors vectors;
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::byte* operator()(int slot) const {
    return reinterpret_cast<std::byte*>(vectors.at(slot));
  }
};
template <class Vectors>
FORESIGHTKV_HOST_DEVICE auto place_of(Vectors const& vectors) {
  if constexpr (requires { vectors.place(); })
    return vectors.place();
  else
    return vectors_place<Vectors>{vectors};
}

/// Keys and values whose places have different types.
template <class KeyPlace, class ValuePlace>
struct either_place {
  KeyPlace key;
  ValuePlace value;
  bool of_key;
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::byte* operator()(int slot) const {
    return of_key ? key(slot) : value(slot);
  }
};

/// What moves with a token, part by part: what the cache says, or keys and values.
template <class Cache>
FORESIGHTKV_HOST_DEVICE int num_parts(Cache const& cache) {
  if constexpr (requires { cache.num_parts(); })
    return cache.num_parts();
  else
    return 2;
}
template <class Cache>
FORESIGHTKV_HOST_DEVICE int part_bytes(Cache const& cache, int part) {
  if constexpr (requires { cache.part_bytes(part); })
    return cache.part_bytes(part);
  else
    return part == 0 ? static_cast<int>(sizeof(key_element<Cache>)) * cache.shape().key_head_dim
                     : static_cast<int>(sizeof(value_element<Cache>)) * cache.shape().value_head_dim;
}
template <class Cache>
FORESIGHTKV_HOST_DEVICE auto part_place(Cache const& cache, row_index at, int part) {
  if constexpr (requires { cache.part(at, part); }) {
    return cache.part(at, part);
  } else {
    using key_place = decltype(place_of(cache.keys(at)));
    using value_place = decltype(place_of(cache.values(at)));
    if constexpr (std::same_as<key_place, value_place>)
      return part == 0 ? place_of(cache.keys(at)) : place_of(cache.values(at));
    else
      return either_place<key_place, value_place>{place_of(cache.keys(at)), place_of(cache.values(at)), part == 0};
  }
}

/// Whether a cache has pages that can become empty.
template <class Cache>
inline constexpr bool has_pages = requires(Cache const cache) {
  cache.most_pages();
  cache.tables_per_sequence();
};

/// Key dimension that a cache type fixes; 0 where it fixes none.
template <class Cache>
constexpr int fixed_key_head_dim() {
  if constexpr (requires { Cache::fixed_key_head_dim; }) return Cache::fixed_key_head_dim;
  return 0;
}

template <class Cache>
constexpr bool check_cache() {
  static_assert(kv_cache<Cache>,
                "foresightkv: a cache must be trivially copyable and have domain, shape(), length(row), keys(row), "
                "values(row) and status check(); keys and values have element_type, element_type* at(slot), not to "
                "const, and float scale(slot)");
  constexpr bool parts = requires(Cache const cache) { cache.num_parts(); };
  constexpr bool all_parts = requires(Cache const cache, row_index at) {
    cache.num_parts();
    cache.part_bytes(0);
    cache.part(at, 0);
  };
  static_assert(parts == all_parts, "foresightkv: a cache with num_parts() has part_bytes(i) and part(row, i) too");
  return kv_cache<Cache> && parts == all_parts;
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
