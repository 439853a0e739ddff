// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <foresightkv/training/replay_config.hpp>

#include "recorded.hpp"

namespace binding {

/// Keywords of feature_replay beside the layer, the scores and the weights.
struct replay_settings {
  fkv::training::replay_config config{};
  int first_block = 2;
  bool sampled = false;
  std::uint64_t seed = 0;
  std::uint32_t rollout = 0;
  std::string features;
};

/// The caches that one layer passed through, step after step: Python's Replay.
class replay_object {
 public:
  replay_object(nb::object layer, replay_settings const& settings, input_array const& future,
                std::optional<input_array> const& weights, int threads);

  [[nodiscard]] int steps() const { return steps_; }
  [[nodiscard]] fkv::training::replay_config const& config() const { return settings_.config; }
  [[nodiscard]] layer_view const& layer() const { return nb::cast<layer_view const&>(layer_); }
  [[nodiscard]] nb::object const& layer_object() const { return layer_; }

  /// Where the arrays of a step begin.
  [[nodiscard]] std::int32_t* positions(int step) { return positions_.data() + candidates_before(step); }
  [[nodiscard]] float* labels(int step) { return labels_.data() + candidates_before(step); }
  [[nodiscard]] float* statistics(int step) { return statistics_.data() + candidates_before(step) * width_; }
  [[nodiscard]] std::int32_t* evicted(int step) { return evicted_.data() + evictions_before(step); }
  [[nodiscard]] std::int32_t* evicted_positions(int step) { return evicted_positions_.data() + evictions_before(step); }

 private:
  [[nodiscard]] std::size_t candidates_before(int step) const { return heads_ * config().candidates_before(step); }
  [[nodiscard]] std::size_t evictions_before(int step) const { return heads_ * config().evictions_before(step); }

  nb::object layer_;
  replay_settings settings_;
  int steps_ = 0;
  std::size_t heads_ = 0, width_ = 0;
  std::vector<std::int32_t> positions_, evicted_, evicted_positions_;
  std::vector<float> statistics_, labels_;
};

void bind_replay(nb::module_& module);

}  // namespace binding
