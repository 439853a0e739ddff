// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/cache.hpp>
#include <foresightkv/layouts/strided.hpp>
#include <foresightkv/storages/plain.hpp>
#include <foresightkv/storages/scaled_by_head.hpp>
#include <foresightkv/storages/scaled_by_token.hpp>
#include <foresightkv/storages/within_keys.hpp>
#include <type_traits>

namespace foresightkv::inline v0 {

namespace detail {

/// An element type stands for itself, stored plainly.
template <class Storage>
struct storage_of {
  using type = Storage;
};
template <element Element>
struct storage_of<Element> {
  using type = plain<Element>;
};

/// Of what is no storage, anything: it has been said already.
template <class Storage>
struct element_of {
  using type = float;
};
template <element_storage Storage>
struct element_of<Storage> {
  using type = typename Storage::element_type;
};

}  // namespace detail

/// Keys and values in strided arrays: one allocation, or one per layer.
/// \tparam Keys, Values  element types, or storages: plain, scaled_by_head, scaled_by_token; values also within_keys
/// \tparam KeyHeadDim    where it is known at compile time; 0: a device backend is compiled for several
template <class Keys, class Values = Keys, length_domain Domain = length_domain::sequence, int KeyHeadDim = 0>
struct dense_cache {
  using key_storage = typename detail::storage_of<Keys>::type;
  using value_storage = typename detail::storage_of<Values>::type;
  static constexpr bool can_be_read = element_storage<key_storage> && element_storage<value_storage>;
  static_assert(
      can_be_read,
      "foresightkv: dense_cache takes types with an element_traits (float, half, bfloat16, float8_e4m3, or your own: "
      "specialise element_traits for it), or storages of them such as scaled_by_head<float8_e4m3>");
  using key_element = typename detail::element_of<key_storage>::type;
  using value_element = typename detail::element_of<value_storage>::type;
  static constexpr length_domain domain = Domain;
  static constexpr int fixed_key_head_dim = KeyHeadDim;
  static constexpr bool values_in_keys = requires { value_storage::moves_with_key; };

  key_element* key_data = nullptr;      ///< null where key_layers is given
  value_element* value_data = nullptr;  ///< null where value_layers is given
  std::int32_t const* row_lengths = nullptr;
  cache_shape extents{};
  cache_strides key_strides{};
  cache_strides value_strides{};
  key_element* const* key_layers = nullptr;      ///< [num_layers] base pointers, readable by the backend
  value_element* const* value_layers = nullptr;  ///< [num_layers]
  key_storage stored_keys{};
  value_storage stored_values{};

  /// Keys and values as [layer][sequence][kv_head][capacity][head_dim].
  [[nodiscard]] static constexpr dense_cache hnd(key_element* keys, value_element* values, std::int32_t const* lengths,
                                                 cache_shape const& shape) {
    return strided(keys, values, lengths, shape, &cache_strides::hnd);
  }
  /// Keys and values as [layer][sequence][capacity][kv_head][head_dim].
  [[nodiscard]] static constexpr dense_cache nhd(key_element* keys, value_element* values, std::int32_t const* lengths,
                                                 cache_shape const& shape) {
    return strided(keys, values, lengths, shape, &cache_strides::nhd);
  }

  /// The same cache with its scales. By head: [layer][kv_head]. By token: laid out as the tokens are, without the last
  /// extent, and moved with them.
  template <class Scale>
  [[nodiscard]] constexpr dense_cache with_key_scales(Scale* scales) const requires requires(key_storage storage) {
    storage.scales = scales;
  }
  {
    dense_cache cache = *this;
    cache.stored_keys.scales = scales;
    return cache;
  }
  template <class Scale>
  [[nodiscard]] constexpr dense_cache with_value_scales(Scale* scales) const requires requires(value_storage storage) {
    storage.scales = scales;
  }
  {
    dense_cache cache = *this;
    cache.stored_values.scales = scales;
    return cache;
  }
  template <class Scale>
  [[nodiscard]] constexpr dense_cache with_scales(Scale* key_scales, Scale* value_scales) const {
    return with_key_scales(key_scales).with_value_scales(value_scales);
  }

  /// Of values within_keys: the elements [first, first + value_head_dim) of the keys, which stand as hnd has them.
  [[nodiscard]] static constexpr dense_cache latent(key_element* data, std::int32_t const* lengths,
                                                    cache_shape const& shape, int first = 0) requires values_in_keys {
    dense_cache cache = hnd(data, data + first, lengths, shape);
    cache.value_strides = cache.key_strides;
    return cache;
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr cache_shape const& shape() const { return extents; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::int32_t const* lengths() const { return row_lengths; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int length(row_index at) const {
    return row_lengths[detail::length_index(Domain, extents, at)];
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr strided_vectors<key_storage> keys(row_index at) const {
    return {start(key_data, key_layers, key_strides, at), static_cast<int>(key_strides.token),
            stored_keys.of_row(extents, at)};
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr strided_vectors<value_storage> values(row_index at) const {
    return {start(value_data, value_layers, value_strides, at), static_cast<int>(value_strides.token),
            stored_values.of_row(extents, at)};
  }
  /// For engines: elements of one token.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr key_element* key(row_index at, int slot) const {
    return keys(at).at(slot);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr value_element* value(row_index at, int slot) const {
    return values(at).at(slot);
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static constexpr int num_parts() {
    return 1 + !values_in_keys + (key_storage::token_bytes > 0) + (value_storage::token_bytes > 0);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int part_bytes(int index) const {
    if (index == 0) return static_cast<int>(sizeof(key_element)) * extents.key_head_dim;
    if (index == 1 && !values_in_keys) return static_cast<int>(sizeof(value_element)) * extents.value_head_dim;
    return is_key_scale(index) ? key_storage::token_bytes : value_storage::token_bytes;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE strided_place part(row_index at, int index) const {
    if (index == 0) return keys(at).place();
    if (index == 1 && !values_in_keys) return values(at).place();
    if constexpr (key_storage::token_bytes > 0)
      if (is_key_scale(index)) return stored_keys.of_row(extents, at).place();
    if constexpr (value_storage::token_bytes > 0) return stored_values.of_row(extents, at).place();
    return {};
  }

  [[nodiscard]] status check() const {
    using detail::check_that;
    bool const sound = extents.valid() && (KeyHeadDim == 0 || extents.key_head_dim == KeyHeadDim);
    status const checked = detail::first_of(
        check_that(sound, errc::invalid_shape, argument::cache_shape),
        detail::check_buffer(row_lengths).at(argument::lengths),
        check_that(key_data != nullptr || key_layers != nullptr, errc::null_pointer, argument::keys),
        check_that(value_data != nullptr || value_layers != nullptr, errc::null_pointer, argument::values),
        detail::check_aligned(key_data, key_layers).at(argument::keys),
        detail::check_aligned(value_data, value_layers).at(argument::values), stored_keys.check(),
        stored_values.check(),
        check_that(fits(key_strides, extents.key_head_dim, key_layers != nullptr), errc::invalid_shape, argument::keys),
        check_that(fits(value_strides, extents.value_head_dim, value_layers != nullptr), errc::invalid_shape,
                   argument::values));
    if constexpr (values_in_keys) {
      static_assert(std::same_as<key_element, value_element>,
                    "foresightkv: values within keys have the keys' element type");
      bool const inside =
          value_data >= key_data && value_data + extents.value_head_dim <= key_data + extents.key_head_dim;
      return detail::first_of(checked,
                              check_that(key_layers != nullptr || inside, errc::invalid_shape, argument::values));
    }
    return checked;
  }

 private:
  using make_strides = cache_strides (*)(cache_shape const&, int);

  static constexpr dense_cache strided(key_element* keys, value_element* values, std::int32_t const* lengths,
                                       cache_shape const& shape, make_strides strides_of) {
    dense_cache cache;
    cache.key_data = keys;
    cache.value_data = values;
    cache.row_lengths = lengths;
    cache.extents = shape;
    cache.key_strides = strides_of(shape, shape.key_head_dim);
    cache.value_strides = strides_of(shape, shape.value_head_dim);
    if constexpr (key_storage::token_bytes > 0) cache.stored_keys.strides = strides_of(shape, 1);
    if constexpr (value_storage::token_bytes > 0) cache.stored_values.strides = strides_of(shape, 1);
    return cache;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static constexpr bool is_key_scale(int part) {
    return key_storage::token_bytes > 0 && part == (values_in_keys ? 1 : 2);
  }
  template <class Element>
  FORESIGHTKV_HOST_DEVICE static constexpr Element* start(Element* base, Element* const* layers,
                                                          cache_strides const& strides, row_index at) {
    return (layers == nullptr ? base + at.layer * strides.layer : layers[at.layer]) + strides.in_layer(at);
  }
  [[nodiscard]] bool fits(cache_strides const& strides, int head_dim, bool per_layer) const {
    constexpr std::int64_t longest = 0x7fffffff / 8;  // elements between tokens: their bytes fit an int
    return (extents.capacity == 1 || strides.token >= head_dim) && strides.token >= 0 && strides.token <= longest &&
           (extents.num_kv_heads == 1 || strides.kv_head >= head_dim) &&
           (extents.num_sequences == 1 || strides.sequence >= head_dim) && strides.sequence >= 0 &&
           (extents.num_layers == 1 || per_layer || strides.layer >= head_dim) && strides.layer >= 0;
  }
};

/// A cache of latent rows, one array.
template <class Keys, length_domain Domain = length_domain::sequence, int KeyHeadDim = 0>
using latent_cache =
    dense_cache<Keys, within_keys<typename detail::storage_of<Keys>::type::element_type>, Domain, KeyHeadDim>;

}  // namespace foresightkv::inline v0
