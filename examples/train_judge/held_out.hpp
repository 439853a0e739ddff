// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "../evict_trace/measures.hpp"
#include "corpus.hpp"

namespace train_judge {

/// What a policy lost on the held-out tokens, layer by layer.
struct held_out_loss {
  std::vector<evict_trace::loss> layers;

  [[nodiscard]] evict_trace::loss total() const {
    evict_trace::loss sum;
    for (auto const& layer : layers) sum += layer;
    return sum;
  }
};

/// Measures policies on tokens that are not trained on, as evict_trace does: by its own replay, through
/// `evict`.
class held_out {
 public:
  held_out(options const& chosen, support::communicator const& world, corpus const& all);

  [[nodiscard]] bool empty() const { return places_.empty(); }

  /// Collective: judges of the corpus' layers, packed.
  [[nodiscard]] held_out_loss measure(std::span<float const> weights) const;
  /// Collective: `window_sum`, and golden itself.
  [[nodiscard]] held_out_loss measure_window_sum() const;
  [[nodiscard]] held_out_loss measure_golden() const;

 private:
  /// One layer of one sequence that has tokens to measure on.
  struct place {
    sequence const* from = nullptr;
    std::size_t layer = 0;
  };
  /// What this process needs again and again for one place.
  struct prepared {
    fkv::io::trace_layer layer;
    evict_trace::golden_table golden;
    evict_trace::setting given;
  };

  template <class Replay>
  held_out_loss measure_with(Replay const& replay) const;

  options const& chosen_;
  support::communicator const& world_;
  corpus const& all_;
  std::vector<place> places_;
  std::vector<std::unique_ptr<prepared>> prepared_;  // [places]; null where another process measures
};

}  // namespace train_judge
