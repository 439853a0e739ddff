// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace train_judge {

/// What a training says of itself, step by step.
struct run_curves {
  struct point {
    double step = 0.0;
    double value = 0.0;
  };
  /// On the held-out tokens.
  struct measured {
    double output_error = 0.0;
    double attention_recall = 0.0;
  };

  std::string name;
  std::vector<point> loss, rate, clip_rate;  ///< of each step
  std::vector<point> output_error, lost;     ///< lost: 1 - attention recall
  std::optional<measured> golden, window_sum;
};

/// Throws `input_error` for lines that train_judge did not write; `name` says whose they are.
[[nodiscard]] run_curves read_curves(std::string_view metrics, std::string name);

/// Those of the training in a folder.
[[nodiscard]] run_curves load_curves(std::filesystem::path const& folder);

/// The curves of some trainings as one picture.
[[nodiscard]] std::string svg(std::vector<run_curves> const& runs);

/// One HTML page that needs nothing else. options: one a line, of the first training.
[[nodiscard]] std::string page(std::vector<run_curves> const& runs, std::string const& options);

/// A few lines for the terminal.
[[nodiscard]] std::string summary_of(run_curves const& run, std::string const& weights);

}  // namespace train_judge
