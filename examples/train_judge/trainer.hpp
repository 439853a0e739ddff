// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "corpus.hpp"
#include "replays.hpp"

namespace train_judge {

/// What one optimiser step did.
struct step_report {
  double loss = 0.0;  ///< mean over layers, samples and KV heads
  double rate = 0.0;
  double gradient_norm = 0.0;  ///< of all layers together, before clipping
  double clip_rate = 0.0;      ///< share of the layers that were scaled down
  int skipped = 0;             ///< 1: a gradient was not finite, and no weight moved
};

/// Judges in training, the same on every process, and the optimiser's memory, which process 0 alone keeps up.
class trainer {
 public:
  /// Begins with packed judges of the corpus' layers, which read raw inputs. `teacher` is what the inputs are
  /// standardised by, if they are.
  trainer(options const& chosen, support::communicator const& world, corpus const& all,
          std::vector<replay> const& teacher, std::vector<float> const& first);

  /// Collective: one step over a batch. Gradients are summed sample after sample in a fixed order of parts,
  /// so that neither processes nor threads show in the weights.
  step_report step(int number, std::vector<replay> const& replays, std::span<sample const> batch);

  /// Packed judges that read raw inputs: the published form.
  [[nodiscard]] std::vector<float> const& weights() const { return folded_; }

  /// Weights as they are trained, and Adam's two means, each packed.
  struct memory {
    std::vector<float> trained, mean, square;
  };
  [[nodiscard]] memory const& state() const { return memory_; }
  void restore(memory state);

 private:
  struct part_report {
    double loss = 0.0;
  };

  [[nodiscard]] std::size_t layer_floats() const;
  void measure_inputs(std::vector<replay> const& teacher);
  void fold();
  void silence_tokens(float* weights) const;
  part_report run_part(int number, std::vector<replay> const& replays, std::span<sample const> batch, std::size_t layer,
                       std::size_t first, std::size_t last, float* gradient) const;
  step_report finish(int number, std::size_t batch, std::size_t parts, std::span<float const> gradients,
                     std::span<part_report const> reports);

  options const& chosen_;
  support::communicator const& world_;
  corpus const& all_;
  memory memory_;
  std::vector<float> folded_;
  std::vector<float> input_mean_, input_deviation_;  // [layers][kv_heads][inputs]; empty: raw inputs
};

}  // namespace train_judge
