// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/cache.hpp>
#include <foresightkv/layout.hpp>
#include <foresightkv/storages/plain.hpp>
#include <foresightkv/storages/scaled_by_head.hpp>
#include <foresightkv/storages/scaled_by_tensor.hpp>
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

/// A storage whose scales have a layout takes that of the cache.
template <class Storage, class Layout>
struct storage_laid_out {
  using type = Storage;
};
template <class Storage, class Layout>
requires requires { typename Storage::template with_layout<Layout>; }
struct storage_laid_out<Storage, Layout> {
  using type = typename Storage::template with_layout<Layout>;
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

/// A layout of tokens and storages of keys and values, together a cache: what dense_cache and paged_cache are made of,
/// and a cache of a layout of one's own.
/// \tparam Self          the cache type that derives from this one
/// \tparam Keys, Values  element types, or storages: plain, scaled_by_tensor, scaled_by_head, scaled_by_token; values also
///                       within_keys
/// \tparam Layout        see token_layout
/// \tparam KeyHeadDim    where it is known at compile time; 0: a device backend is compiled for several
template <class Self, class Keys, class Values, token_layout Layout, length_domain Domain, int KeyHeadDim>
struct laid_out_cache {
  using layout_type = Layout;
  using key_storage = typename detail::storage_laid_out<typename detail::storage_of<Keys>::type, Layout>::type;
  using value_storage = typename detail::storage_laid_out<typename detail::storage_of<Values>::type, Layout>::type;
  static constexpr bool can_be_read = element_storage<key_storage> && element_storage<value_storage>;
  static_assert(
      can_be_read,
      "foresightkv: a cache takes types with an element_traits (float, half, bfloat16, float8_e4m3, or your own: "
      "specialise element_traits for it), or storages of them such as scaled_by_head<float8_e4m3>");
  using key_element = typename detail::element_of<key_storage>::type;
  using value_element = typename detail::element_of<value_storage>::type;
  using map_type = decltype(std::declval<Layout const&>().map(row_index{}));
  static constexpr length_domain domain = Domain;
  static constexpr int fixed_key_head_dim = KeyHeadDim;
  static constexpr bool values_in_keys = requires { value_storage::moves_with_key; };

  key_element* key_data = nullptr;      ///< null where key_layers is given
  value_element* value_data = nullptr;  ///< null where value_layers is given
  std::int32_t const* row_lengths = nullptr;
  cache_shape extents{};
  Layout key_layout{};
  Layout value_layout{};
  key_element* const* key_layers = nullptr;      ///< [num_layers] base pointers, readable by the backend
  value_element* const* value_layers = nullptr;  ///< [num_layers]
  key_storage stored_keys{};
  value_storage stored_values{};

  /// The same cache with its scales. By tensor: [layer]. By head: [layer][kv_head]. By token: laid out as the tokens are, without the last
  /// extent, and moved with them.
  template <class Scale>
  [[nodiscard]] constexpr Self with_key_scales(Scale* scales) const requires requires(key_storage storage) {
    storage.scales = scales;
  }
  {
    Self cache = self();
    cache.stored_keys.scales = scales;
    return cache;
  }
  template <class Scale>
  [[nodiscard]] constexpr Self with_value_scales(Scale* scales) const requires requires(value_storage storage) {
    storage.scales = scales;
  }
  {
    Self cache = self();
    cache.stored_values.scales = scales;
    return cache;
  }
  template <class Scale>
  [[nodiscard]] constexpr Self with_scales(Scale* key_scales, Scale* value_scales) const {
    return with_key_scales(key_scales).with_value_scales(value_scales);
  }
  /// The same cache with memory of its own for each layer: [num_layers] base pointers, readable by the backend.
  [[nodiscard]] constexpr Self with_layers(key_element* const* keys, value_element* const* values) const {
    Self cache = self();
    cache.key_data = nullptr;
    cache.value_data = nullptr;
    cache.key_layers = keys;
    cache.value_layers = values;
    return cache;
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr cache_shape const& shape() const { return extents; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::int32_t const* lengths() const { return row_lengths; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int length(row_index at) const {
    return row_lengths[detail::length_index(Domain, extents, at)];
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr laid_out_vectors<key_storage, map_type> keys(row_index at) const {
    return {start(key_data, key_layers, key_layout, at), key_layout.map(at), stored_keys.of_row(extents, at)};
  }
  /// Values within keys are scaled as these are.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr auto values(row_index at) const {
    using storage = std::conditional_t<values_in_keys, key_storage, value_storage>;
    auto* const first = start(value_data, value_layers, value_layout, at);
    if constexpr (values_in_keys)
      return laid_out_vectors<storage, map_type>{first, value_layout.map(at), stored_keys.of_row(extents, at)};
    else
      return laid_out_vectors<storage, map_type>{first, value_layout.map(at), stored_values.of_row(extents, at)};
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
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE token_place<map_type> part(row_index at, int index) const {
    if (index == 0) return keys(at).place();
    if (index == 1 && !values_in_keys) return values(at).place();
    if constexpr (key_storage::token_bytes > 0)
      if (is_key_scale(index)) return stored_keys.of_row(extents, at).place();
    if constexpr (value_storage::token_bytes > 0) return stored_values.of_row(extents, at).place();
    return {};
  }

  [[nodiscard]] token_extent extent(bool values) const {
    return values ? extent_of(value_data, value_layers, value_layout, extents.value_head_dim)
                  : extent_of(key_data, key_layers, key_layout, extents.key_head_dim);
  }
  [[nodiscard]] status check() const {
    return detail::first_of(check_shape(), detail::check_buffer(row_lengths).at(argument::lengths), check_tokens());
  }

 protected:
  [[nodiscard]] status check_shape() const {
    bool const sound = extents.valid() && (KeyHeadDim == 0 || extents.key_head_dim == KeyHeadDim);
    return detail::check_that(sound, errc::invalid_shape, argument::cache_shape);
  }
  [[nodiscard]] status check_tokens() const {
    using detail::check_that;
    status const checked = detail::first_of(
        check_that(key_data != nullptr || key_layers != nullptr, errc::null_pointer, argument::keys),
        check_that(value_data != nullptr || value_layers != nullptr, errc::null_pointer, argument::values),
        detail::check_aligned(key_data, key_layers).at(argument::keys),
        detail::check_aligned(value_data, value_layers).at(argument::values), stored_keys.check(),
        stored_values.check(),
        key_layout.check(extents, extents.key_head_dim, key_layers != nullptr).at(argument::keys),
        value_layout.check(extents, extents.value_head_dim, value_layers != nullptr).at(argument::values));
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

  /// A cache of tokens that layout_of(elements to a token) lays out, scales too.
  template <class LayoutOf>
  static constexpr Self make(key_element* keys, value_element* values, std::int32_t const* lengths,
                             cache_shape const& shape, LayoutOf const& layout_of) {
    Self cache;
    cache.key_data = keys;
    cache.value_data = values;
    cache.row_lengths = lengths;
    cache.extents = shape;
    cache.key_layout = layout_of(shape.key_head_dim);
    cache.value_layout = values_in_keys ? cache.key_layout : layout_of(shape.value_head_dim);
    if constexpr (key_storage::token_bytes > 0) cache.stored_keys.layout = layout_of(1);
    if constexpr (value_storage::token_bytes > 0) cache.stored_values.layout = layout_of(1);
    return cache;
  }

 private:
  [[nodiscard]] constexpr Self const& self() const { return static_cast<Self const&>(*this); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static constexpr bool is_key_scale(int part) {
    return key_storage::token_bytes > 0 && part == (values_in_keys ? 1 : 2);
  }
  template <class Element>
  [[nodiscard]] token_extent extent_of(Element const* data, Element* const* layers, Layout const& layout,
                                       int dim) const {
    token_extent seen;
    seen.first = data == nullptr ? static_cast<void const*>(layers) : data;
    if constexpr (requires { layout.elements(extents, dim); })
      if (data != nullptr) seen.bytes = layout.elements(extents, dim) * static_cast<std::int64_t>(sizeof(Element));
    if constexpr (requires { layout.entries(); }) seen.entries = layout.entries();
    return seen;
  }
  template <class Element>
  FORESIGHTKV_HOST_DEVICE static constexpr Element* start(Element* base, Element* const* layers, Layout const& layout,
                                                          row_index at) {
    return layers == nullptr ? base + layout.of(at) : layers[at.layer] + layout.in_layer(at);
  }
};

}  // namespace foresightkv::inline v0
