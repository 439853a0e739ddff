// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>

#include <foresightkv/training/schedule.hpp>

namespace training = foresightkv::training;
using training::learning_rate;
using training::schedule_config;
using training::schedule_kind;

TEST_CASE("schedule: warm-up and cosine never waste a step") {
  schedule_config const config{schedule_kind::warm_up_cosine, 0.01, 10, 60, 0.1};
  CHECK(learning_rate(config, 0) == doctest::Approx(0.001));
  CHECK(learning_rate(config, 9) == doctest::Approx(0.01));
  CHECK(learning_rate(config, 10) == doctest::Approx(0.01));
  CHECK(learning_rate(config, 35) == doctest::Approx(0.01 * 0.55));  // half of the way down
  CHECK(learning_rate(config, 60) == doctest::Approx(0.001));
  for (int step = 0; step < 60; ++step) CHECK(learning_rate(config, step) > 0.0009);
  for (int step = 11; step < 60; ++step) CHECK(learning_rate(config, step) < learning_rate(config, step - 1));
}

TEST_CASE("schedule: the published supervised one begins with a step of rate 0") {
  auto const config = training::published_supervised_schedule;
  CHECK(learning_rate(config, 0) == 0.0);
  CHECK(learning_rate(config, 1) == doctest::Approx(1e-3));
  CHECK(learning_rate(config, 10) == doctest::Approx(1e-2));
  CHECK(learning_rate(config, 505) == doctest::Approx(5e-3));
  CHECK(learning_rate(config, 999) > 0.0);
  CHECK(learning_rate(config, 1000) == doctest::Approx(0.0));
}

TEST_CASE("schedule: the published RL one overshoots once and then stays") {
  auto const config = training::published_rl_schedule;
  CHECK(learning_rate(config, 0) == doctest::Approx(3e-5));
  CHECK(learning_rate(config, 9) == doctest::Approx(3e-4));
  CHECK(learning_rate(config, 10) == doctest::Approx(3.3e-4));
  CHECK(learning_rate(config, 11) == doctest::Approx(3e-4));
  CHECK(learning_rate(config, 249) == doctest::Approx(3e-4));
  CHECK(training::published_kl_weight(100) == 0.05);
  CHECK(training::published_kl_weight(101) == 0.0);
}

TEST_CASE("schedule: steps outside, and no warm-up") {
  for (auto const kind : {schedule_kind::warm_up_cosine, schedule_kind::constant, schedule_kind::published_supervised,
                          schedule_kind::published_rl})
    for (int const warm_up : {0, 1, 5, 20})
      for (int const total : {0, 1, 5, 10}) {
        schedule_config const config{kind, 1.0, warm_up, total};
        CHECK(config.valid());
        for (int const step : {-5, 0, 1, 4, 5, 10, 1000000}) {
          double const rate = learning_rate(config, step);
          CHECK(std::isfinite(rate));
          CHECK(rate >= 0.0);
          CHECK(rate <= 1.0 + (kind == schedule_kind::published_rl ? 1.0 : 0.0));
        }
      }
  CHECK(learning_rate({schedule_kind::constant, 0.5, 10, 100}, 0) == 0.5);
  CHECK_FALSE(schedule_config{schedule_kind::constant, -1.0}.valid());
  CHECK_FALSE(schedule_config{schedule_kind::constant, 1.0, -1}.valid());
  CHECK_FALSE(schedule_config{schedule_kind::constant, std::nan("")}.valid());
  CHECK_FALSE(schedule_config{schedule_kind::constant, HUGE_VAL}.valid());
}
