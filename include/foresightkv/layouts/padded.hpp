// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/layouts/strided.hpp>

namespace foresightkv::inline v0 {

/// Strided tokens of sequences that begin behind pads of their own: slot s of a sequence is token starts[sequence] + s
/// of its array.
struct padded_strides {
  cache_strides strides{};
  std::int32_t const* starts = nullptr;  ///< [num_sequences] pads; data of the backend

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::int64_t in_layer(row_index at) const {
    return strides.in_layer(at) + starts[at.sequence] * strides.token;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::int64_t of(row_index at) const {
    return at.layer * strides.layer + in_layer(at);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr strided_map map(row_index at) const { return strides.map(at); }

  [[nodiscard]] constexpr std::int64_t elements(cache_shape const& shape, int head_dim) const {
    return strides.elements(shape, head_dim);
  }
  [[nodiscard]] status check(cache_shape const& shape, int head_dim, bool by_layer) const {
    return detail::first_of(detail::check_buffer(starts).at(argument::starts),
                            strides.check(shape, head_dim, by_layer));
  }
};

}  // namespace foresightkv::inline v0
