// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "options.hpp"
#include "policies.hpp"

namespace evict_trace {

/// What a policy lost at one budget, over all layers and heads.
struct policy_result {
  policy_entry const* policy = nullptr;
  double attention_recall = 0.0;
  double output_error = 0.0;
  std::optional<double> golden_overlap;  ///< none where nothing is evicted
  std::size_t cache_bytes = 0;           ///< largest keys and values of a layer
  double bytes_moved = 0.0;              ///< mean per eviction and layer
  double microseconds = 0.0;             ///< median per eviction and layer
};

struct budget_result {
  setting given;
  std::vector<policy_result> policies;
};

/// What one policy kept in one layer.
struct kept_map {
  int layer = 0;
  record what;
};

struct experiment {
  std::string trace;  ///< the file's name without its folders
  fkv::io::trace_shape shape;
  std::vector<int> layers;
  std::vector<budget_result> budgets;       ///< the chosen budget first, then those of the curves
  std::vector<std::vector<kept_map>> maps;  ///< [policy][layer] at the chosen budget, if the page was asked for
  std::vector<std::string> notes;

  [[nodiscard]] budget_result const& chosen() const { return budgets.front(); }
};

/// Called as work gets done: how much of it, and what it is at.
using progress = std::function<void(double done, std::string const& what)>;

/// Replays every policy on every layer and measures what was lost. Throws `input_error` or `io::error`.
[[nodiscard]] experiment run_experiment(options const& chosen, progress const& report);

}  // namespace evict_trace
