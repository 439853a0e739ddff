// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <foresightkv/training/standardisation.hpp>

#include "support/red_zone.hpp"
#include "support/training_problem.hpp"
#include "support/vector_file.hpp"

namespace fkv = foresightkv;
namespace training = fkv::training;
using fkv::errc;
using testing::judge_problem;

namespace {

struct measured {
  std::vector<double> sums, squares;
  std::vector<float> mean, deviation;

  explicit measured(fkv::judge_shape const& shape)
      : sums(static_cast<std::size_t>(shape.num_kv_heads * shape.inputs())),
        squares(sums.size()),
        mean(sums.size()),
        deviation(sums.size()) {}
  [[nodiscard]] training::input_moments moments() { return {sums.data(), squares.data()}; }
  [[nodiscard]] training::standardisation view() const { return {mean.data(), deviation.data()}; }
};

template <class Key, class Value>
measured measure(judge_problem<Key, Value> const& given, fkv::host_execution exec = fkv::host) {
  measured found(given.shape);
  REQUIRE(training::add_moments(exec, given.shape, given.view(), found.moments()).ok());
  REQUIRE(training::finish_moments(exec, given.shape, found.moments(), std::int64_t{given.steps} * given.candidates,
                                   found.mean.data(), found.deviation.data())
              .ok());
  return found;
}

/// Input i of a candidate of a row.
double input_of(judge_problem<float, float> const& given, int row, int candidate, int input) {
  int const head = row % given.shape.num_kv_heads, key = given.shape.key_head_dim, value = given.shape.value_head_dim;
  auto const at = static_cast<std::size_t>(row * given.candidates + candidate);
  auto const token = static_cast<std::size_t>(head * given.tokens + given.positions[at]);
  if (input < key)
    return static_cast<double>(given.keys[token * static_cast<std::size_t>(key) + static_cast<std::size_t>(input)]);
  input -= key;
  if (input < value)
    return static_cast<double>(given.values[token * static_cast<std::size_t>(value) + static_cast<std::size_t>(input)]);
  return static_cast<double>(
      given.statistics[at * static_cast<std::size_t>(8 * given.shape.group) + static_cast<std::size_t>(input - value)]);
}

/// Scores of judges that read standardised inputs, from the definition.
std::vector<double> scores_of_standardised(judge_problem<float, float> const& given, measured const& inputs,
                                           std::vector<double> const& weights) {
  std::vector<double> scores;
  auto const& shape = given.shape;
  for (int row = 0; row < given.steps * shape.num_kv_heads; ++row) {
    auto const head = static_cast<std::size_t>(row % shape.num_kv_heads);
    double const* const own = weights.data() + head * shape.head_floats();
    auto const count = static_cast<std::size_t>(shape.inputs());
    for (int c = 0; c < given.candidates; ++c) {
      double score = own[(count + 2) * 16];
      for (std::size_t u = 0; u < 16; ++u) {
        double z = own[count * 16 + u];
        for (std::size_t i = 0; i < count; ++i)
          z += own[i * 16 + u] *
               (input_of(given, row, c, static_cast<int>(i)) - static_cast<double>(inputs.mean[head * count + i])) /
               static_cast<double>(inputs.deviation[head * count + i]);
        score += own[(count + 1) * 16 + u] * 0.5 * z * (1.0 + std::erf(z / std::sqrt(2.0)));
      }
      scores.push_back(score);
    }
  }
  return scores;
}

judge_problem<float, float> uneven_problem() {
  judge_problem<float, float> given({1, 2, 2, 6, 5}, 4, 15, 30, 3);
  for (std::size_t i = 0; i < given.keys.size(); ++i) given.keys[i] = 5.0f * given.keys[i] + static_cast<float>(i % 6);
  for (std::size_t i = 0; i < given.statistics.size(); ++i) given.statistics[i] *= 0.01f;
  return given;
}

}  // namespace

TEST_CASE("standardisation: means and deviations per head, whatever the number of threads") {
  auto const given = uneven_problem();
  auto const found = measure(given);
  int const inputs = given.shape.inputs();
  for (int head = 0; head < 2; ++head)
    for (int i = 0; i < inputs; ++i) {
      double sum = 0.0, squares = 0.0;
      for (int row = head; row < 8; row += 2)
        for (int c = 0; c < 15; ++c) sum += input_of(given, row, c, i);
      double const mean = sum / 60;
      for (int row = head; row < 8; row += 2)
        for (int c = 0; c < 15; ++c) squares += std::pow(input_of(given, row, c, i) - mean, 2);
      auto const at = static_cast<std::size_t>(head * inputs + i);
      CHECK(static_cast<double>(found.mean[at]) == doctest::Approx(mean).epsilon(1e-6).scale(1.0));
      CHECK(static_cast<double>(found.deviation[at]) == doctest::Approx(std::sqrt(squares / 60)).epsilon(1e-6));
    }
  auto const many = measure(given, fkv::host.threads(3));
  CHECK(many.sums == found.sums);
  CHECK(many.squares == found.squares);
}

TEST_CASE("standardisation: an input that hardly varies is not blown up") {
  judge_problem<float, float> given({1, 1, 1, 2, 2}, 1, 4, 8, 3);
  std::fill(given.keys.begin(), given.keys.end(), 0.0f);
  given.positions = {0, 1, 2, 3};
  given.keys[1] = 4e-6f;  // deviation of the second input: sqrt(3) * 1e-6
  auto const deviation_with = [&](auto... least) {
    auto found = measure(given);
    REQUIRE(training::finish_moments(fkv::host, given.shape, found.moments(), 4, found.mean.data(),
                                     found.deviation.data(), least...)
                .ok());
    CHECK(found.deviation[0] == 1.0f);  // never varies
    return static_cast<double>(found.deviation[1]);
  };
  CHECK(deviation_with() == doctest::Approx(1e-3));
  CHECK(deviation_with(0.25) == doctest::Approx(0.25));
  CHECK(deviation_with(1e-6) == doctest::Approx(std::sqrt(3.0) * 1e-6));
  CHECK(deviation_with(0.0) == doctest::Approx(std::sqrt(3.0) * 1e-6));
  auto found = measure(given);
  for (double const least : {-1.0, std::numeric_limits<double>::quiet_NaN()})
    CHECK(training::finish_moments(fkv::host, given.shape, found.moments(), 4, found.mean.data(),
                                   found.deviation.data(), least)
              .code == fkv::errc::invalid_config);
}

TEST_CASE("standardisation: folded weights give on raw inputs what was trained on standardised ones") {
  auto const given = uneven_problem();
  auto const inputs = measure(given);
  std::vector<double> const trained(given.weights.begin(), given.weights.end());
  auto const expected = scores_of_standardised(given, inputs, trained);
  std::vector<double> folded(trained.size()), hidden(expected.size() * 16), scores(expected.size());
  REQUIRE(training::fold_standardisation(fkv::host, given.shape, inputs.view(), trained.data(), folded.data()).ok());
  REQUIRE(
      training::judge_forward(fkv::host, given.shape, folded.data(), given.view(), hidden.data(), scores.data()).ok());
  testing::worst_difference difference;
  for (std::size_t i = 0; i < scores.size(); ++i) difference.add(scores[i], expected[i]);
  CHECK(difference.within(1e-12));

  auto in_place = trained;
  REQUIRE(training::fold_standardisation(fkv::host, given.shape, inputs.view(), in_place.data(), in_place.data()).ok());
  CHECK(in_place == folded);
}

TEST_CASE("standardisation: unfolding is the inverse of folding") {
  auto const given = uneven_problem();
  auto const inputs = measure(given);
  std::vector<double> const raw(given.weights.begin(), given.weights.end());
  std::vector<double> trained(raw.size());
  REQUIRE(training::unfold_standardisation(fkv::host, given.shape, inputs.view(), raw.data(), trained.data()).ok());
  auto const expected = scores_of_standardised(given, inputs, trained);
  std::vector<double> hidden(expected.size() * 16), scores(expected.size());
  REQUIRE(training::judge_forward(fkv::host, given.shape, raw.data(), given.view(), hidden.data(), scores.data()).ok());
  testing::worst_difference difference;
  for (std::size_t i = 0; i < scores.size(); ++i) difference.add(scores[i], expected[i]);
  CHECK(difference.within(1e-12));

  auto in_place = raw;
  REQUIRE(
      training::unfold_standardisation(fkv::host, given.shape, inputs.view(), in_place.data(), in_place.data()).ok());
  CHECK(in_place == trained);
  REQUIRE(training::fold_standardisation(fkv::host, given.shape, inputs.view(), in_place.data(), in_place.data()).ok());
  testing::worst_difference back;
  for (std::size_t i = 0; i < raw.size(); ++i) back.add(in_place[i], raw[i]);
  CHECK(back.within(1e-12));
  CHECK(training::unfold_standardisation<double>(fkv::host, given.shape, inputs.view(), nullptr, trained.data()).code ==
        fkv::errc::null_pointer);
}

TEST_CASE("standardisation: the gradient by the trained weights, against finite differences") {
  auto const given = uneven_problem();
  auto const inputs = measure(given);
  std::vector<double> trained(given.weights.begin(), given.weights.end());
  std::vector<double> const slopes(given.slopes.begin(), given.slopes.end());
  std::vector<double> folded(trained.size()), gradient(trained.size()), hidden(slopes.size() * 16),
      scores(slopes.size());
  REQUIRE(training::fold_standardisation(fkv::host, given.shape, inputs.view(), trained.data(), folded.data()).ok());
  REQUIRE(
      training::judge_forward(fkv::host, given.shape, folded.data(), given.view(), hidden.data(), scores.data()).ok());
  std::vector<std::byte> memory(training::judge_backward_bytes<double>(fkv::host, given.shape, given.view()));
  REQUIRE(training::judge_backward(fkv::host, given.shape, folded.data(), given.view(), hidden.data(), slopes.data(),
                                   training::output_bias::trained, gradient.data(), {memory.data(), memory.size()})
              .ok());
  REQUIRE(training::standardise_gradient(fkv::host, given.shape, inputs.view(), gradient.data()).ok());
  auto const loss = [&] {
    auto const at = scores_of_standardised(given, inputs, trained);
    double sum = 0.0;
    for (std::size_t i = 0; i < at.size(); ++i) sum += at[i] * slopes[i];
    return sum;
  };
  double worst = 0.0;
  for (std::size_t i = 0; i < trained.size(); i += 3) {
    double const before = trained[i], step = 1e-5;
    trained[i] = before + step;
    double const up = loss();
    trained[i] = before - step;
    double const down = loss();
    trained[i] = before;
    worst = std::max(worst, std::fabs((up - down) / (2 * step) - gradient[i]));
  }
  CHECK(worst <= 2e-8);
}

TEST_CASE("standardisation: inputs without variation pass unchanged but for their mean") {
  auto given = uneven_problem();
  std::fill(given.keys.begin(), given.keys.end(), 0.1f);
  std::fill(given.values.begin(), given.values.end(), 0.0f);
  given.statistics[7] = std::numeric_limits<float>::infinity();
  auto const found = measure(given);
  for (std::size_t i = 0; i < 11; ++i) CHECK(found.deviation[i] == 1.0f);
  CHECK(found.mean[0] == 0.1f);
  CHECK(found.mean[11 + 7] == 0.0f);
  CHECK(found.deviation[11 + 7] == 1.0f);
}

TEST_CASE("standardisation: errors leave every output as it was") {
  auto const given = uneven_problem();
  auto inputs = measure(given);
  auto const& shape = given.shape;
  testing::guarded<float> folded(given.weights.size());
  auto const before = folded;
  auto const fold = [&](training::standardisation const& by, float const* from, float* to) {
    return training::fold_standardisation(fkv::host, shape, by, from, to).code;
  };
  CHECK(fold({nullptr, inputs.deviation.data()}, given.weights.data(), folded.data()) == errc::null_pointer);
  CHECK(fold({inputs.mean.data(), nullptr}, given.weights.data(), folded.data()) == errc::null_pointer);
  CHECK(fold(inputs.view(), nullptr, folded.data()) == errc::null_pointer);
  CHECK(fold(inputs.view(), given.weights.data(), nullptr) == errc::null_pointer);
  for (float const bad :
       {0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto broken = inputs;
    broken.deviation.back() = bad;
    CHECK(fold(broken.view(), given.weights.data(), folded.data()) == errc::invalid_config);
    CHECK(training::standardise_gradient(fkv::host, shape, broken.view(), folded.data()).code == errc::invalid_config);
  }
  inputs.mean.back() = std::numeric_limits<float>::quiet_NaN();
  CHECK(fold(inputs.view(), given.weights.data(), folded.data()) == errc::invalid_config);
  CHECK(folded.same_bytes(before));
  measured target(shape);
  CHECK(training::add_moments(fkv::host, shape, given.view(), {nullptr, target.squares.data()}).code ==
        errc::null_pointer);
  CHECK(training::finish_moments(fkv::host, shape, target.moments(), 0, target.mean.data(), target.deviation.data())
            .code == errc::invalid_shape);
  CHECK(training::finish_moments(fkv::host, shape, target.moments(), 5, nullptr, target.deviation.data()).code ==
        errc::null_pointer);
}
