// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include <foresightkv/training/adam.hpp>
#include <foresightkv/training/reward.hpp>
#include <foresightkv/training/rollout_gradient.hpp>

#include "support/random.hpp"
#include "support/red_zone.hpp"
#include "support/replay_problem.hpp"
#include "support/training_problem.hpp"

namespace fkv = foresightkv;
namespace training = fkv::training;
using fkv::errc;
using testing::judge_problem;

namespace {

/// A rollout of random picks over a random problem; `drift` sets the judge apart from the one that drew them.
template <class Real>
struct rollout_problem {
  judge_problem<float, float> given{{1, 2, 2, 6, 5}, 4, 15, 30, 21};
  std::vector<Real> weights, old_log_probs, reference_log_probs;
  std::vector<std::int32_t> picked;
  static constexpr int picks = 4;

  explicit rollout_problem(double drift) {
    testing::random_source random(22);
    weights.assign(given.weights.begin(), given.weights.end());
    for (int row = 0; row < 8; ++row) {
      std::vector<std::int32_t> all(15);
      std::iota(all.begin(), all.end(), 0);
      for (int i = 0; i < picks; ++i)
        std::swap(all[static_cast<std::size_t>(i)], all[static_cast<std::size_t>(random.integer(i, 14))]);
      picked.insert(picked.end(), all.begin(), all.begin() + picks);
    }
    auto const elsewhere = [&] {
      auto moved = weights;
      for (Real& weight : moved) weight += static_cast<Real>(drift * static_cast<double>(random.normal()));
      return log_probs(moved);
    };
    old_log_probs = elsewhere();
    reference_log_probs = elsewhere();
  }

  [[nodiscard]] training::recorded_rollout<Real> view(bool reference = true) const {
    return {given.view(), picked.data(), old_log_probs.data(), reference ? reference_log_probs.data() : nullptr, picks};
  }
  [[nodiscard]] std::vector<Real> log_probs(std::vector<Real> const& by) const {
    std::vector<Real> found(picked.size());
    auto const rollout = view();
    testing::guarded<std::byte> memory(training::rollout_bytes(fkv::host, given.shape, rollout));
    REQUIRE(training::rollout_log_probs(fkv::host, given.shape, by.data(), rollout, found.data(),
                                        {memory.data(), memory.size()})
                .ok());
    CHECK(memory.intact());
    return found;
  }
  std::vector<Real> gradient(double advantage, training::grpo_result& result, bool reference = true,
                             fkv::host_execution exec = fkv::host) const {
    std::vector<Real> found(weights.size());
    auto const rollout = view(reference);
    testing::guarded<std::byte> memory(training::rollout_bytes(exec, given.shape, rollout));
    REQUIRE(training::rollout_gradient(exec, {.scale = 0.25}, given.shape, weights.data(), rollout, advantage,
                                       found.data(), &result, {memory.data(), memory.size()})
                .ok());
    CHECK(memory.intact());
    return found;
  }
};

}  // namespace

TEST_CASE("rollout_gradient: against finite differences of the loss") {
  rollout_problem<double> problem(0.02);
  for (double const advantage : {1.3, -0.8}) {
    training::grpo_result result;
    auto const gradient = problem.gradient(advantage, result);
    CHECK(result.kl > 0.0);
    double worst = 0.0;
    int const head_floats = static_cast<int>(problem.given.shape.head_floats());
    for (int i = 0; i < 2 * head_floats; i += 5) {
      auto const at = static_cast<std::size_t>(i);
      if (i % head_floats == head_floats - 16) continue;  // the output's bias is frozen
      double const before = problem.weights[at], step = 1e-6;
      training::grpo_result up, down;
      problem.weights[at] = before + step;
      (void)problem.gradient(advantage, up);
      problem.weights[at] = before - step;
      (void)problem.gradient(advantage, down);
      problem.weights[at] = before;
      worst = std::max(worst, std::fabs((up.loss - down.loss) / (2 * step) - gradient[at]));
    }
    CHECK(worst <= 1e-7);
  }
}

TEST_CASE("rollout_gradient: the judge that drew has ratio 1, and no KL to itself") {
  rollout_problem<float> problem(0.0);
  training::grpo_result result;
  (void)problem.gradient(0.7, result);
  CHECK(result.policy == doctest::Approx(-0.7));
  CHECK(result.kl == doctest::Approx(0.0));
  CHECK(result.clipped == 0.0);
}

TEST_CASE("rollout_gradient: adds to the gradient, the same bits whatever the number of threads") {
  rollout_problem<float> problem(0.02);
  training::grpo_result result;
  auto const one = problem.gradient(1.0, result, false, fkv::host.threads(1));
  CHECK(problem.gradient(1.0, result, false, fkv::host.threads(3)) == one);
  auto twice = one;
  auto const rollout = problem.view(false);
  std::vector<std::byte> memory(training::rollout_bytes(fkv::host, problem.given.shape, rollout));
  REQUIRE(training::rollout_gradient(fkv::host, {.scale = 0.25}, problem.given.shape, problem.weights.data(), rollout,
                                     1.0, twice.data(), &result, {memory.data(), memory.size()})
              .ok());
  for (std::size_t i = 0; i < one.size(); ++i) CHECK(twice[i] == 2.0f * one[i]);
}

TEST_CASE("rollout_gradient: steps over rollouts of a trace make evictions that pay likelier") {
  // The stand-in for a language model: a rollout loses on every token after position 100 of head 0 that it
  // evicts.
  testing::replay_problem<float> const given({{.budget = 48, .interval = 16}, 0}, 31);
  auto const shape = given.layer().shape();
  auto const steps = given.config.steps(given.tokens);
  constexpr int rollouts = 6;
  auto weights = given.weights;
  std::vector<float> mean(weights.size()), square(weights.size());
  auto const evicted_late = [&](testing::replay_rows const& rows) {
    int count = 0;
    for (std::size_t i = 0; i < rows.evicted_positions.size(); ++i) count += rows.evicted_positions[i] >= 60 ? 1 : 0;
    return count;
  };
  auto const average_late = [&] {
    double sum = 0.0;
    for (std::uint32_t i = 0; i < 20; ++i)
      sum += evicted_late(
          testing::replayed<fkv::paper>(given, {.weights = weights.data(), .sampled = true, .seed = 99, .rollout = i}));
    return sum / 20;
  };
  double const before = average_late();
  for (int iteration = 0; iteration < 15; ++iteration) {
    std::vector<testing::replay_rows> rows;
    std::vector<float> loss_evicted;
    int const tokens = 160;
    for (std::uint32_t i = 0; i < rollouts; ++i) {
      rows.push_back(testing::replayed<fkv::paper>(
          given,
          {.weights = weights.data(), .sampled = true, .seed = static_cast<std::uint64_t>(iteration), .rollout = i}));
      int const bad = evicted_late(rows.back());
      for (int t = 0; t < tokens; ++t) loss_evicted.push_back(t < bad ? 3.0f : 0.0f);
    }
    std::vector<float> const loss_full(static_cast<std::size_t>(tokens), 0.0f),
        entropy(static_cast<std::size_t>(tokens), 1.0f);
    training::reward_config const reward{.entropy_fraction_dropped = 0.0};
    training::reward_input const losses{loss_full.data(), loss_evicted.data(), entropy.data(), rollouts, tokens};
    std::vector<training::reward_result> earned(rollouts);
    std::vector<std::byte> memory(training::rewards_bytes(fkv::host, reward, losses));
    REQUIRE(training::rewards(fkv::host, reward, losses, earned.data(), nullptr, {memory.data(), memory.size()}).ok());
    std::vector<double> reward_values, advantages(rollouts);
    for (auto const& one : earned) reward_values.push_back(one.reward);
    REQUIRE(training::group_advantages(fkv::host, rollouts, reward_values.data(), advantages.data()).ok());

    std::vector<float> gradient(weights.size());
    for (std::size_t i = 0; i < rollouts; ++i) {
      auto const layer = given.layer();
      training::recorded_rollout<float> rollout{{layer.keys,
                                                 layer.values,
                                                 rows[i].positions.data(),
                                                 rows[i].statistics.data(),
                                                 steps,
                                                 given.config.candidates(0),
                                                 layer.tokens,
                                                 {},
                                                 {}},
                                                rows[i].evicted.data(),
                                                nullptr,
                                                nullptr,
                                                given.config.evictions(0)};
      std::vector<float> old(static_cast<std::size_t>(steps * given.kv_heads * rollout.picks));
      std::vector<std::byte> scratch(training::rollout_bytes(fkv::host, shape, rollout));
      REQUIRE(training::rollout_log_probs(fkv::host, shape, weights.data(), rollout, old.data(),
                                          {scratch.data(), scratch.size()})
                  .ok());
      rollout.old_log_probs = old.data();
      training::grpo_result result;
      REQUIRE(training::rollout_gradient(fkv::host, {.scale = 1.0 / rollouts}, shape, weights.data(), rollout,
                                         advantages[i], gradient.data(), &result, {scratch.data(), scratch.size()})
                  .ok());
    }
    REQUIRE(training::adam_step(fkv::host, {}, 0.02, iteration + 1, gradient.data(),
                                training::adam_state<float>{weights.data(), mean.data(), square.data(), weights.size()})
                .ok());
  }
  CHECK(average_late() < before);
}

TEST_CASE("rollout_gradient: errors leave every output as it was") {
  rollout_problem<float> problem(0.01);
  auto rollout = problem.view();
  auto const& shape = problem.given.shape;
  std::vector<std::byte> memory(training::rollout_bytes(fkv::host, shape, rollout));
  testing::guarded<float> gradient(problem.weights.size()), log_probs(problem.picked.size());
  auto const gradient_before = gradient, log_probs_before = log_probs;
  training::grpo_result result{.loss = 77.0};
  training::grpo_config config;
  auto const expect = [&](errc expected) {
    CHECK(training::rollout_gradient(fkv::host, config, shape, problem.weights.data(), rollout, 1.0, gradient.data(),
                                     &result, {memory.data(), memory.size()})
              .code == expected);
    CHECK(gradient.same_bytes(gradient_before));
    CHECK(result.loss == 77.0);
  };
  auto const expect_log_probs = [&](errc expected) {
    CHECK(training::rollout_log_probs(fkv::host, shape, problem.weights.data(), rollout, log_probs.data(),
                                      {memory.data(), memory.size()})
              .code == expected);
    CHECK(log_probs.same_bytes(log_probs_before));
  };
  config.clip = -1.0;
  expect(errc::invalid_config);
  config = {};
  auto const sound = rollout;
  auto picked = problem.picked;
  picked[3] = 15;
  rollout.picked = picked.data();
  expect(errc::invalid_shape);
  expect_log_probs(errc::invalid_shape);
  rollout = sound;
  rollout.picked = nullptr;
  expect(errc::null_pointer);
  expect_log_probs(errc::null_pointer);
  rollout = sound;
  rollout.old_log_probs = nullptr;
  expect(errc::null_pointer);
  rollout = sound;
  rollout.rows.keys = nullptr;
  expect(errc::null_pointer);
  expect_log_probs(errc::null_pointer);
  rollout = sound;
  memory.pop_back();
  expect(errc::workspace_too_small);
  expect_log_probs(errc::workspace_too_small);
}
