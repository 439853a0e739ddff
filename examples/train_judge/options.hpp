// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <foresightkv/config.hpp>
#include <foresightkv/training/clip.hpp>
#include <foresightkv/training/judge_initialisation.hpp>
#include <foresightkv/training/schedule.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "support/command_line.hpp"

namespace train_judge {

namespace fkv = foresightkv;
using support::input_error;

/// Which eight statistics the judge reads.
enum class feature_set : int { paper, reference_checkpoint };

/// The command line.
struct options {
  std::vector<std::filesystem::path> traces;
  std::vector<std::filesystem::path> held_out_traces;
  std::filesystem::path labels;  ///< folder of golden_labels
  std::filesystem::path out;
  std::filesystem::path weights;  ///< to begin with
  std::vector<std::filesystem::path> compare;

  int budget = 256;
  int interval = 64;
  std::optional<int> recent;  ///< default: the interval
  std::vector<int> layers;    ///< default: all that were recorded
  std::vector<int> from;      ///< default: budget + interval
  std::optional<int> to;      ///< default: the whole trace
  int held_out = 0;           ///< last tokens of each trace

  int rollouts = 0;  ///< above 0: the policy gradient in place of ranking
  std::filesystem::path losses;

  int steps = 1000;
  int batch = 32;
  int rounds = 0;  ///< 0: five, or one per step where there are fewer
  double on_policy = 0.75;
  fkv::training::judge_start start = fkv::training::judge_start::window_sum;
  feature_set features = feature_set::paper;
  bool statistics_only = false;
  bool standardise = true;
  double deviation = 0.02;
  double margin = 0.01;
  int shifts = 0;
  double rate = 1e-2;
  fkv::training::schedule_kind schedule = fkv::training::schedule_kind::warm_up_cosine;
  int warm_up = 10;
  double clip = 1.0;
  fkv::training::clip_scope clip_scope = fkv::training::clip_scope::layer;
  std::uint64_t seed = 0;

  int threads = 0;  ///< 0: as many as OpenMP likes
  int measure_every = 100;
  int checkpoint_every = 100;
  bool resume = false;
  bool help = false;

  [[nodiscard]] fkv::eviction_config eviction() const {
    return {.budget = budget, .interval = interval, .recent_tokens = recent.value_or(interval)};
  }
  [[nodiscard]] fkv::training::schedule_config schedule_config() const {
    return {.kind = schedule, .learning_rate = rate, .warm_up_steps = warm_up, .total_steps = steps};
  }
  /// Every option that the weights or the metrics depend on, one a line: what a checkpoint is of.
  [[nodiscard]] std::string identity() const;
};

/// Throws `input_error` for everything that can be seen to be wrong without the traces.
[[nodiscard]] options parse_options(std::span<char const* const> arguments);

[[nodiscard]] std::string help_text();

}  // namespace train_judge
