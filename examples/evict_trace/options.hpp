// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "support/command_line.hpp"

namespace evict_trace {

using support::input_error;

enum class device_choice { automatic, host, cuda };

/// The command line.
struct options {
  std::filesystem::path trace;
  int budget = 256;
  int interval = 64;
  std::optional<int> recent;          ///< default: the interval
  std::vector<std::string> policies;  ///< default: all
  std::vector<int> layers;            ///< default: all that were recorded
  std::optional<int> from;            ///< default and least: budget + interval
  std::optional<int> to;              ///< default: the whole trace
  std::filesystem::path weights;
  int page_size = 0;                                ///< tokens of a page; 0: a row is one piece
  device_choice device = device_choice::automatic;  ///< where evictions run
  std::uint64_t seed = 0;
  int threads = 0;  ///< 0: one to evict, as many as OpenMP likes to measure
  std::filesystem::path json;
  std::filesystem::path html;
  bool help = false;
};

/// Throws `input_error` for everything that can be seen to be wrong without the trace.
[[nodiscard]] options parse_options(std::span<char const* const> arguments);

[[nodiscard]] std::string help_text();

}  // namespace evict_trace
