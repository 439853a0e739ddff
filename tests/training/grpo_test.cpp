// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <vector>

#include <foresightkv/training/grpo.hpp>

#include "support/data.hpp"
#include "support/random.hpp"
#include "support/red_zone.hpp"
#include "support/training_vectors.hpp"

namespace fkv = foresightkv;
namespace training = fkv::training;
using fkv::errc;
using training::grpo_config;
using training::grpo_input;
using training::grpo_result;
using training::grpo_shape;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float quiet_nan = std::numeric_limits<float>::quiet_NaN();

/// Scores of three judges over the same rows, picks of the old one.
template <class Real>
struct problem {
  grpo_shape shape;
  std::vector<Real> scores, old_log_probs, reference_log_probs;
  std::vector<std::int32_t> picked;
  std::vector<double> advantages;

  problem(grpo_shape const& given, std::uint64_t seed, double apart) : shape(given) {
    testing::random_source random(seed);
    for (std::size_t i = 0; i < shape.num_scores(); ++i) scores.push_back(static_cast<Real>(random.normal()));
    for (std::size_t i = 0; i < shape.num_picks(); ++i) picked.push_back(random.integer(0, shape.candidates - 1));
    for (int i = 0; i < shape.rollouts; ++i) advantages.push_back(static_cast<double>(random.normal()));
    auto const elsewhere = [&] {
      auto moved = scores;
      for (Real& score : moved) score += static_cast<Real>(apart * static_cast<double>(random.normal()));
      std::vector<Real> found(shape.num_picks());
      REQUIRE(training::pick_log_probs(fkv::host, shape, moved.data(), picked.data(), found.data()).ok());
      return found;
    };
    old_log_probs = elsewhere();
    reference_log_probs = elsewhere();
  }

  [[nodiscard]] grpo_input<Real> view(bool with_reference = true) const {
    return {scores.data(), picked.data(), old_log_probs.data(), with_reference ? reference_log_probs.data() : nullptr,
            advantages.data()};
  }
};

template <class Real>
struct outcome {
  grpo_result result;
  std::vector<Real> gradient;
};

template <class Real>
outcome<Real> solve(problem<Real> const& given, grpo_config const& config = {}, bool with_reference = true,
                    fkv::host_execution exec = fkv::host) {
  outcome<Real> got{{}, std::vector<Real>(given.shape.num_scores(), Real{77})};
  std::vector<std::byte> memory(training::grpo_bytes(exec, given.shape));
  REQUIRE(training::grpo(exec, config, given.shape, given.view(with_reference), got.gradient.data(), &got.result,
                         {memory.data(), memory.size()})
              .ok());
  return got;
}

/// The definition, in double precision.
double loss_of(problem<double> const& given, grpo_config const& config) {
  auto const& shape = given.shape;
  double sum = 0.0;
  for (std::size_t row = 0; row < shape.rows(); ++row) {
    double const* const scores = given.scores.data() + row * static_cast<std::size_t>(shape.candidates);
    double total = 0.0;
    for (int c = 0; c < shape.candidates; ++c) total += std::exp(-scores[c]);
    double const advantage =
        given.advantages[row / static_cast<std::size_t>(shape.kv_heads) % static_cast<std::size_t>(shape.rollouts)];
    for (int k = 0; k < shape.picks; ++k) {
      auto const at = row * static_cast<std::size_t>(shape.picks) + static_cast<std::size_t>(k);
      double const log_prob = std::log(std::exp(-scores[given.picked[at]]) / total);
      double const ratio = std::exp(std::min(10.0, std::max(-10.0, log_prob - given.old_log_probs[at])));
      double const held = std::min(1 + config.clip, std::max(1 - config.clip, ratio));
      double const apart = given.reference_log_probs[at] - log_prob;
      sum += -std::min(ratio * advantage, held * advantage) + config.kl_weight * (std::exp(apart) - apart - 1);
    }
  }
  return config.scale * sum / static_cast<double>(shape.num_picks());
}

}  // namespace

TEST_CASE("grpo: stored values of the published code") {
  auto const folder = testing::vectors_folder();
  testing::check_grpo(fkv::io::safetensors_file(folder / "grpo_values.safetensors"));
  testing::check_grpo(fkv::io::safetensors_file(folder / "grpo_judge_h2_g2_d16_b48_l12.safetensors"));
}

TEST_CASE("grpo: log-probabilities and entropy") {
  grpo_shape const shape{1, 1, 2, 4, 2};
  std::vector<double> const scores{0, 0, 0, 0, -std::log(4.0), 0, 0, 0};
  std::vector<std::int32_t> const picked{0, 3, 0, 1};
  std::vector<double> log_probs(4), entropies(2);
  REQUIRE(training::pick_log_probs(fkv::host, shape, scores.data(), picked.data(), log_probs.data(), entropies.data())
              .ok());
  CHECK(log_probs[0] == doctest::Approx(-std::log(4.0)));
  CHECK(log_probs[1] == doctest::Approx(-std::log(4.0)));
  CHECK(log_probs[2] == doctest::Approx(std::log(4.0 / 7.0)));  // the low score is the likely eviction
  CHECK(log_probs[3] == doctest::Approx(-std::log(7.0)));
  CHECK(entropies[0] == doctest::Approx(std::log(4.0)));
  CHECK(entropies[1] == doctest::Approx(std::log(7.0) - 4.0 / 7.0 * std::log(4.0)));
}

TEST_CASE("grpo: the loss is the definition, the gradient its finite differences") {
  for (double const apart : {0.05, 0.4, 2.0, 15.0})
    for (double const advantage_sign : {1.0, -1.0}) {
      CAPTURE(apart);
      problem<double> given({2, 3, 2, 11, 4}, static_cast<std::uint64_t>(apart * 100), apart);
      for (double& advantage : given.advantages) advantage = advantage_sign * std::fabs(advantage);
      grpo_config config;
      config.scale = 0.5;
      auto const got = solve(given, config);
      double const expected = loss_of(given, config);
      CHECK(got.result.loss == doctest::Approx(expected).epsilon(1e-12));
      double largest = 0.0;
      for (double const slope : got.gradient) largest = std::max(largest, std::fabs(slope));
      for (std::size_t i = 0; i < given.scores.size(); i += 3) {
        double const step = 1e-6, before = given.scores[i];
        given.scores[i] = before + step;
        double const up = loss_of(given, config);
        given.scores[i] = before - step;
        double const down = loss_of(given, config);
        given.scores[i] = before;
        CHECK(std::fabs((up - down) / (2 * step) - got.gradient[i]) <= 1e-6 * largest + 1e-9);
      }
    }
}

TEST_CASE("grpo: a common shift of a row changes nothing") {
  problem<double> given({2, 2, 2, 30, 8}, 5, 0.3);
  auto const before = solve(given);
  for (std::size_t i = 0; i < given.scores.size(); ++i) given.scores[i] += 100.0 * static_cast<double>(i / 30 + 1);
  auto const after = solve(given);
  CHECK(after.result.loss == doctest::Approx(before.result.loss).epsilon(1e-10));
  for (std::size_t row = 0; row < 8; ++row) {
    double sum = 0.0;
    for (std::size_t c = 0; c < 30; ++c) sum += after.gradient[row * 30 + c];
    CHECK(std::fabs(sum) <= 1e-12);
  }
}

TEST_CASE("grpo: a step along the gradient makes what earned more likelier") {
  problem<double> given({1, 2, 1, 12, 3}, 9, 0.0);
  given.advantages = {1.0, -1.0};
  given.picked = {0, 1, 2, 3, 4, 5};
  REQUIRE(training::pick_log_probs(fkv::host, given.shape, given.scores.data(), given.picked.data(),
                                   given.old_log_probs.data())
              .ok());
  auto const got = solve(given, {}, false);
  for (std::size_t i = 0; i < given.scores.size(); ++i) given.scores[i] -= 0.1 * got.gradient[i];
  std::vector<double> after(6);
  REQUIRE(
      training::pick_log_probs(fkv::host, given.shape, given.scores.data(), given.picked.data(), after.data()).ok());
  CHECK(after[0] + after[1] + after[2] > given.old_log_probs[0] + given.old_log_probs[1] + given.old_log_probs[2]);
  CHECK(after[3] + after[4] + after[5] < given.old_log_probs[3] + given.old_log_probs[4] + given.old_log_probs[5]);
}

TEST_CASE("grpo: the reference is optional, and its weight may be 0") {
  problem<float> const given({2, 2, 2, 20, 5}, 13, 0.5);
  auto const without = solve(given, {}, false);
  grpo_config config;
  config.kl_weight = 0.0;
  auto const weightless = solve(given, config);
  CHECK(without.result.kl == 0.0);
  CHECK(weightless.result.kl > 0.0);
  CHECK(weightless.result.loss == without.result.loss);
  CHECK(weightless.gradient == without.gradient);
}

TEST_CASE("grpo: a group rollout by rollout is the group at once") {
  problem<double> const given({3, 4, 2, 15, 4}, 17, 0.4);
  auto const together = solve(given);
  double loss = 0.0;
  for (int rollout = 0; rollout < 4; ++rollout) {
    problem<double> one = given;
    one.shape.rollouts = 1;
    one.advantages = {given.advantages[static_cast<std::size_t>(rollout)]};
    auto const take = [&](auto const& from, auto& to, std::size_t per_row) {
      to.clear();
      for (std::size_t step = 0; step < 3; ++step)
        for (std::size_t i = 0; i < 2 * per_row; ++i)
          to.push_back(from[(step * 4 + static_cast<std::size_t>(rollout)) * 2 * per_row + i]);
    };
    take(given.scores, one.scores, 15);
    take(given.picked, one.picked, 4);
    take(given.old_log_probs, one.old_log_probs, 4);
    take(given.reference_log_probs, one.reference_log_probs, 4);
    grpo_config config;
    config.scale = 0.25;
    auto const apart = solve(one, config);
    loss += apart.result.loss;
    std::vector<double> expected;
    take(together.gradient, expected, 15);
    for (std::size_t i = 0; i < expected.size(); ++i)
      CHECK(apart.gradient[i] == doctest::Approx(expected[i]).epsilon(1e-12));
  }
  CHECK(loss == doctest::Approx(together.result.loss).epsilon(1e-12));
}

TEST_CASE("grpo: what the clip and the limit stop has no gradient") {
  problem<double> const given({1, 1, 1, 5, 1}, 19, 0.0);
  auto const pick = static_cast<std::size_t>(given.picked[0]);
  auto const run = [&](double log_ratio, double advantage) {
    auto moved = given;
    moved.advantages = {advantage};
    moved.old_log_probs[0] -= log_ratio;
    return solve(moved, {}, false);
  };
  auto const check = [&](double log_ratio, double advantage, bool moves) {
    CAPTURE(log_ratio);
    CAPTURE(advantage);
    auto const got = run(log_ratio, advantage);
    CHECK((got.gradient[pick] != 0.0) == moves);
    CHECK(got.result.clipped == (moves ? 0.0 : 1.0));
  };
  check(0.5, 1.0, false);
  check(0.5, -1.0, true);
  check(-0.5, 1.0, true);
  check(-0.5, -1.0, false);
  check(0.0, 1.0, true);
  check(11.0, -1.0, false);
  check(-11.0, 1.0, false);
}

TEST_CASE("grpo: results do not depend on the number of threads") {
  problem<float> const given({3, 4, 3, 40, 9}, 23, 0.6);
  auto const one = solve(given, {}, true, fkv::host.threads(1));
  for (int const threads : {2, 5, 40}) {
    auto const many = solve(given, {}, true, fkv::host.threads(threads));
    CHECK(many.gradient == one.gradient);
    CHECK(many.result.loss == one.result.loss);
    CHECK(many.result.kl == one.result.kl);
  }
}

TEST_CASE("grpo: rows that are not finite are left out, and no other") {
  problem<float> const given({2, 2, 2, 10, 3}, 29, 0.3);
  auto const base = solve(given);
  auto const check = [&](problem<float> const& broken, std::vector<std::size_t> const& rows) {
    auto const got = solve(broken);
    CHECK(got.result.not_finite_rows == static_cast<int>(rows.size()));
    CHECK(std::isfinite(got.result.loss));
    for (std::size_t i = 0; i < got.gradient.size(); ++i) {
      bool const out = std::find(rows.begin(), rows.end(), i / 10) != rows.end();
      CHECK(got.gradient[i] == (out ? 0.0f : base.gradient[i]));
    }
  };
  for (float const bad : {quiet_nan, infinity, -infinity}) {
    auto broken = given;
    broken.scores[35] = bad;
    check(broken, {3});
    broken = given;
    broken.old_log_probs[3 * 5 + 1] = bad;
    check(broken, {5});
    broken = given;
    broken.reference_log_probs[3 * 7 + 2] = bad;
    check(broken, {7});
    broken = given;
    broken.advantages[1] = static_cast<double>(bad);
    check(broken, {2, 3, 6, 7});
    std::vector<float> log_probs(given.shape.num_picks());
    broken.scores[35] = bad;
    REQUIRE(
        training::pick_log_probs(fkv::host, given.shape, broken.scores.data(), given.picked.data(), log_probs.data())
            .ok());
    for (std::size_t i = 0; i < log_probs.size(); ++i) CHECK(std::isnan(log_probs[i]) == (i / 3 == 3));
  }
  // Scores far apart are no reason: the softmax is one candidate.
  auto far = given;
  far.scores[35] = -3e38f;
  auto const got = solve(far, {}, false);
  CHECK(got.result.not_finite_rows == 0);
  CHECK(std::isfinite(got.result.loss));
}

TEST_CASE("grpo: nothing to do") {
  for (grpo_shape const& shape : {grpo_shape{0, 2, 2, 5, 2}, grpo_shape{2, 0, 2, 5, 2}, grpo_shape{2, 2, 2, 0, 0}}) {
    grpo_result result;
    result.loss = 3.0;
    float* const none = nullptr;
    CHECK(training::grpo(fkv::host, {}, shape, grpo_input<float>{}, none, &result, {}).ok());
    CHECK(result.loss == 0.0);
    CHECK(training::grpo_bytes(fkv::host, shape) == 0);
  }
  std::vector<float> gradient(20, 1.0f);
  grpo_result result;
  CHECK(training::grpo(fkv::host, {}, {2, 1, 2, 5, 0}, grpo_input<float>{}, gradient.data(), &result, {}).ok());
  CHECK(gradient == std::vector<float>(20, 0.0f));
}

TEST_CASE("grpo: errors leave every output as it was") {
  problem<float> given({2, 2, 2, 10, 3}, 31, 0.3);
  auto const bytes = training::grpo_bytes(fkv::host, given.shape);
  testing::guarded<float> gradient(given.scores.size()), log_probs(given.picked.size());
  testing::guarded<std::byte> memory(bytes);
  auto const gradient_before = gradient, log_probs_before = log_probs;
  grpo_result result;
  result.loss = 42.0;
  auto const call = [&](grpo_config const& config, grpo_shape const& shape, grpo_input<float> const& input,
                        float* slopes, grpo_result* out, fkv::workspace scratch) {
    return training::grpo(fkv::host, config, shape, input, slopes, out, scratch).code;
  };
  fkv::workspace const scratch{memory.data(), bytes};
  auto const with_input = [&](auto&& change) {
    auto input = given.view();
    change(input);
    return call({}, given.shape, input, gradient.data(), &result, scratch);
  };
  auto const with_config = [&](auto&& change) {
    grpo_config config;
    change(config);
    return call(config, given.shape, given.view(), gradient.data(), &result, scratch);
  };
  auto const with_shape = [&](auto&& change) {
    auto shape = given.shape;
    change(shape);
    auto const code = call({}, shape, given.view(), gradient.data(), &result, scratch);
    CHECK(training::pick_log_probs(fkv::host, shape, given.scores.data(), given.picked.data(), log_probs.data()).code ==
          code);
    return code;
  };
  CHECK(with_config([](auto& config) { config.clip = -0.1; }) == errc::invalid_config);
  CHECK(with_config([](auto& config) { config.kl_weight = std::nan(""); }) == errc::invalid_config);
  CHECK(with_config([](auto& config) { config.log_ratio_limit = -1; }) == errc::invalid_config);
  CHECK(with_config([](auto& config) { config.scale = HUGE_VAL; }) == errc::invalid_config);
  CHECK(with_shape([](auto& shape) { shape.steps = -1; }) == errc::invalid_shape);
  CHECK(with_shape([](auto& shape) { shape.picks = -1; }) == errc::invalid_shape);
  CHECK(with_shape([](auto& shape) { shape.candidates = 0; }) == errc::invalid_shape);
  CHECK(with_shape([](auto& shape) { shape.steps = 1 << 30; }) == errc::invalid_shape);
  CHECK(with_input([](auto& input) { input.scores = nullptr; }) == errc::null_pointer);
  CHECK(with_input([](auto& input) { input.picked = nullptr; }) == errc::null_pointer);
  CHECK(with_input([](auto& input) { input.old_log_probs = nullptr; }) == errc::null_pointer);
  CHECK(with_input([](auto& input) { input.advantages = nullptr; }) == errc::null_pointer);
  for (std::int32_t const outside : {-1, 10, std::numeric_limits<std::int32_t>::max()}) {
    auto const kept = std::exchange(given.picked.back(), outside);
    CHECK(with_input([](auto&) {}) == errc::invalid_shape);
    CHECK(with_shape([](auto&) {}) == errc::invalid_shape);
    given.picked.back() = kept;
  }
  CHECK(call({}, given.shape, given.view(), gradient.data(), nullptr, scratch) == errc::null_pointer);
  CHECK(call({}, given.shape, given.view(), given.scores.data(), &result, scratch) == errc::overlap);
  CHECK(call({}, given.shape, given.view(), gradient.data(), &result, {nullptr, bytes}) == errc::null_pointer);
  CHECK(call({}, given.shape, given.view(), gradient.data(), &result, {memory.data(), bytes - 1}) ==
        errc::workspace_too_small);
  CHECK(training::pick_log_probs(fkv::host, given.shape, given.scores.data(), given.picked.data(),
                                 static_cast<float*>(nullptr))
            .code == errc::null_pointer);
  CHECK(gradient.same_bytes(gradient_before));
  CHECK(log_probs.same_bytes(log_probs_before));
  CHECK(result.loss == 42.0);
  CHECK(call({}, given.shape, given.view(), gradient.data(), &result, scratch) == errc::ok);
  CHECK(gradient.intact());
  CHECK(memory.intact());
}
