// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <vector>

#include "corpus.hpp"

namespace train_judge {

/// Judges to begin with, packed: those of the file, or new ones. Throws `input_error` or `io::error`.
[[nodiscard]] std::vector<float> first_weights(options const& chosen, corpus const& all);

/// Writes packed judges under their published names, shapes and orientation.
void save_weights(std::filesystem::path const& path, options const& chosen, corpus const& all,
                  std::vector<float> const& packed);

}  // namespace train_judge
