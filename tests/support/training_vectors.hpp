// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <foresightkv/io/safetensors.hpp>
#include <foresightkv/judge.hpp>
#include <foresightkv/training/adam.hpp>
#include <foresightkv/training/clip.hpp>
#include <foresightkv/training/grpo.hpp>
#include <foresightkv/training/judge_gradient.hpp>
#include <foresightkv/training/ranking_hinge.hpp>
#include <foresightkv/training/reward.hpp>
#include <foresightkv/training/schedule.hpp>

#include "support/vector_file.hpp"

/// Checks of the vector sets hinge* and grpo*. Stored scores, targets and weights are in drop orientation;
/// the library works with keep scores, so signs change at the edges of these functions.
namespace testing {

namespace training_vectors {

namespace training = fkv::training;

/// A workspace of the size that a verb asks for.
class scratch {
 public:
  explicit scratch(std::size_t bytes) : memory_(bytes) {}
  [[nodiscard]] fkv::workspace view() { return {memory_.data(), memory_.size()}; }

 private:
  std::vector<std::byte> memory_;
};

inline std::vector<float> negated(std::vector<float> values) {
  for (float& value : values) value = -value;
  return values;
}

/// What lies between commas.
inline std::vector<std::string> words(std::string const& text) {
  std::vector<std::string> found;
  for (std::size_t from = 0; from <= text.size();) {
    auto const comma = std::min(text.find(',', from), text.size());
    found.push_back(text.substr(from, comma - from));
    from = comma + 1;
  }
  return found;
}

/// The largest difference relative to the largest expected value.
inline double relative_to_largest(std::vector<float> const& got, std::vector<float> const& expected) {
  REQUIRE(got.size() == expected.size());
  worst_difference difference;
  double largest = 0.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    difference.add(static_cast<double>(got[i]), static_cast<double>(expected[i]));
    largest = std::max(largest, std::fabs(static_cast<double>(expected[i])));
  }
  return largest == 0.0 ? difference.value() : difference.value() / largest;
}

inline void check_close(std::vector<float> const& got, std::vector<float> const& expected, double tolerance) {
  REQUIRE(got.size() == expected.size());
  worst_difference difference;
  for (std::size_t i = 0; i < got.size(); ++i)
    difference.add(static_cast<double>(got[i]), static_cast<double>(expected[i]));
  CHECK(difference.value() <= tolerance);
}

inline void check_relative(double got, double expected, double tolerance) {
  CHECK(std::fabs(got - expected) <= tolerance * std::fabs(expected));
}

// --- hinge_values
// ----------------------------------------------------------------------------------------------------

inline void check_hinge_values(vector_file const& file) {
  double const tolerance = file.number("tol_grad_abs");
  for (std::string const& name : words(file.text("cases"))) {
    CAPTURE(name);
    int const rows = file.extent(name + ".model_score", 0), candidates = file.extent(name + ".model_score", 1);
    auto const model = file.floats(name + ".model_score", {rows, candidates});
    auto const target = file.floats(name + ".target_score", {rows, candidates});
    auto const expected = file.floats(name + ".grad", {rows, candidates});
    training::hinge_config config;
    config.margin = file.number("margin");
    // The loss does not care about the orientation, as long as it is the same for both.
    for (bool const keep : {false, true}) {
      CAPTURE(keep);
      auto const scores = keep ? negated(model) : model, labels = keep ? negated(target) : target;
      training::ranking_rows<float> const input{scores.data(), labels.data(), rows, candidates};
      scratch memory(training::ranking_hinge_bytes(fkv::host, input));
      std::vector<float> gradient(scores.size());
      training::hinge_result result;
      REQUIRE(training::ranking_hinge(fkv::host, config, input, gradient.data(), &result, memory.view()).ok());
      check_relative(result.loss, static_cast<double>(file.floats(name + ".loss", {1})[0]),
                     file.number("tol_loss_rel"));
      check_close(keep ? negated(gradient) : gradient, expected, tolerance);
    }
  }
}

// --- judges of a vector file
// -----------------------------------------------------------------------------------------

/// The four published tensors of one layer.
struct published_layer {
  std::vector<float> fc1_weight, fc1_bias, fc2_weight, fc2_bias;

  explicit published_layer(fkv::judge_shape const& shape)
      : fc1_weight(static_cast<std::size_t>(shape.num_kv_heads * shape.inputs() * fkv::judge_shape::hidden)),
        fc1_bias(static_cast<std::size_t>(shape.num_kv_heads * fkv::judge_shape::hidden)),
        fc2_weight(fc1_bias.size()),
        fc2_bias(static_cast<std::size_t>(shape.num_kv_heads)) {}
  published_layer(vector_file const& file, std::string const& prefix, fkv::judge_shape const& shape)
      : fc1_weight(file.floats(prefix + "fc1.weight", {shape.num_kv_heads, shape.inputs(), fkv::judge_shape::hidden})),
        fc1_bias(file.floats(prefix + "fc1.bias", {shape.num_kv_heads, fkv::judge_shape::hidden})),
        fc2_weight(file.floats(prefix + "fc2.weight", {shape.num_kv_heads, fkv::judge_shape::hidden, 1})),
        fc2_bias(file.floats(prefix + "fc2.bias", {shape.num_kv_heads, 1})) {}
};

/// Packed weights of one layer.
inline std::vector<float> pack(vector_file const& file, std::string const& prefix, fkv::judge_shape shape) {
  shape.num_layers = 1;
  published_layer const stored(file, prefix, shape);
  fkv::judge_layer const layer{stored.fc1_weight.data(), stored.fc1_bias.data(), stored.fc2_weight.data(),
                               stored.fc2_bias.data()};
  std::vector<float> packed(fkv::packed_judge_floats(shape));
  REQUIRE(fkv::pack_judge(shape, &layer, packed.data()).ok());
  return packed;
}

/// Weights or gradients of one layer, back in the published layout and orientation.
inline published_layer unpack(float const* packed, fkv::judge_shape shape) {
  shape.num_layers = 1;
  published_layer layer(shape);
  fkv::mutable_judge_layer const view{layer.fc1_weight.data(), layer.fc1_bias.data(), layer.fc2_weight.data(),
                                      layer.fc2_bias.data()};
  REQUIRE(fkv::unpack_judge({packed, shape}, &view).ok());
  return layer;
}

/// fc2.bias is left out: its true gradient is 0, and what PyTorch's Adam makes of rounding noise is no
/// reference.
inline void check_layer(published_layer const& got, published_layer const& expected, double tolerance) {
  check_close(got.fc1_weight, expected.fc1_weight, tolerance);
  check_close(got.fc1_bias, expected.fc1_bias, tolerance);
  check_close(got.fc2_weight, expected.fc2_weight, tolerance);
}

// --- hinge_judge
// -----------------------------------------------------------------------------------------------------

/// One sample of one layer: rows by reference into keys and values, and their labels.
struct judged_sample {
  std::vector<float> keys, values, statistics, drop_scores, labels;
  std::vector<std::int32_t> positions;
  training::judge_rows<float> rows;

  judged_sample(vector_file const& file, std::string const& prefix, fkv::judge_shape const& shape) {
    int const heads = shape.num_kv_heads, dim = shape.key_head_dim, tokens = file.integer("tokens");
    int const budget = file.integer("budget"), interval = file.integer("interval");
    int const steps = file.extent(prefix + "stats", 0);
    keys = file.floats(prefix + "k", {heads, tokens, dim});
    values = file.floats(prefix + "v", {heads, tokens, dim});
    statistics = file.floats(prefix + "stats", {steps, heads, budget, 8 * shape.group});
    drop_scores = file.floats(prefix + "drop_score", {steps, heads, budget});
    labels = negated(file.floats(prefix + "target_score", {steps, heads, budget}));
    follow(file.ints(prefix + "schedule", {steps, heads, interval}), steps, heads, budget, interval);
    rows = {keys.data(), values.data(), positions.data(), statistics.data(), steps, budget, tokens, {}, {}};
  }

 private:
  /// The candidates of every step: survivors in order of time, then the tokens that the last step protected.
  void follow(std::vector<std::int32_t> const& schedule, int steps, int heads, int budget, int interval) {
    positions.resize(static_cast<std::size_t>(steps * heads * budget));
    for (int head = 0; head < heads; ++head) {
      std::vector<std::int32_t> now(static_cast<std::size_t>(budget));
      for (int i = 0; i < budget; ++i) now[static_cast<std::size_t>(i)] = i;
      for (int step = 0; step < steps; ++step) {
        std::copy(now.begin(), now.end(), positions.begin() + (step * heads + head) * budget);
        std::vector<std::int32_t> gone(schedule.begin() + (step * heads + head) * interval,
                                       schedule.begin() + (step * heads + head + 1) * interval);
        std::sort(gone.begin(), gone.end());
        for (auto place = gone.rbegin(); place != gone.rend(); ++place) now.erase(now.begin() + *place);
        for (int i = 0; i < interval; ++i) now.push_back(budget + step * interval + i);
      }
    }
  }
};

/// Forward, loss and backward of one sample and layer; adds to `gradient`.
inline double ranking_step(fkv::host_execution exec, fkv::judge_shape const& shape, double margin,
                           std::vector<float> const& weights, judged_sample const& sample, std::vector<float>& scores,
                           float* gradient) {
  auto const count = training::num_scores(shape, sample.rows);
  std::vector<float> hidden(count * fkv::judge_shape::hidden), score_gradient(count);
  scores.resize(count);
  REQUIRE(training::judge_forward(exec, shape, weights.data(), sample.rows, hidden.data(), scores.data()).ok());
  training::hinge_config config;
  config.margin = margin;
  training::ranking_rows<float> const input{scores.data(), sample.labels.data(), sample.rows.steps * shape.num_kv_heads,
                                            sample.rows.candidates};
  scratch ranking(training::ranking_hinge_bytes(exec, input));
  training::hinge_result result;
  REQUIRE(training::ranking_hinge(exec, config, input, score_gradient.data(), &result, ranking.view()).ok());
  scratch backward(training::judge_backward_bytes(exec, shape, sample.rows));
  REQUIRE(training::judge_backward(exec, shape, weights.data(), sample.rows, hidden.data(), score_gradient.data(),
                                   gradient, backward.view())
              .ok());
  return result.loss;
}

/// A file of recorded training: judges of several layers, several samples, their gradients and weights on the
/// way.
class recorded_training {
 public:
  explicit recorded_training(vector_file const& file)
      : file_(file),
        layers_(file.integer("layers")),
        samples_(file.integer("samples")),
        margin_(file.number("margin")) {
    int const dim = file.integer("head_dim");
    shape_ = {layers_, file.integer("kv_heads"), file.integer("group"), dim, dim};
    layer_floats_ = static_cast<std::size_t>(shape_.num_kv_heads) * shape_.head_floats();
    for (int layer = 0; layer < layers_; ++layer) {
      weights_.push_back(pack(file, layer_prefix(layer), shape_));
      for (int sample = 0; sample < samples_; ++sample)
        data_.emplace_back(file, "sample" + std::to_string(sample) + "." + layer_prefix(layer), shape_);
    }
    gradient_.resize(layer_floats_ * static_cast<std::size_t>(layers_));
  }

  void check_first_gradient() {
    auto const expected = file_.floats("loss", {samples_, layers_});
    std::vector<float> const losses = step(fkv::host);
    for (std::size_t i = 0; i < losses.size(); ++i)
      check_relative(static_cast<double>(losses[i]), static_cast<double>(expected[i]), 1e-5);
    for (int layer = 0; layer < layers_; ++layer) {
      CAPTURE(layer);
      published_layer const stored(file_, layer_prefix(layer) + "grad.", shape_);
      auto const got = unpack(gradient_.data() + static_cast<std::size_t>(layer) * layer_floats_, shape_);
      check_layer(got, stored, file_.number("tol_grad_abs"));
      CHECK(std::all_of(got.fc2_bias.begin(), got.fc2_bias.end(), [](float value) { return value == 0.0f; }));
    }
  }

  /// Clipping of all layers together, Adam and the published schedule, as the file was made.
  void check_training() {
    int const steps = file_.integer("train_steps");
    auto const rates = file_.floats("train.lr", {steps}), norms = file_.floats("train.grad_norm", {steps});
    auto const losses = file_.floats("train.loss", {steps, samples_, layers_});
    training::schedule_config schedule = training::published_supervised_schedule;
    schedule.learning_rate = file_.number("adam_lr");
    schedule.warm_up_steps = file_.integer("warmup");
    schedule.total_steps = file_.integer("total_steps");
    auto const betas = words(file_.text("adam_betas"));
    training::adam_config const adam{std::stod(betas.at(0)), std::stod(betas.at(1)), file_.number("adam_eps")};
    std::vector<float> mean(gradient_.size()), square(gradient_.size());
    for (int step_number = 0; step_number < steps; ++step_number) {
      CAPTURE(step_number);
      auto const at = static_cast<std::size_t>(step_number);
      double const rate = training::learning_rate(schedule, step_number);
      CHECK(std::fabs(rate - static_cast<double>(rates[at])) <= 1e-9);
      auto const got = step(fkv::host);
      for (std::size_t i = 0; i < got.size(); ++i)
        check_relative(static_cast<double>(got[i]), static_cast<double>(losses[at * got.size() + i]), 1e-4);
      check_relative(clip(), static_cast<double>(norms[at]), 1e-4);
      update(adam, rate, step_number + 1, mean, square);
      if (file_.has("after" + std::to_string(step_number + 1) + ".layer0.fc1.weight")) check_after(step_number + 1);
    }
  }

 private:
  [[nodiscard]] static std::string layer_prefix(int layer) { return "layer" + std::to_string(layer) + "."; }

  std::vector<float> step(fkv::host_execution exec) {
    std::fill(gradient_.begin(), gradient_.end(), 0.0f);
    std::vector<float> losses(static_cast<std::size_t>(samples_ * layers_));
    for (int layer = 0; layer < layers_; ++layer) {
      for (int sample = 0; sample < samples_; ++sample) {
        auto const& data = data_[static_cast<std::size_t>(layer * samples_ + sample)];
        std::vector<float> scores;
        losses[static_cast<std::size_t>(sample * layers_ + layer)] = static_cast<float>(
            ranking_step(exec, shape_, margin_, weights_[static_cast<std::size_t>(layer)], data, scores,
                         gradient_.data() + static_cast<std::size_t>(layer) * layer_floats_));
        if (updated_) continue;
        CAPTURE(layer);
        CAPTURE(sample);
        check_close(negated(scores), data.drop_scores, 2e-5);
      }
    }
    return losses;
  }

  double clip() {
    std::vector<double> norms(static_cast<std::size_t>(layers_));
    training::clip_result result;
    training::clip_config const config{file_.number("clip_norm"), training::clip_scope::joint};
    REQUIRE(training::clip_gradient(fkv::host, config, shape_, gradient_.data(), norms.data(), &result).ok());
    CHECK(result.not_finite_layers == 0);
    return result.norm;
  }

  void update(training::adam_config const& adam, double rate, int step_number, std::vector<float>& mean,
              std::vector<float>& square) {
    for (int layer = 0; layer < layers_; ++layer) {
      auto const at = static_cast<std::size_t>(layer) * layer_floats_;
      training::adam_state<float> const state{weights_[static_cast<std::size_t>(layer)].data(), mean.data() + at,
                                              square.data() + at, layer_floats_};
      REQUIRE(training::adam_step(fkv::host, adam, rate, step_number, gradient_.data() + at, state).ok());
    }
    updated_ = true;
  }

  void check_after(int steps) const {
    CAPTURE(steps);
    for (int layer = 0; layer < layers_; ++layer) {
      CAPTURE(layer);
      published_layer const stored(file_, "after" + std::to_string(steps) + "." + layer_prefix(layer), shape_);
      check_layer(unpack(weights_[static_cast<std::size_t>(layer)].data(), shape_), stored, steps <= 15 ? 5e-5 : 5e-4);
    }
  }

  vector_file const& file_;
  int layers_, samples_;
  double margin_;
  fkv::judge_shape shape_{};
  std::size_t layer_floats_ = 0;
  std::vector<std::vector<float>> weights_;
  std::vector<judged_sample> data_;
  std::vector<float> gradient_;
  bool updated_ = false;
};

inline void check_hinge_judge(vector_file const& file) {
  recorded_training recorded(file);
  recorded.check_first_gradient();
  recorded.check_training();
}

// --- grpo_values
// -----------------------------------------------------------------------------------------------------

/// Log-probabilities of the picks under stored drop scores.
inline std::vector<float> log_probs_of(training::grpo_shape const& shape, std::vector<float> const& drop_scores,
                                       std::vector<std::int32_t> const& picked,
                                       std::vector<float>* entropies = nullptr) {
  auto const scores = negated(drop_scores);
  std::vector<float> found(shape.num_picks());
  if (entropies != nullptr) entropies->resize(shape.rows());
  REQUIRE(training::pick_log_probs(fkv::host, shape, scores.data(), picked.data(), found.data(),
                                   entropies == nullptr ? nullptr : entropies->data())
              .ok());
  return found;
}

inline training::grpo_result run_grpo(training::grpo_config const& config, training::grpo_shape const& shape,
                                      training::grpo_input<float> const& input, std::vector<float>& gradient) {
  gradient.resize(shape.num_scores());
  scratch memory(training::grpo_bytes(fkv::host, shape));
  training::grpo_result result;
  REQUIRE(training::grpo(fkv::host, config, shape, input, gradient.data(), &result, memory.view()).ok());
  CHECK(result.not_finite_rows == 0);
  return result;
}

inline std::vector<double> advantages_of(vector_file const& file, std::string const& name) {
  auto const stored = file.tensor(name).copy<float>();
  return {stored.begin(), stored.end()};
}

inline void check_grpo_case(vector_file const& file, std::string const& name) {
  double const tolerance = file.number("tol_rel");
  training::grpo_shape const shape{file.extent(name + ".score_new", 0), file.extent(name + ".score_new", 1),
                                   file.extent(name + ".score_new", 2), file.extent(name + ".score_new", 3),
                                   file.extent(name + ".picked", 3)};
  auto const scores_of = [&](char const* which) {
    return file.floats(name + ".score_" + which, {shape.steps, shape.rollouts, shape.kv_heads, shape.candidates});
  };
  auto const picks_of = [&](std::string const& which) {
    return file.floats(name + "." + which, {shape.steps, shape.rollouts, shape.kv_heads, shape.picks});
  };
  auto const picked = file.ints(name + ".picked", {shape.steps, shape.rollouts, shape.kv_heads, shape.picks});
  std::vector<float> entropies;
  auto const log_new = log_probs_of(shape, scores_of("new"), picked, &entropies);
  auto const log_old = log_probs_of(shape, scores_of("old"), picked);
  auto const log_reference = log_probs_of(shape, scores_of("init"), picked);
  CHECK(relative_to_largest(log_new, picks_of("log_prob_new")) <= tolerance);
  CHECK(relative_to_largest(log_old, picks_of("log_prob_old")) <= tolerance);
  CHECK(relative_to_largest(log_reference, picks_of("log_prob_init")) <= tolerance);
  CHECK(relative_to_largest(
            entropies, file.floats(name + ".entropy_new", {shape.steps, shape.rollouts, shape.kv_heads})) <= tolerance);

  auto const scores = negated(scores_of("new"));
  auto const advantages = advantages_of(file, name + ".advantage");
  training::grpo_input<float> input{scores.data(), picked.data(), log_old.data(), log_reference.data(),
                                    advantages.data()};
  training::grpo_config config;
  config.clip = file.number("clip");
  std::vector<float> gradient;
  for (std::string const& weight : words(file.text("kl_weights"))) {
    CAPTURE(weight);
    config.kl_weight = std::stod(weight);
    auto const result = run_grpo(config, shape, input, gradient);
    std::string const prefix = name + ".kl" + weight + ".";
    check_relative(result.loss, static_cast<double>(file.floats(prefix + "loss", {1})[0]), tolerance);
    check_relative(result.kl, static_cast<double>(file.floats(name + ".kl", {1})[0]), tolerance);
    auto const stored =
        file.floats(prefix + "grad_score", {shape.steps, shape.rollouts, shape.kv_heads, shape.candidates});
    CHECK(relative_to_largest(negated(gradient), stored) <= tolerance);
  }
  input.reference_log_probs = nullptr;
  auto const result = run_grpo(config, shape, input, gradient);
  check_relative(result.loss, static_cast<double>(file.floats(name + ".no_reference.loss", {1})[0]), tolerance);
  CHECK(result.kl == 0.0);
}

inline void check_grpo_values(vector_file const& file) {
  for (std::string const& name : words(file.text("cases"))) {
    CAPTURE(name);
    check_grpo_case(file, name);
  }
}

// --- grpo_reward
// -----------------------------------------------------------------------------------------------------

inline void check_reward_case(vector_file const& file, std::string const& name) {
  int window = 0, budget = 0, tokens = 0, terms = 0;
  REQUIRE(std::sscanf(file.text(name).c_str(), "window %d budget %d tokens %d terms %d", &window, &budget, &tokens,
                      &terms) == 4);
  training::reward_config config;
  config.first_token = window + budget;
  config.entropy_fraction_dropped = file.number("entropy_fraction_dropped");
  config.threshold = file.number("threshold");
  auto const full = file.floats(name + ".loss_full", {tokens}), evicted = file.floats(name + ".loss_evicted", {tokens});
  auto const entropy = file.floats(name + ".entropy", {tokens});
  training::reward_input const input{full.data(), evicted.data(), entropy.data(), 1, tokens};
  scratch memory(training::rewards_bytes(fkv::host, config, input));
  training::reward_result result;
  std::vector<std::int32_t> kept(static_cast<std::size_t>(tokens));
  REQUIRE(training::rewards(fkv::host, config, input, &result, kept.data(), memory.view()).ok());
  kept.resize(static_cast<std::size_t>(result.tokens));
  auto expected = file.tensor(name + ".kept_tokens").copy<std::int32_t>();
  std::sort(expected.begin(), expected.end());
  CHECK(kept == expected);
  CHECK(result.worse == terms);
  CHECK(result.not_finite == 0);
  check_relative(result.reward, static_cast<double>(file.floats(name + ".reward", {1})[0]), file.number("tol_rel"));
}

inline void check_grpo_reward(vector_file const& file, fkv::io::safetensors_file const& tensors) {
  int cases = 0, groups = 0;
  for (auto const& [name, tensor] : tensors) {
    std::string const prefix = name.substr(0, name.find('.'));
    CAPTURE(prefix);
    if (name.ends_with(".loss_full")) {
      check_reward_case(file, prefix);
      ++cases;
    } else if (name.ends_with(".returns")) {
      auto const returns = advantages_of(file, name), expected = advantages_of(file, prefix + ".advantages");
      std::vector<double> got(returns.size());
      REQUIRE(training::group_advantages(fkv::host, static_cast<int>(returns.size()), returns.data(), got.data(),
                                         file.number("eps"))
                  .ok());
      for (std::size_t i = 0; i < got.size(); ++i)
        CHECK(std::fabs(got[i] - expected[i]) <= 1e-6 + file.number("tol_rel") * std::fabs(expected[i]));
      ++groups;
    }
  }
  CHECK(cases + groups > 0);
}

// --- grpo_judge
// ------------------------------------------------------------------------------------------------------

inline void check_grpo_judge(vector_file const& file) {
  int const heads = file.integer("kv_heads"), dim = file.integer("head_dim"), tokens = file.integer("tokens");
  fkv::judge_shape const shape{1, heads, file.integer("group"), dim, dim};
  training::grpo_shape const extents{file.extent("picked", 0), file.extent("picked", 1), heads,
                                     file.extent("score_new", 3), file.extent("picked", 3)};
  int const steps = extents.steps, rollouts = extents.rollouts, candidates = extents.candidates;
  auto const keys = file.floats("k", {heads, tokens, dim}), values = file.floats("v", {heads, tokens, dim});
  auto const positions = file.ints("candidate_positions", {steps, rollouts, heads, candidates});
  auto const statistics = file.floats("stats", {steps, rollouts, heads, candidates, 8 * shape.group});
  auto const picked = file.ints("picked", {steps, rollouts, heads, extents.picks});
  training::judge_rows<float> const rows{
      keys.data(), values.data(), positions.data(), statistics.data(), steps * rollouts, candidates, tokens, {}, {}};
  std::vector<float> hidden(extents.num_scores() * fkv::judge_shape::hidden), scores(extents.num_scores());
  std::vector<float> log_old, log_reference, weights;
  for (std::string const which : {"old", "init", "new"}) {  // the new judge last: its hidden units are needed below
    CAPTURE(which);
    weights = pack(file, which + ".", shape);
    REQUIRE(training::judge_forward(fkv::host, shape, weights.data(), rows, hidden.data(), scores.data()).ok());
    check_close(negated(scores), file.floats("score_" + which, {steps, rollouts, heads, candidates}), 2e-5);
    if (which != "new") (which == "old" ? log_old : log_reference) = log_probs_of(extents, negated(scores), picked);
  }
  auto const advantages = advantages_of(file, "advantage");
  training::grpo_config config;
  config.clip = file.number("clip");
  config.kl_weight = file.number("kl_weight");
  config.scale = 1.0 / file.number("rollouts_per_step");
  std::vector<float> score_gradient, gradient(weights.size());
  auto const result =
      run_grpo(config, extents, {scores.data(), picked.data(), log_old.data(), log_reference.data(), advantages.data()},
               score_gradient);
  double const tolerance = file.number("tol_loss_rel");
  check_relative(result.loss / config.scale, static_cast<double>(file.floats("loss", {1})[0]), tolerance);
  check_relative(result.kl, static_cast<double>(file.floats("kl", {1})[0]), tolerance);

  scratch backward(training::judge_backward_bytes(fkv::host, shape, rows));
  REQUIRE(training::judge_backward(fkv::host, shape, weights.data(), rows, hidden.data(), score_gradient.data(),
                                   gradient.data(), backward.view())
              .ok());
  published_layer const stored(file, "grad.", shape);
  auto const got = unpack(gradient.data(), shape);
  double const relative = file.number("tol_grad_rel_to_largest");
  CHECK(relative_to_largest(got.fc1_weight, stored.fc1_weight) <= relative);
  CHECK(relative_to_largest(got.fc1_bias, stored.fc1_bias) <= relative);
  CHECK(relative_to_largest(got.fc2_weight, stored.fc2_weight) <= relative);
}

}  // namespace training_vectors

/// Files hinge*.
inline void check_hinge(fkv::io::safetensors_file const& tensors) {
  vector_file const file(tensors);
  if (file.has_text("cases"))
    training_vectors::check_hinge_values(file);
  else
    training_vectors::check_hinge_judge(file);
}

/// Files grpo*.
inline void check_grpo(fkv::io::safetensors_file const& tensors) {
  vector_file const file(tensors);
  if (file.has_text("cases"))
    training_vectors::check_grpo_values(file);
  else if (file.has("new.fc1.weight"))
    training_vectors::check_grpo_judge(file);
  else
    training_vectors::check_grpo_reward(file, tensors);
}

}  // namespace testing
