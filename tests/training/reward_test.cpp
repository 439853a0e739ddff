// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <vector>

#include <foresightkv/training/reward.hpp>

#include "support/data.hpp"
#include "support/random.hpp"
#include "support/red_zone.hpp"
#include "support/training_vectors.hpp"

namespace fkv = foresightkv;
namespace training = fkv::training;
using fkv::errc;
using training::reward_config;
using training::reward_input;
using training::reward_result;

namespace {

struct problem {
  std::vector<float> full, evicted, entropy;
  int rollouts = 1;

  [[nodiscard]] reward_input view() const {
    return {full.data(), evicted.data(), entropy.data(), rollouts, static_cast<int>(full.size())};
  }
};

struct outcome {
  std::vector<reward_result> results;
  std::vector<std::int32_t> kept;
};

outcome solve(problem const& given, reward_config const& config) {
  outcome got{std::vector<reward_result>(static_cast<std::size_t>(given.rollouts)),
              std::vector<std::int32_t>(given.full.size(), -1)};
  std::vector<std::byte> memory(training::rewards_bytes(fkv::host, config, given.view()));
  REQUIRE(training::rewards(fkv::host, config, given.view(), got.results.data(), got.kept.data(),
                            {memory.data(), memory.size()})
              .ok());
  if (!got.results.empty()) got.kept.resize(static_cast<std::size_t>(got.results[0].tokens));
  return got;
}

}  // namespace

TEST_CASE("reward: stored values of the published code") {
  auto const folder = testing::vectors_folder();
  testing::check_grpo(fkv::io::safetensors_file(folder / "grpo_reward.safetensors"));
}

TEST_CASE("reward: only certain tokens whose loss rose a lot, after the first eviction") {
  // Tokens 0 and 1 see no eviction; of the ten others the two of highest entropy (4 and 9) are left out.
  problem const given{{0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                      {9, 9, 1, 2.5f, 9, 2.6f, 0, 5, -4, 9, 1, 1},
                      {9, 9, 0, 0, 5, 0, 0, 0, 0, 6, 1, 2}};
  auto const got = solve(given, {.first_token = 2});
  CHECK(got.kept == std::vector<std::int32_t>{0, 1, 3, 4, 5, 6, 8, 9});
  REQUIRE(got.results.size() == 1);
  CHECK(got.results[0].tokens == 8);
  CHECK(got.results[0].worse == 2);  // 2.6 and 5; 2.5 rose by the threshold, not beyond it; a fall is no gain
  CHECK(got.results[0].reward == doctest::Approx(-(1.6 * 1.6 + 16.0) / 8));
}

TEST_CASE("reward: of equal entropies the earlier token goes") {
  problem given{std::vector<float>(10, 1.0f), std::vector<float>(10, 1.0f), std::vector<float>(10, 0.5f)};
  CHECK(solve(given, {}).kept == std::vector<std::int32_t>{2, 3, 4, 5, 6, 7, 8, 9});
  given.entropy[1] = -0.0f;
  given.entropy[5] = 0.75f;
  CHECK(solve(given, {}).kept == std::vector<std::int32_t>{1, 2, 3, 4, 6, 7, 8, 9});
  CHECK(solve(given, {.entropy_fraction_dropped = 0.0}).kept.size() == 10);
}

TEST_CASE("reward: the number of tokens left out is rounded down") {
  for (int tokens = 1; tokens <= 60; ++tokens) {
    problem const given{std::vector<float>(static_cast<std::size_t>(tokens), 1.0f),
                        std::vector<float>(static_cast<std::size_t>(tokens), 1.0f),
                        std::vector<float>(static_cast<std::size_t>(tokens), 1.0f)};
    CHECK(solve(given, {}).results[0].tokens == tokens - tokens / 5);
  }
}

TEST_CASE("reward: each rollout by its own losses") {
  testing::random_source random(3);
  problem given;
  given.rollouts = 3;
  for (int t = 0; t < 40; ++t) {
    given.full.push_back(static_cast<float>(random.uniform(0, 2)));
    given.entropy.push_back(static_cast<float>(random.uniform()));
  }
  for (int i = 0; i < 120; ++i) given.evicted.push_back(static_cast<float>(random.uniform(0, 6)));
  auto const together = solve(given, {.first_token = 5});
  for (std::size_t rollout = 0; rollout < 3; ++rollout) {
    auto one = given;
    one.rollouts = 1;
    one.evicted.assign(given.evicted.begin() + static_cast<std::ptrdiff_t>(rollout) * 40,
                       given.evicted.begin() + static_cast<std::ptrdiff_t>(rollout + 1) * 40);
    auto const apart = solve(one, {.first_token = 5});
    CHECK(apart.results[0].reward == together.results[rollout].reward);
    CHECK(apart.results[0].worse == together.results[rollout].worse);
  }
  CHECK(together.results[0].reward != together.results[1].reward);
}

TEST_CASE("reward: values that are not finite make it NaN, and are counted") {
  problem given{std::vector<float>(20, 1.0f), std::vector<float>(20, 1.0f), std::vector<float>(20, 1.0f)};
  auto const check = [&](std::vector<float>& values) {
    for (float const bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      float const kept = std::exchange(values[7], bad);
      auto const got = solve(given, {.first_token = 4}).results[0];
      CHECK(std::isnan(got.reward));
      CHECK(got.not_finite == 1);
      CHECK(solve(given, {.first_token = 8}).results[0].reward ==
            0.0);  // before the first eviction it is of no account
      values[7] = kept;
    }
  };
  check(given.full);
  check(given.evicted);
  check(given.entropy);
  auto const nothing = solve(given, {.first_token = 20});
  CHECK(std::isnan(nothing.results[0].reward));
  CHECK(nothing.results[0].tokens == 0);
  CHECK(std::isnan(solve(problem{}, {}).results[0].reward));
}

TEST_CASE("reward: advantages of a group") {
  std::vector<double> const rewards{-3.0, -1.0, -2.0, -2.0};
  std::vector<double> got(4);
  REQUIRE(training::group_advantages(fkv::host, 4, rewards.data(), got.data()).ok());
  double const deviation = std::sqrt(0.5);
  CHECK(got[0] == doctest::Approx(-1.0 / deviation));
  CHECK(got[1] == doctest::Approx(1.0 / deviation));
  CHECK(got[2] == 0.0);
  std::vector<double> const equal(5, -0.7);
  std::vector<double> none(5, 1.0);
  REQUIRE(training::group_advantages(fkv::host, 5, equal.data(), none.data()).ok());
  for (double const advantage : none) CHECK(std::fabs(advantage) <= 1e-7);

  std::vector<double> const broken{-3.0, std::nan(""), -1.0, -HUGE_VAL};
  REQUIRE(training::group_advantages(fkv::host, 4, broken.data(), got.data()).ok());
  CHECK(got[0] == doctest::Approx(-1.0));
  CHECK(got[1] == 0.0);
  CHECK(got[2] == doctest::Approx(1.0));
  CHECK(got[3] == 0.0);
}

TEST_CASE("reward: errors leave every output as it was") {
  problem const given{std::vector<float>(20, 1.0f), std::vector<float>(20, 1.0f), std::vector<float>(20, 1.0f)};
  auto const bytes = training::rewards_bytes(fkv::host, {}, given.view());
  testing::guarded<std::byte> memory(bytes);
  testing::guarded<reward_result> results(1);
  auto const before = results;
  auto const call = [&](reward_config const& config, reward_input const& input, reward_result* out,
                        fkv::workspace scratch) {
    return training::rewards(fkv::host, config, input, out, nullptr, scratch).code;
  };
  fkv::workspace const scratch{memory.data(), bytes};
  auto const with = [&](auto&& change) {
    auto input = given.view();
    change(input);
    return call({}, input, results.data(), scratch);
  };
  CHECK(call({.first_token = -1}, given.view(), results.data(), scratch) == errc::invalid_config);
  CHECK(call({.entropy_fraction_dropped = 1.0}, given.view(), results.data(), scratch) == errc::invalid_config);
  CHECK(call({.entropy_fraction_dropped = std::nan("")}, given.view(), results.data(), scratch) ==
        errc::invalid_config);
  CHECK(call({.threshold = std::nan("")}, given.view(), results.data(), scratch) == errc::invalid_config);
  CHECK(with([](auto& input) { input.rollouts = -1; }) == errc::invalid_shape);
  CHECK(with([](auto& input) { input.tokens = -1; }) == errc::invalid_shape);
  CHECK(with([](auto& input) { input.loss_full = nullptr; }) == errc::null_pointer);
  CHECK(with([](auto& input) { input.loss_evicted = nullptr; }) == errc::null_pointer);
  CHECK(with([](auto& input) { input.entropy = nullptr; }) == errc::null_pointer);
  CHECK(call({}, given.view(), nullptr, scratch) == errc::null_pointer);
  CHECK(call({}, given.view(), results.data(), {memory.data(), bytes - 1}) == errc::workspace_too_small);
  CHECK(results.same_bytes(before));
  double reward = 1.0, advantage = 5.0;
  CHECK(training::group_advantages(fkv::host, 1, &reward, &advantage).code == errc::invalid_shape);
  CHECK(training::group_advantages(fkv::host, 0, &reward, &advantage).code == errc::invalid_shape);
  CHECK(training::group_advantages(fkv::host, 2, nullptr, &advantage).code == errc::null_pointer);
  CHECK(training::group_advantages(fkv::host, 2, &reward, &advantage, 0.0).code == errc::invalid_config);
  CHECK(advantage == 5.0);
  CHECK(call({}, given.view(), results.data(), scratch) == errc::ok);
  CHECK(results.intact());
  CHECK(memory.intact());
}
