// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/caches/laid_out.hpp>
#include <foresightkv/layouts/padded.hpp>
#include <foresightkv/sequence_flag.hpp>

namespace foresightkv::inline v0 {

/// A batch of sequences that are padded on the left, in one tensor: pads are no tokens, and a sequence's first token has
/// position 0. Rows shrink at their end: after an eviction row s takes the tokens [starts[s], starts[s] + length) of its
/// array. A sequence whose pads and tokens do not fit the capacity is flagged (bad_length) and left alone.
/// \tparam Keys, Values  element types, or storages: plain, scaled_by_tensor, scaled_by_head, scaled_by_token; values also
///                       within_keys
/// \tparam KeyHeadDim    where it is known at compile time; 0: a device backend is compiled for several
template <class Keys, class Values = Keys, length_domain Domain = length_domain::sequence, int KeyHeadDim = 0>
struct padded_cache
    : laid_out_cache<padded_cache<Keys, Values, Domain, KeyHeadDim>, Keys, Values, padded_strides, Domain, KeyHeadDim> {
  using base = laid_out_cache<padded_cache, Keys, Values, padded_strides, Domain, KeyHeadDim>;
  using typename base::key_element;
  using typename base::value_element;

  /// Keys and values as [layer][sequence][kv_head][capacity][head_dim].
  /// \param starts   [num_sequences] pads in front of each sequence
  /// \param lengths  by the length domain, without pads
  [[nodiscard]] static constexpr padded_cache hnd(key_element* keys, value_element* values, std::int32_t const* starts,
                                                  std::int32_t const* lengths, cache_shape const& shape) {
    return base::make(keys, values, lengths, shape, [&](int dim) {
      return padded_strides{cache_strides::hnd(shape, dim), starts};
    });
  }
  /// Keys and values as [layer][sequence][capacity][kv_head][head_dim].
  [[nodiscard]] static constexpr padded_cache nhd(key_element* keys, value_element* values, std::int32_t const* starts,
                                                  std::int32_t const* lengths, cache_shape const& shape) {
    return base::make(keys, values, lengths, shape, [&](int dim) {
      return padded_strides{cache_strides::nhd(shape, dim), starts};
    });
  }

  template <class Lanes>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE sequence_flag check_sequence(Lanes const& lanes, int sequence) const {
    std::int32_t const start = this->key_layout.starts[sequence];
    cache_shape const& shape = this->extents;
    bool fits = start >= 0;
    for (int index = lanes.rank(); index < shape.num_layers * shape.num_kv_heads; index += lanes.width()) {
      row_index const at{index / shape.num_kv_heads, sequence, index % shape.num_kv_heads};
      fits = fits && start <= shape.capacity - this->length(at);
    }
    return fits ? sequence_flag{} : sequence_flag::bad_length;
  }
};

}  // namespace foresightkv::inline v0
