// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <foresightkv/cache.hpp>
#include <type_traits>

namespace foresightkv::inline v0 {

/// Where the tokens of one row stand in an array of tokens, each of whose elements are contiguous.
///   map(slot)      elements from the row's first address to the token's, a std::int64_t
///   times(bytes)   the same map with distances in bytes, of elements of that many
///   distances()    all distances or-ed: bits that are clear are clear in every map(slot)
///   steady(slot)   how many tokens from this slot on stand step() apart
template <class Map>
concept token_map = std::is_trivially_copyable_v<Map> && requires(Map const map, int slot) {
  { map(slot) } -> std::same_as<std::int64_t>;
  { map.times(2) } -> std::same_as<Map>;
  { map.distances() } -> std::convertible_to<std::int64_t>;
  { map.steady(slot) } -> std::same_as<int>;
  { map.step() } -> std::convertible_to<std::int64_t>;
};

/// How a cache lays out its keys, its values, or one scale per token.
///   of(row), in_layer(row)      elements from the array, or from its layer, to the row's first address
///   map(row)                    its token_map
///   check(shape, dim, by_layer) what the host can see, of elements `dim` to a token; by_layer: layers have a pointer
///                               each
///   elements(shape, dim)        (optional) what its tokens fill without a gap, from the array on; 0: there are gaps
///   entries()                   (optional) what else says where tokens stand: a pointer to page numbers
template <class Layout>
concept token_layout = std::is_trivially_copyable_v<Layout> &&
    requires(Layout const layout, cache_shape const shape, row_index at) {
  { layout.of(at) } -> std::same_as<std::int64_t>;
  { layout.in_layer(at) } -> std::same_as<std::int64_t>;
  { layout.map(at) } -> token_map;
  { layout.check(shape, 1, false) } -> std::same_as<status>;
};

/// Bytes of a row's tokens.
template <token_map Map>
struct token_place {
  std::byte* first = nullptr;
  Map map{};  // bytes

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::byte* operator()(int slot) const { return first + map(slot); }
  /// The same for what stands so many bytes further on.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE token_place behind(int bytes) const { return {first + bytes, map}; }
  /// How many tokens from this slot on stand step() bytes apart.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int steady(int slot) const { return map.steady(slot); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::int64_t step() const { return map.step(); }
  /// Whether all addresses are multiples of a power of two.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE bool aligned_to(int bytes) const {
    return ((reinterpret_cast<std::uintptr_t>(first) | static_cast<std::uintptr_t>(map.distances())) &
            static_cast<std::uintptr_t>(bytes - 1)) == 0;
  }
};

namespace detail {

template <class Element, class Map>
FORESIGHTKV_HOST_DEVICE token_place<Map> bytes_of(Element* first, Map const& map) {
  return {reinterpret_cast<std::byte*>(first), map.times(static_cast<int>(sizeof(Element)))};
}

}  // namespace detail

/// The token_vectors of a row: of what a storage says of scales, and where a layout has the tokens.
template <class Storage, token_map Map>
struct laid_out_vectors {
  using element_type = typename Storage::element_type;
  using storage_row = typename Storage::row;

  element_type* first = nullptr;
  Map map{};
  [[no_unique_address]] storage_row storage{};

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr element_type* at(int slot) const { return first + map(slot); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE token_place<Map> place() const { return detail::bytes_of(first, map); }

  // What the storage says of scales, word for word: a constant stays one.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static constexpr float scale(int slot) requires requires {
    storage_row::scale(0);
  } &&(std::is_empty_v<storage_row>) {
    return storage_row::scale(slot);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr float scale(int slot) const requires(!std::is_empty_v<storage_row>) {
    return storage.scale(slot);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr float* scale_at(int slot) const requires
      requires(storage_row const row) {
    row.scale_at(0);
  }
  { return storage.scale_at(slot); }
  static constexpr bool one_scale = requires { requires storage_row::one_scale; };
};

}  // namespace foresightkv::inline v0
