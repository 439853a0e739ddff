// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/caches/laid_out.hpp>
#include <foresightkv/layouts/strided.hpp>

namespace foresightkv::inline v0 {

/// Keys and values in strided arrays: one allocation, or one per layer.
/// \tparam Keys, Values  element types, or storages: plain, scaled_by_tensor, scaled_by_head, scaled_by_token; values also
///                       within_keys
/// \tparam KeyHeadDim    where it is known at compile time; 0: a device backend is compiled for several
template <class Keys, class Values = Keys, length_domain Domain = length_domain::sequence, int KeyHeadDim = 0>
struct dense_cache
    : laid_out_cache<dense_cache<Keys, Values, Domain, KeyHeadDim>, Keys, Values, cache_strides, Domain, KeyHeadDim> {
  using base = laid_out_cache<dense_cache, Keys, Values, cache_strides, Domain, KeyHeadDim>;
  using typename base::key_element;
  using typename base::value_element;

  /// Keys and values as [layer][sequence][kv_head][capacity][head_dim].
  [[nodiscard]] static constexpr dense_cache hnd(key_element* keys, value_element* values, std::int32_t const* lengths,
                                                 cache_shape const& shape) {
    return base::make(keys, values, lengths, shape, [&](int dim) { return cache_strides::hnd(shape, dim); });
  }
  /// Keys and values as [layer][sequence][capacity][kv_head][head_dim].
  [[nodiscard]] static constexpr dense_cache nhd(key_element* keys, value_element* values, std::int32_t const* lengths,
                                                 cache_shape const& shape) {
    return base::make(keys, values, lengths, shape, [&](int dim) { return cache_strides::nhd(shape, dim); });
  }
  /// Of values within_keys: the elements [first, first + value_head_dim) of the keys, which stand as hnd has them.
  [[nodiscard]] static constexpr dense_cache latent(key_element* data, std::int32_t const* lengths,
                                                    cache_shape const& shape,
                                                    int first = 0) requires base::values_in_keys {
    return hnd(data, data + first, lengths, shape);
  }
};

/// A cache of latent rows, one array.
template <class Keys, length_domain Domain = length_domain::sequence, int KeyHeadDim = 0>
using latent_cache =
    dense_cache<Keys, within_keys<typename detail::storage_of<Keys>::type::element_type>, Domain, KeyHeadDim>;

}  // namespace foresightkv::inline v0
