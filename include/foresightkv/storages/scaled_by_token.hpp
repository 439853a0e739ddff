// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <foresightkv/layouts/strided.hpp>
#include <foresightkv/storage.hpp>

namespace foresightkv::inline v0 {

/// A scale per token and KV head, as int8 and fp8 caches with dynamic quantisation have them: stored * scale = element.
/// The scale moves with its token.
/// \tparam Layout  of the scales; a cache puts its own in place of this one
template <element Element, token_layout Layout = cache_strides>
struct scaled_by_token {
  using element_type = Element;
  using map_type = decltype(std::declval<Layout const&>().map(row_index{}));
  template <token_layout Other>
  using with_layout = scaled_by_token<Element, Other>;
  static constexpr int token_bytes = sizeof(float);

  float* scales = nullptr;
  Layout layout{};  ///< of scales, as that of tokens with a head_dim of 1

  struct row {
    float* first = nullptr;
    map_type map{};
    [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr float scale(int slot) const { return first[map(slot)]; }
    [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr float* scale_at(int slot) const { return first + map(slot); }
    [[nodiscard]] FORESIGHTKV_HOST_DEVICE token_place<map_type> place() const { return detail::bytes_of(first, map); }
  };
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr row of_row(cache_shape const&, row_index at) const {
    return {scales + layout.of(at), layout.map(at)};
  }
  [[nodiscard]] status check() const { return detail::check_buffer(scales).at(argument::scales); }
};

}  // namespace foresightkv::inline v0
