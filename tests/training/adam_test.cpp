// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include <foresightkv/training/adam.hpp>

#include "support/random.hpp"
#include "support/red_zone.hpp"

namespace fkv = foresightkv;
namespace training = fkv::training;
using fkv::errc;
using training::adam_config;
using training::adam_state;

namespace {

template <class Real>
struct optimiser {
  std::vector<Real> weights, mean, square;

  explicit optimiser(std::size_t count) : weights(count), mean(count), square(count) {}
  adam_state<Real> state() { return {weights.data(), mean.data(), square.data(), weights.size()}; }
  void step(double rate, int number, std::vector<Real> const& gradient, fkv::host_execution exec = fkv::host) {
    REQUIRE(training::adam_step(exec, adam_config{}, rate, number, gradient.data(), state()).ok());
  }
};

}  // namespace

TEST_CASE("adam: the algorithm as it is written") {
  testing::random_source random(3);
  optimiser<double> ours(50);
  optimiser<float> single(50);
  std::vector<double> weights(50), first(50), second(50);
  for (int t = 1; t <= 30; ++t) {
    std::vector<double> gradient(50);
    for (double& slope : gradient) slope = static_cast<double>(random.normal()) * std::pow(10.0, random.integer(-4, 2));
    double const rate = 0.01 * random.uniform();
    ours.step(rate, t, gradient);
    single.step(rate, t, {gradient.begin(), gradient.end()});
    for (std::size_t i = 0; i < 50; ++i) {
      first[i] = 0.9 * first[i] + 0.1 * gradient[i];
      second[i] = 0.999 * second[i] + 0.001 * gradient[i] * gradient[i];
      double const unbiased = first[i] / (1 - std::pow(0.9, t));
      weights[i] -= rate * unbiased / (std::sqrt(second[i] / (1 - std::pow(0.999, t))) + 1e-8);
    }
  }
  for (std::size_t i = 0; i < 50; ++i) {
    CHECK(ours.weights[i] == doctest::Approx(weights[i]).epsilon(1e-11));
    CHECK(static_cast<double>(single.weights[i]) == doctest::Approx(weights[i]).epsilon(2e-5).scale(1e-2));
  }
}

TEST_CASE("adam: the first step has the size of the rate, against the gradient's sign") {
  optimiser<float> one(3);
  one.step(0.25, 1, {4.0f, -1e-3f, 0.0f});
  CHECK(one.weights[0] == doctest::Approx(-0.25));
  CHECK(one.weights[1] == doctest::Approx(0.25).epsilon(1e-4));
  CHECK(one.weights[2] == 0.0f);
}

TEST_CASE("adam: a weight without gradient, and a rate of 0, stay where they are") {
  optimiser<float> one(2);
  one.weights = {1.5f, -2.0f};
  for (int t = 1; t < 100; ++t) one.step(0.1, t, {0.0f, 1.0f});
  CHECK(one.weights[0] == 1.5f);
  float const before = one.weights[1];
  CHECK(before < -2.0f);
  one.step(0.0, 100, {0.0f, 1.0f});
  CHECK(one.weights[1] == before);
}

TEST_CASE("adam: results do not depend on the number of threads") {
  testing::random_source random(9);
  std::vector<float> gradient(100003);
  random.fill_normal<float>(gradient);
  optimiser<float> one(gradient.size()), many(gradient.size());
  for (int t = 1; t < 4; ++t) {
    one.step(0.01, t, gradient, fkv::host.threads(1));
    many.step(0.01, t, gradient, fkv::host.threads(5));
  }
  CHECK(one.weights == many.weights);
  CHECK(one.mean == many.mean);
  CHECK(one.square == many.square);
}

TEST_CASE("adam: errors leave the state as it was") {
  testing::guarded<float> weights(10, 1.0f), mean(10, 0.0f), square(10, 0.0f), gradient(10, 1.0f);
  auto const call = [&](adam_config const& config, double rate, int t, float const* slopes,
                        adam_state<float> const& state) {
    return training::adam_step(fkv::host, config, rate, t, slopes, state).code;
  };
  adam_state<float> const state{weights.data(), mean.data(), square.data(), 10};
  CHECK(call({1.0}, 0.1, 1, gradient.data(), state) == errc::invalid_config);
  CHECK(call({0.9, -0.1}, 0.1, 1, gradient.data(), state) == errc::invalid_config);
  CHECK(call({0.9, 0.999, 0.0}, 0.1, 1, gradient.data(), state) == errc::invalid_config);
  CHECK(call({}, -0.1, 1, gradient.data(), state) == errc::invalid_config);
  CHECK(call({}, std::nan(""), 1, gradient.data(), state) == errc::invalid_config);
  CHECK(call({}, 0.1, 0, gradient.data(), state) == errc::invalid_config);
  CHECK(call({}, 0.1, 1, nullptr, state) == errc::null_pointer);
  CHECK(call({}, 0.1, 1, gradient.data(), {nullptr, mean.data(), square.data(), 10}) == errc::null_pointer);
  CHECK(call({}, 0.1, 1, gradient.data(), {weights.data(), nullptr, square.data(), 10}) == errc::null_pointer);
  CHECK(call({}, 0.1, 1, gradient.data(), {weights.data(), mean.data(), nullptr, 10}) == errc::null_pointer);
  CHECK(call({}, 0.1, 1, mean.data() + 2, state) == errc::overlap);
  for (float const weight : weights) CHECK(weight == 1.0f);
  for (float const value : mean) CHECK(value == 0.0f);
  CHECK(call({}, 0.1, 1, nullptr, {}) == errc::ok);
  CHECK(call({}, 0.1, 1, gradient.data(), state) == errc::ok);
  CHECK(weights.intact());
  CHECK(mean.intact());
  CHECK(square.intact());
}
