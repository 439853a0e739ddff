// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <foresightkv/layouts/strided.hpp>
#include <foresightkv/storage.hpp>

namespace foresightkv::inline v0 {

/// A scale per token and KV head, as int8 and fp8 caches with dynamic quantisation have them: stored * scale = element.
/// The scale moves with its token.
template <element Element>
struct scaled_by_token {
  using element_type = Element;
  static constexpr int token_bytes = sizeof(float);

  float* scales = nullptr;
  cache_strides strides{};  ///< of scales, as those of tokens: cache_strides::hnd(shape, 1) or nhd(shape, 1)

  struct row {
    float* first = nullptr;
    int stride = 0;
    [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr float scale(int slot) const {
      return first[std::int64_t{slot} * stride];
    }
    [[nodiscard]] FORESIGHTKV_HOST_DEVICE strided_place place() const {
      return {reinterpret_cast<std::byte*>(first), stride * static_cast<int>(sizeof(float))};
    }
  };
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr row of_row(cache_shape const&, row_index at) const {
    return {scales + strides.of(at), static_cast<int>(strides.token)};
  }
  [[nodiscard]] status check() const { return detail::check_buffer(scales).at(argument::scales); }
};

}  // namespace foresightkv::inline v0
