// SPDX-License-Identifier: Apache-2.0
#include "policy_training.hpp"

#include <algorithm>
#include <foresightkv/io/file.hpp>
#include <foresightkv/training/adam.hpp>
#include <foresightkv/training/clip.hpp>
#include <foresightkv/training/schedule.hpp>
#include <nlohmann/json.hpp>

#include "judges.hpp"
#include "policy_gradient.hpp"

namespace train_judge {
namespace {

namespace io = fkv::io;
namespace training = fkv::training;
using json = nlohmann::ordered_json;

/// Adam's memory beside the weights.
struct optimiser {
  std::vector<float> weights, mean, square;
};

/// One step; the same arithmetic on every process. Returns the line of the metrics.
json take_step(options const& chosen, support::communicator const& world, corpus const& all,
               std::vector<rollout> const& rollouts, std::vector<double> const& advantages, int step,
               optimiser& state) {
  std::vector<float> gradient(state.weights.size());
  auto const found = policy_gradient(chosen, world, all, rollouts, advantages, training::published_kl_weight(step),
                                     state.weights, gradient);
  auto const host = fkv::host.threads(threads_of(chosen));
  std::vector<double> norms(all.layers.size());
  training::clip_result clipped;
  require(training::clip_gradient(host, {.max_norm = chosen.clip, .scope = chosen.clip_scope}, all.shape,
                                  gradient.data(), norms.data(), &clipped),
          "clip_gradient");
  double const rate = training::learning_rate(chosen.schedule_config(), step);
  if (clipped.not_finite_layers == 0)
    require(training::adam_step(host, {}, rate, step + 1, gradient.data(),
                                training::adam_state<float>{state.weights.data(), state.mean.data(),
                                                            state.square.data(), gradient.size()}),
            "adam_step");
  return {{"step", step},
          {"loss", found.loss},
          {"kl", found.kl},
          {"clipped_picks", found.clipped},
          {"learning_rate", rate},
          {"gradient_norm", clipped.norm},
          {"clip_rate", static_cast<double>(clipped.clipped_layers) / static_cast<double>(all.layers.size())}};
}

}  // namespace

void run_policy_training(options const& chosen, support::communicator const& world, progress const& report,
                         std::string& summary) {
  corpus all;
  std::vector<float> first;
  earnings earned;
  report(0.0, "reading");
  support::together(world, [&] {
    all = open_corpus(chosen);
    first = first_weights(chosen, all);
    if (!chosen.losses.empty()) earned = read_losses(chosen, chosen.losses);
    if (support::same_file(chosen.out / "weights.safetensors", chosen.weights))
      throw input_error("refusing to replace the input " + chosen.weights.string());
    std::error_code problem;
    if (world.first()) std::filesystem::create_directories(chosen.out, problem);
  });
  find_labels(chosen, world, all);
  report(0.0, "drawing rollouts");
  auto const rollouts = draw_rollouts(chosen, world, all, first);
  support::together(world, [&] {
    if (world.first()) save_rollouts(chosen.out / "rollouts.safetensors", chosen, all, rollouts);
  });
  summary = (chosen.out / "rollouts.safetensors").string() + ": " + std::to_string(rollouts.size()) + " rollouts of " +
            std::to_string(rollouts.front().steps) + " evictions\n";
  if (chosen.losses.empty()) {
    if (!world.first()) summary.clear();
    return;
  }
  optimiser state{first, std::vector<float>(first.size()), std::vector<float>(first.size())};
  std::string metrics = json{{"rewards", earned.rewards}, {"advantages", earned.advantages}}.dump() + "\n";
  for (int step = 0; step < chosen.steps; ++step) {
    metrics += take_step(chosen, world, all, rollouts, earned.advantages, step, state).dump() + "\n";
    report(static_cast<double>(step + 1) / chosen.steps, "policy gradient");
  }
  support::together(world, [&] {
    if (!world.first()) return summary.clear();
    save_weights(chosen.out / "weights.safetensors", chosen, all, state.weights);
    io::output_file out(chosen.out / "metrics.jsonl");
    out.write(metrics);
    out.commit();
    summary += (chosen.out / "weights.safetensors").string() + ": " + std::to_string(chosen.steps) + " steps\n";
  });
}

}  // namespace train_judge
