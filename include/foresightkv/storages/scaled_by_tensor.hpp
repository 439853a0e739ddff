// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/storage.hpp>

namespace foresightkv::inline v0 {

/// A scale per layer, of its whole tensor, as vLLM's fp8 caches have them (k_scale, v_scale): stored * scale = element.
template <element Element>
struct scaled_by_tensor {
  using element_type = Element;
  static constexpr int token_bytes = 0;

  float const* scales = nullptr;  ///< [layer]; null: 1

  struct row {
    static constexpr bool one_scale = true;
    float factor = 1.0f;
    [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr float scale(int) const { return factor; }
  };
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr row of_row(cache_shape const&, row_index at) const {
    return {scales == nullptr ? 1.0f : scales[at.layer]};
  }
  [[nodiscard]] status check() const { return detail::check_aligned(scales).at(argument::scales); }
};

}  // namespace foresightkv::inline v0
