// SPDX-License-Identifier: Apache-2.0
#include "replays.hpp"

#include <foresightkv/training/feature_replay.hpp>

#include "shared_work.hpp"

namespace train_judge {
namespace {

namespace training = fkv::training;

template <class Features>
void run_replay(training::replay_config const& config, sequence_layer const& from, float const* weights,
                replayed_layer& out) {
  std::visit(
      [&](auto const& recorded) {
        auto const host = fkv::host.threads(1);  // replays run beside each other
        std::vector<std::byte> scratch(training::feature_replay_bytes<Features>(host, config, recorded));
        training::replay_output const output{out.positions.data(), out.statistics.data(), out.labels.data(), nullptr,
                                             nullptr};
        require(training::feature_replay<Features>(host, config, recorded, from.scores, {.weights = weights}, output,
                                                   scratch),
                "feature_replay");
      },
      from.view);
}

/// What there is to replay, and room for what comes out.
std::vector<replay> plan_replays(options const& chosen, corpus const& all) {
  std::vector<replay> planned;
  auto const starts = chosen.from.empty() ? std::vector<int>{0} : chosen.from;
  for (std::size_t number = 0; number < all.sequences.size(); ++number)
    for (int const start : starts) {
      replay made;
      made.sequence = number;
      made.config = {chosen.eviction(), start};
      made.steps = made.config.steps(all.sequences[number].train_tokens);
      if (made.steps == 0) continue;
      auto const count = as_size(all.shape.num_kv_heads) * made.config.candidates_before(made.steps);
      made.layers.resize(all.layers.size());
      for (auto& layer : made.layers) {
        layer.positions.resize(count);
        layer.labels.resize(count);
        layer.statistics.resize(count * as_size(fkv::judge_shape::features * all.shape.group));
      }
      planned.push_back(std::move(made));
    }
  return planned;
}

}  // namespace

std::vector<replay> make_replays(options const& chosen, support::communicator const& world, corpus const& all,
                                 std::span<float const> weights) {
  auto replays = plan_replays(chosen, all);
  auto const layers = all.layers.size();
  auto const layer_floats = as_size(all.shape.num_kv_heads) * all.shape.head_floats();
  share_work(
      world, replays.size() * layers, threads_of(chosen),
      [&](std::size_t task) {
        auto& made = replays[task / layers];
        auto const layer = task % layers;
        auto const& from = all.sequences[made.sequence].layers[layer];
        float const* const own = weights.empty() ? nullptr : weights.data() + layer * layer_floats;
        if (chosen.features == feature_set::paper)
          run_replay<fkv::paper>(made.config, from, own, made.layers[layer]);
        else
          run_replay<fkv::reference_checkpoint>(made.config, from, own, made.layers[layer]);
      },
      [&](std::size_t task, auto const& send) {
        auto& made = replays[task / layers].layers[task % layers];
        send(std::span(made.positions));
        send(std::span(made.statistics));
        send(std::span(made.labels));
      });
  return replays;
}

}  // namespace train_judge
