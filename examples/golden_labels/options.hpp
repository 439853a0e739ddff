// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <foresightkv/golden/config.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "support/command_line.hpp"

namespace golden_labels {

namespace fkv = foresightkv;
using support::input_error;

/// The command line.
struct options {
  std::vector<std::filesystem::path> traces;
  std::filesystem::path out;
  fkv::golden_config config{.budget = 256, .interval = 64};
  std::vector<int> layers;  ///< default: all that were recorded
  std::optional<int> to;    ///< default: the whole trace
  int threads = 0;          ///< 0: as many as OpenMP likes
  bool force = false;
  bool help = false;
};

/// Throws `input_error` for everything that can be seen to be wrong without the traces.
[[nodiscard]] options parse_options(std::span<char const* const> arguments);

[[nodiscard]] std::string help_text();

}  // namespace golden_labels
