// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <foresightkv/detail/buffer.hpp>
#include <numbers>

namespace foresightkv::inline v0::training {

/// How the learning rate runs over the optimiser steps.
enum class schedule_kind : int {
  warm_up_cosine,        ///< rises to 1 over the warm-up, then half a cosine to `final_fraction`; not 0 before the end
  constant,              ///< 1
  published_supervised,  ///< as warm_up_cosine, but the first step has rate 0 and teaches nothing
  published_rl           ///< called a cosine there: warm-up to 1, one step at 1 + 1 / warm_up_steps, then 1 for ever
};

/// The learning rate over the steps of a training.
struct schedule_config {
  schedule_kind kind = schedule_kind::warm_up_cosine;
  double learning_rate = 1e-2;  ///< what 1 stands for
  int warm_up_steps = 10;
  int total_steps = 1000;
  double final_fraction = 0.0;  ///< of warm_up_cosine: where it would be at step total_steps

  [[nodiscard]] constexpr bool valid() const {
    return kind >= schedule_kind::warm_up_cosine && kind <= schedule_kind::published_rl && learning_rate >= 0.0 &&
           detail::is_finite(learning_rate) && warm_up_steps >= 0 && total_steps >= 0 && final_fraction >= 0.0 &&
           final_fraction <= 1.0;
  }
};

/// The published supervised training.
inline constexpr schedule_config published_supervised_schedule{schedule_kind::published_supervised, 1e-2, 10, 1000};
/// The published reinforcement learning.
inline constexpr schedule_config published_rl_schedule{schedule_kind::published_rl, 3e-4, 10, 250};

/// Learning rate of the optimiser step number `step`, counted from 0; steps outside [0, total_steps] count as
/// its ends.
[[nodiscard]] inline double learning_rate(schedule_config const& config, int step) {
  int const at = std::clamp(step, 0, std::max(config.total_steps, 0));
  double const warm_up = std::max(1, config.warm_up_steps);
  double fraction = 1.0;
  switch (config.kind) {
    case schedule_kind::warm_up_cosine:
    case schedule_kind::published_supervised: {
      bool const published = config.kind == schedule_kind::published_supervised;
      if (at < config.warm_up_steps) {
        fraction = (published ? at : at + 1) / warm_up;
        break;
      }
      double const progress =
          static_cast<double>(at - config.warm_up_steps) / std::max(1, config.total_steps - config.warm_up_steps);
      double const cosine = std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
      fraction = published ? cosine : config.final_fraction + (1.0 - config.final_fraction) * cosine;
      break;
    }
    case schedule_kind::published_rl:
      fraction = step <= config.warm_up_steps ? (at + 1) / warm_up : 1.0;
      break;
    case schedule_kind::constant:
      break;
  }
  return config.learning_rate * fraction;
}

/// KL weight of the published reinforcement learning at a step counted from 0: `weight` up to step 100, then
/// 0.
[[nodiscard]] constexpr double published_kl_weight(int step, double weight = 0.05) { return step > 100 ? 0.0 : weight; }

}  // namespace foresightkv::inline v0::training
