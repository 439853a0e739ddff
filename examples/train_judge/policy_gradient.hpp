// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "corpus.hpp"

namespace train_judge {

/// Rollouts of one trace: sampled evictions of the same judges, the same on every process and in every run
/// with the same seed.
struct rollout {
  fkv::training::replay_config config;
  int steps = 0;
  struct layer {
    std::vector<std::int32_t> positions, evicted, evicted_positions;
    std::vector<float> statistics, labels, log_probs;
  };
  std::vector<layer> layers;
};

/// Collective: draws them, shared out over the processes. weights: packed judges of the layers.
[[nodiscard]] std::vector<rollout> draw_rollouts(options const& chosen, support::communicator const& world,
                                                 corpus const& all, std::span<float const> weights);

/// What a language model has to evict in each rollout: `layer.{i}.evicted_positions` I32
/// [rollouts, steps, kv_heads, interval].
void save_rollouts(std::filesystem::path const& path, options const& chosen, corpus const& all,
                   std::vector<rollout> const& rollouts);

/// What each rollout earned, and that relative to the others.
struct earnings {
  std::vector<double> rewards, advantages;  // [rollouts]
};

/// From the losses of a language model that ran with the evictions: `loss_full` and `entropy` [tokens],
/// `loss_evicted` [rollouts, tokens]. Throws `input_error` or `io::error`.
[[nodiscard]] earnings read_losses(options const& chosen, std::filesystem::path const& path);

/// What the policy gradient of all layers and rollouts came to.
struct policy_report {
  double loss = 0.0, kl = 0.0, clipped = 0.0;  ///< means over layers
};

/// Collective: adds the gradient by the packed judges, in a fixed order, and says on every process what it
/// came to. The judges that drew the rollouts are also those to stay close to; kl_weight 0: none are.
[[nodiscard]] policy_report policy_gradient(options const& chosen, support::communicator const& world,
                                            corpus const& all, std::vector<rollout> const& rollouts,
                                            std::vector<double> const& advantages, double kl_weight,
                                            std::span<float const> weights, std::span<float> gradient);

}  // namespace train_judge
