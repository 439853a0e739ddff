// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/storage.hpp>

namespace foresightkv::inline v0 {

/// Elements are what is stored.
template <element Element>
struct plain {
  using element_type = Element;
  static constexpr int token_bytes = 0;

  struct row {
    FORESIGHTKV_HOST_DEVICE static constexpr float scale(int) { return 1.0f; }
  };
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static constexpr row of_row(cache_shape const&, row_index) { return {}; }
  [[nodiscard]] static status check() { return {}; }
};

}  // namespace foresightkv::inline v0
