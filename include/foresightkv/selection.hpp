// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <foresightkv/execution.hpp>

namespace foresightkv::inline v0 {

/// The lists that `select` writes and `compact` reads, rows in cache_shape order. A row's lists are ascending and
/// unique; its kept list has length - evicted_count entries (empty slots are in neither list). Pointers that are null
/// are not written; `compact` needs the first three.
struct selection {
  std::int32_t* kept = nullptr;               ///< [rows][capacity] slots
  std::int32_t* evicted = nullptr;            ///< [rows][capacity] slots
  std::int32_t* evicted_count = nullptr;      ///< [rows]
  std::int32_t* evicted_positions = nullptr;  ///< [rows][capacity] positions of the evicted tokens, in slot order
  int capacity = 0;                           ///< entries per row, at least the longest row

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::size_t at(int row) const {
    return static_cast<std::size_t>(row) * static_cast<std::size_t>(capacity);
  }
};

/// Scores of rows: data[row][slot], rows in cache_shape order; higher = keep.
struct score_view {
  float* data = nullptr;
  int capacity = 0;  ///< entries per row, at least the longest row

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr float* row(int index) const {
    return data + static_cast<std::size_t>(index) * static_cast<std::size_t>(capacity);
  }
};

}  // namespace foresightkv::inline v0
