// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "corpus.hpp"

namespace train_judge {

/// What one replay of a layer met: see fkv::training::replay_output.
struct replayed_layer {
  std::vector<std::int32_t> positions;
  std::vector<float> statistics;
  std::vector<float> labels;
};

/// One replay of one sequence.
struct replay {
  std::size_t sequence = 0;  ///< of the corpus
  fkv::training::replay_config config;
  int steps = 0;
  std::vector<replayed_layer> layers;
};

/// One eviction of all layers and KV heads.
struct sample {
  std::uint32_t replay = 0;
  std::uint32_t step = 0;
};

/// A set of samples to draw from.
class sample_pool {
 public:
  void add(std::uint32_t replay, int steps) {
    for (int step = 0; step < steps; ++step) samples_.push_back({replay, static_cast<std::uint32_t>(step)});
  }
  [[nodiscard]] std::uint32_t size() const { return static_cast<std::uint32_t>(samples_.size()); }
  [[nodiscard]] sample operator[](std::uint32_t index) const { return samples_[index]; }

 private:
  std::vector<sample> samples_;
};

/// Collective: replays every sequence from every start, shared out over the processes. weights: packed judges
/// of the layers, whose evictions are followed; empty: golden's.
[[nodiscard]] std::vector<replay> make_replays(options const& chosen, support::communicator const& world,
                                               corpus const& all, std::span<float const> weights);

/// The rows of one sample in one layer, as `judge_forward` takes them; calls visit(rows, labels).
template <class Visit>
void visit_rows(corpus const& all, replay const& from, int step, std::size_t layer, Visit&& visit) {
  auto const& rows_of = from.layers[layer];
  auto const before = as_size(all.shape.num_kv_heads) * from.config.candidates_before(step);
  auto const width = as_size(fkv::judge_shape::features * all.shape.group);
  std::visit(
      [&](auto const& recorded) {
        using key = std::remove_cvref_t<decltype(*recorded.keys)>;
        fkv::training::judge_rows<key> const rows{recorded.keys,
                                                  recorded.values,
                                                  rows_of.positions.data() + before,
                                                  rows_of.statistics.data() + before * width,
                                                  1,
                                                  from.config.candidates(step),
                                                  recorded.tokens,
                                                  recorded.key_strides,
                                                  recorded.value_strides};
        visit(rows, rows_of.labels.data() + before);
      },
      all.sequences[from.sequence].layers[layer].view);
}

}  // namespace train_judge
