// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <foresightkv/io/label_shard.hpp>
#include <foresightkv/io/trace.hpp>
#include <vector>

#include "options.hpp"

namespace golden_labels {

/// One file of labels that is to be made.
struct work {
  int trace = 0;  ///< index among the traces
  int layer = 0;
};

struct work_plan {
  std::vector<work> missing;  ///< by trace, then by layer
  int finished = 0;           ///< files that are there already
};

/// Opens every trace and every file of labels that is there. Throws, before anything is written, if a trace
/// cannot be labelled or a file holds labels of another kind. Then makes the folder and clears away what
/// killed runs left.
[[nodiscard]] work_plan make_plan(options const& chosen);

/// Opens a trace by its index. Throws if it is bad or too short.
[[nodiscard]] fkv::io::trace open_trace(options const& chosen, int index);

[[nodiscard]] std::filesystem::path shard_path(options const& chosen, work const& unit);

[[nodiscard]] fkv::io::label_source source_of(options const& chosen, fkv::io::trace const& trace, work const& unit);

}  // namespace golden_labels
