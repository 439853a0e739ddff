// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <foresightkv/io/judge_weights.hpp>
#include <optional>

#include "calls.hpp"

namespace binding {

/// The judges of a model as they are trained: packed weights that stay where they are. Python's Judge.
class judge_object {
 public:
  judge_object(fkv::judge_shape const& shape, std::optional<std::vector<int>> const& layers);
  explicit judge_object(fkv::io::judge_file const& file);

  /// In the published layout, the layers that there are.
  [[nodiscard]] fkv::io::judge_file file() const;

  fkv::judge_shape shape;
  std::vector<float> packed;  ///< [layer][kv_head][inputs + 3][16]
  std::vector<int> layers;    ///< numbers of the layers that have a judge, ascending
  fkv::io::metadata_map metadata;
};

void bind_judge(nb::module_& module);

}  // namespace binding
