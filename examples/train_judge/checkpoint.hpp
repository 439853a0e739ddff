// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "trainer.hpp"

namespace train_judge {

/// Where a training stands between two steps.
struct checkpoint {
  int step = 0;  ///< steps done
  trainer::memory memory;
  std::vector<std::vector<float>> judges;  ///< of each round so far: whose replays that round trains on
  std::string metrics;                     ///< lines so far
};

/// Appears whole. Throws `io::error`.
void save_checkpoint(std::filesystem::path const& path, std::string const& identity, checkpoint const& what);

/// Empty if the file is not there. Throws `io::error`, or `input_error` where it belongs to another training.
/// floats: weights of all layers.
[[nodiscard]] std::optional<checkpoint> load_checkpoint(std::filesystem::path const& path, std::string const& identity,
                                                        std::size_t floats);

}  // namespace train_judge
