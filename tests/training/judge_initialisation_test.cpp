// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include <foresightkv/training/judge_gradient.hpp>
#include <foresightkv/training/judge_initialisation.hpp>

#include "support/red_zone.hpp"
#include "support/training_problem.hpp"

namespace fkv = foresightkv;
namespace training = fkv::training;
using fkv::errc;
using training::initialisation_config;
using training::judge_start;

namespace {

constexpr fkv::judge_shape shape{3, 2, 3, 10, 7};

template <class Features = fkv::paper>
std::vector<float> begun(initialisation_config const& config) {
  testing::guarded<float> packed(fkv::packed_judge_floats(shape));
  REQUIRE(training::initialise_judge<Features>(fkv::host, config, shape, packed.data()).ok());
  CHECK(packed.intact());
  return {packed.data(), packed.data() + packed.size()};
}

/// Eight statistics without `sum`.
struct without_sum : fkv::judge_features<fkv::maximum, fkv::minimum, fkv::last<4>, fkv::last<16>, fkv::last<8>,
                                         fkv::last<32>, fkv::accumulated, fkv::decayed> {};

}  // namespace

TEST_CASE("judge_initialisation: random weights have the deviation asked for, biases are 0") {
  auto const packed = begun({.start = judge_start::random, .deviation = 0.05, .seed = 4});
  double squares = 0.0, sum = 0.0;
  std::set<float> different;
  std::size_t count = 0;
  for (std::size_t head = 0; head < 6; ++head) {
    float const* const own = packed.data() + head * shape.head_floats();
    auto const weights = static_cast<std::size_t>(shape.inputs()) * 16;
    for (std::size_t i = 0; i < shape.head_floats(); ++i) {
      bool const weight = i < weights || (i >= weights + 16 && i < weights + 32);
      if (!weight) CHECK(own[i] == 0.0f);
      if (!weight) continue;
      ++count;
      sum += static_cast<double>(own[i]);
      squares += static_cast<double>(own[i]) * static_cast<double>(own[i]);
      different.insert(own[i]);
    }
  }
  CHECK(std::fabs(sum / static_cast<double>(count)) < 0.003);
  CHECK(std::sqrt(squares / static_cast<double>(count)) == doctest::Approx(0.05).epsilon(0.03));
  CHECK(different.size() > count * 9 / 10);
}

TEST_CASE("judge_initialisation: a seed names its weights") {
  initialisation_config config{.start = judge_start::random, .seed = 1};
  auto const first = begun(config);
  CHECK(begun(config) == first);
  config.seed = 2;
  CHECK(begun(config) != first);
}

TEST_CASE("judge_initialisation: started at the window's sum, a judge ranks by it") {
  auto const check = [](std::vector<float> const& packed, int place) {
    testing::judge_problem<float, float> const given({1, 2, 3, 10, 7}, 4, 40, 50, 9);
    auto const count = training::num_scores(given.shape, given.view());
    std::vector<float> hidden(count * 16), scores(count);
    REQUIRE(training::judge_forward(fkv::host, given.shape, packed.data(), given.view(), hidden.data(), scores.data())
                .ok());
    auto const sum_of = [&](std::size_t i) {
      double sum = 0.0;
      for (std::size_t j = 0; j < 3; ++j)
        sum += static_cast<double>(given.statistics[i * 24 + static_cast<std::size_t>(place) * 3 + j]);
      return sum;
    };
    for (std::size_t i = 0; i + 1 < count; ++i) {
      double const apart = sum_of(i) - sum_of(i + 1);
      if (std::fabs(apart) > 1e-5) CHECK((apart > 0.0) == (scores[i] > scores[i + 1]));
    }
  };
  check(begun({.start = judge_start::window_sum, .seed = 3}), 2);
  check(begun<fkv::reference_checkpoint>({.start = judge_start::window_sum, .seed = 3}), 2);
}

TEST_CASE("judge_initialisation: errors leave the weights as they were") {
  testing::guarded<float> packed(fkv::packed_judge_floats(shape));
  auto const before = packed;
  auto const code = [&](initialisation_config const& config, fkv::judge_shape const& given, float* to) {
    return training::initialise_judge<fkv::paper>(fkv::host, config, given, to).code;
  };
  CHECK(code({.deviation = -1.0}, shape, packed.data()) == errc::invalid_config);
  CHECK(code({.deviation = std::numeric_limits<double>::infinity()}, shape, packed.data()) == errc::invalid_config);
  CHECK(code({}, {}, packed.data()) == errc::invalid_shape);
  CHECK(code({}, shape, nullptr) == errc::null_pointer);
  CHECK(training::initialise_judge<without_sum>(fkv::host, {}, shape, packed.data()).code == errc::invalid_config);
  CHECK(packed.same_bytes(before));
  CHECK(training::initialise_judge<without_sum>(fkv::host, {.start = judge_start::random}, shape, packed.data()).ok());
}
