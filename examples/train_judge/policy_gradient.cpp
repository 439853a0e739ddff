// SPDX-License-Identifier: Apache-2.0
#include "policy_gradient.hpp"

#include <algorithm>
#include <foresightkv/io/safetensors.hpp>
#include <foresightkv/training/feature_replay.hpp>
#include <foresightkv/training/reward.hpp>
#include <foresightkv/training/rollout_gradient.hpp>

#include "shared_work.hpp"

namespace train_judge {
namespace {

namespace io = fkv::io;
namespace training = fkv::training;

/// One layer of a rollout as the policy gradient takes it; calls visit(recorded_rollout).
template <class Visit>
void visit_rollout(corpus const& all, rollout const& from, std::size_t layer, Visit&& visit) {
  auto const& own = from.layers[layer];
  std::visit(
      [&](auto const& recorded) {
        using key = std::remove_cvref_t<decltype(*recorded.keys)>;
        training::recorded_rollout<float, key> seen;
        seen.rows = {recorded.keys,         recorded.values,      own.positions.data(),
                     own.statistics.data(), from.steps,           from.config.candidates(0),
                     recorded.tokens,       recorded.key_strides, recorded.value_strides};
        seen.picked = own.evicted.data();
        seen.old_log_probs = own.log_probs.data();
        seen.picks = from.config.evictions(0);
        visit(seen);
      },
      all.sequences.front().layers[layer].view);
}

template <class Features>
void draw(options const& chosen, corpus const& all, rollout& out, std::uint32_t number, std::size_t layer,
          float const* weights) {
  auto& own = out.layers[layer];
  auto const& from = all.sequences.front().layers[layer];
  auto const host = fkv::host.threads(1);  // rollouts are drawn beside each other
  std::visit(
      [&](auto const& recorded) {
        std::vector<std::byte> scratch(training::feature_replay_bytes<Features>(host, out.config, recorded));
        training::replay_guide const guide{weights, true, chosen.seed, number};
        training::replay_output const output{own.positions.data(), own.statistics.data(), own.labels.data(),
                                             own.evicted.data(), own.evicted_positions.data()};
        require(training::feature_replay<Features>(host, out.config, recorded, from.scores, guide, output, scratch),
                "feature_replay");
      },
      from.view);
  visit_rollout(all, out, layer, [&](auto const& seen) {
    std::vector<std::byte> scratch(training::rollout_bytes(host, all.shape, seen));
    require(training::rollout_log_probs(host, all.shape, weights, seen, own.log_probs.data(), scratch),
            "rollout_log_probs");
  });
}

std::size_t layer_floats(corpus const& all) { return as_size(all.shape.num_kv_heads) * all.shape.head_floats(); }

}  // namespace

std::vector<rollout> draw_rollouts(options const& chosen, support::communicator const& world, corpus const& all,
                                   std::span<float const> weights) {
  rollout empty;
  empty.config = {chosen.eviction(), 0};
  empty.steps = empty.config.steps(all.sequences.front().train_tokens);
  auto const heads = as_size(all.shape.num_kv_heads);
  auto const candidates = heads * empty.config.candidates_before(empty.steps);
  auto const picks = heads * empty.config.evictions_before(empty.steps);
  empty.layers.resize(all.layers.size());
  for (auto& layer : empty.layers) {
    layer.positions.resize(candidates);
    layer.labels.resize(candidates);
    layer.statistics.resize(candidates * as_size(fkv::judge_shape::features * all.shape.group));
    for (auto* list : {&layer.evicted, &layer.evicted_positions}) list->resize(picks);
    layer.log_probs.resize(picks);
  }
  std::vector<rollout> drawn(as_size(chosen.rollouts), empty);
  auto const layers = all.layers.size();
  share_work(
      world, drawn.size() * layers, threads_of(chosen),
      [&](std::size_t task) {
        auto const layer = task % layers;
        auto const number = static_cast<std::uint32_t>(task / layers);
        float const* const own = weights.data() + layer * layer_floats(all);
        if (chosen.features == feature_set::paper)
          draw<fkv::paper>(chosen, all, drawn[number], number, layer, own);
        else
          draw<fkv::reference_checkpoint>(chosen, all, drawn[number], number, layer, own);
      },
      [&](std::size_t task, auto const& send) {
        auto& made = drawn[task / layers].layers[task % layers];
        for (auto* list : {&made.positions, &made.evicted, &made.evicted_positions}) send(std::span(*list));
        for (auto* list : {&made.statistics, &made.log_probs}) send(std::span(*list));
      });
  return drawn;
}

void save_rollouts(std::filesystem::path const& path, options const& chosen, corpus const& all,
                   std::vector<rollout> const& rollouts) {
  io::safetensors_writer file(path);
  auto const& first = rollouts.front();
  std::vector<std::vector<std::int32_t>> stored;  // the file's views point here until save
  for (std::size_t layer = 0; layer < all.layers.size(); ++layer) {
    auto& positions = stored.emplace_back();
    for (auto const& each : rollouts) {
      auto const& own = each.layers[layer].evicted_positions;
      positions.insert(positions.end(), own.begin(), own.end());
    }
  }
  for (std::size_t layer = 0; layer < all.layers.size(); ++layer)
    file.add("layer." + std::to_string(all.layers[layer]) + ".evicted_positions",
             {std::ssize(rollouts), first.steps, all.shape.num_kv_heads, first.config.evictions(0)}, stored[layer]);
  file.metadata("format", "foresightkv rollouts 1")
      .metadata("trace", all.sequences.front().name)
      .metadata("budget", std::to_string(chosen.budget))
      .metadata("interval", std::to_string(chosen.interval))
      .metadata("seed", std::to_string(chosen.seed))
      .save();
}

earnings read_losses(options const& chosen, std::filesystem::path const& path) {
  io::safetensors_file const file(path);
  auto const& evicted = file.at("loss_evicted").expect_shape({chosen.rollouts, io::tensor::any});
  auto const tokens = evicted.shape[1];
  auto const read = [&](char const* name) { return file.at(name).expect_shape({tokens}).expect_finite().to_float(); };
  auto const full = read("loss_full"), entropy = read("entropy");
  auto const losses = evicted.expect_finite().to_float();
  training::reward_config const config{.first_token = chosen.budget + chosen.interval};
  if (tokens <= config.first_token || tokens > 0x3fffffff)
    evicted.fail("has losses of " + std::to_string(tokens) + " tokens, and the first " +
                 std::to_string(config.first_token) + " see no eviction");
  training::reward_input const input{full.data(), losses.data(), entropy.data(), chosen.rollouts,
                                     static_cast<int>(tokens)};
  std::vector<training::reward_result> found(as_size(chosen.rollouts));
  std::vector<std::byte> scratch(training::rewards_bytes(fkv::host, config, input));
  require(training::rewards(fkv::host, config, input, found.data(), nullptr, scratch), "rewards");
  earnings earned;
  for (auto const& each : found) earned.rewards.push_back(each.reward);
  earned.advantages.resize(found.size());
  require(training::group_advantages(fkv::host, chosen.rollouts, earned.rewards.data(), earned.advantages.data()),
          "group_advantages");
  return earned;
}

policy_report policy_gradient(options const& chosen, support::communicator const& world, corpus const& all,
                              std::vector<rollout> const& rollouts, std::vector<double> const& advantages,
                              double kl_weight, std::span<float const> weights, std::span<float> gradient) {
  auto const layers = all.layers.size(), floats = layer_floats(all);
  auto const tasks = rollouts.size() * layers;
  std::vector<std::vector<float>> parts(tasks, std::vector<float>(floats));
  std::vector<training::grpo_result> results(tasks);
  share_work(
      world, tasks, threads_of(chosen),
      [&](std::size_t task) {
        auto const layer = task / rollouts.size(), number = task % rollouts.size();
        auto const host = fkv::host.threads(1);
        visit_rollout(all, rollouts[number], layer, [&](auto seen) {
          if (kl_weight > 0.0) seen.reference_log_probs = seen.old_log_probs;
          std::vector<std::byte> scratch(training::rollout_bytes(host, all.shape, seen));
          training::grpo_config const config{.kl_weight = kl_weight,
                                             .scale = 1.0 / static_cast<double>(rollouts.size())};
          require(training::rollout_gradient(host, config, all.shape, weights.data() + layer * floats, seen,
                                             advantages[number], parts[task].data(), &results[task], scratch),
                  "rollout_gradient");
        });
      },
      [&](std::size_t task, auto const& send) {
        send(std::span(parts[task]));
        send(std::span(&results[task], 1));
      });
  policy_report report;
  for (std::size_t task = 0; task < tasks; ++task) {
    float* const sum = gradient.data() + task / rollouts.size() * floats;
    for (std::size_t i = 0; i < floats; ++i) sum[i] += parts[task][i];
    report.loss += results[task].loss / static_cast<double>(layers);
    report.kl += results[task].kl / static_cast<double>(tasks);
    report.clipped += results[task].clipped / static_cast<double>(tasks);
  }
  return report;
}

}  // namespace train_judge
