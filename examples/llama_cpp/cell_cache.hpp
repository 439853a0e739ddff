// SPDX-License-Identifier: Apache-2.0
// libllama's cells as a cache of ours: keys and values are read where they stand, and only numbers of cells move.
#pragma once

#include <cstddef>
#include <cstdint>
#include <foresightkv/foresightkv.hpp>

#include "graph_watcher.hpp"

namespace llama_cpp {

namespace fkv = foresightkv;

/// Keys or values of a row, whose token in slot s is in cell cells[s].
struct cell_vectors {
  using element_type = fkv::half;
  cell_tensor tensor;
  std::ptrdiff_t of_head;
  std::int32_t const* cells;

  [[nodiscard]] fkv::half* at(int slot) const {
    return reinterpret_cast<fkv::half*>(tensor.first + of_head + cells[slot] * tensor.cell);
  }
  [[nodiscard]] static constexpr float scale(int) { return 1.0f; }
};

/// One sequence. A cell keeps its token until libllama frees it, so the slots of a row are a list of cells, and what
/// moves with a token when a row is compacted is its entry there. Each row has a list of its own, as rows are compacted
/// one by one; all of them stay alike.
struct cell_cache {
  static constexpr fkv::length_domain domain = fkv::length_domain::sequence;
  fkv::cache_shape extents;
  cell_tensor const* key_tensors = nullptr;  // [layer]
  cell_tensor const* value_tensors = nullptr;
  std::int32_t* cells = nullptr;  // [row][capacity]
  std::int32_t const* token_count = nullptr;

  [[nodiscard]] fkv::cache_shape const& shape() const { return extents; }
  [[nodiscard]] std::int32_t const* lengths() const { return token_count; }
  [[nodiscard]] int length(fkv::row_index) const { return *token_count; }
  [[nodiscard]] cell_vectors keys(fkv::row_index at) const { return vectors(key_tensors[at.layer], at); }
  [[nodiscard]] cell_vectors values(fkv::row_index at) const { return vectors(value_tensors[at.layer], at); }

  [[nodiscard]] static int num_parts() { return 1; }
  [[nodiscard]] static int part_bytes(int) { return sizeof(std::int32_t); }
  [[nodiscard]] auto part(fkv::row_index at, int) const {
    return [list = list_of(at)](int slot) { return reinterpret_cast<std::byte*>(list + slot); };
  }
  [[nodiscard]] fkv::status check() const { return {}; }

 private:
  [[nodiscard]] std::int32_t* list_of(fkv::row_index at) const {
    return cells + static_cast<std::ptrdiff_t>(extents.row(at)) * extents.capacity;
  }
  [[nodiscard]] cell_vectors vectors(cell_tensor const& tensor, fkv::row_index at) const {
    return {tensor, at.kv_head * tensor.kv_head, list_of(at)};
  }
};

}  // namespace llama_cpp
