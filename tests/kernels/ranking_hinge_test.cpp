// SPDX-License-Identifier: Apache-2.0
// The ranking loss by kernels against the host: the same bits of gradient and counts, the same loss up to rounding.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include <foresightkv/training/ranking_hinge.hpp>

#include "support/execution.hpp"
#include "support/random.hpp"
#include "support/red_zone.hpp"

namespace fkv = foresightkv;
namespace training = foresightkv::training;

namespace {

template <class Real>
struct problem {
  int rows, candidates;
  testing::guarded<Real> scores;
  testing::guarded<float> labels;

  problem(int num_rows, int n, std::uint64_t seed)
      : rows(num_rows), candidates(n), scores(static_cast<std::size_t>(num_rows * n)), labels(scores.size()) {
    testing::random_source random(seed);
    for (std::size_t i = 0; i < scores.size(); ++i) {
      int const levels = (i / static_cast<std::size_t>(n)) % 3 == 0 ? 4 : 100000;
      scores[i] = static_cast<Real>(random.integer(-80, 80)) / 1000;
      labels[i] = static_cast<float>(random.integer(0, levels));
      if (random.chance(0.02)) labels[i] = std::numeric_limits<float>::quiet_NaN();
    }
  }
  [[nodiscard]] training::ranking_rows<Real> view() const { return {scores.data(), labels.data(), rows, candidates}; }
};

template <class Real>
struct outcome {
  testing::guarded<Real> gradient;
  std::vector<training::hinge_result> result{1};
};

template <class Real, class Exec>
outcome<Real> run(Exec const& exec, training::hinge_config const& config, problem<Real> const& given) {
  outcome<Real> made{testing::guarded<Real>(given.scores.size())};
  auto const bytes = training::ranking_hinge_bytes(exec, given.view(), config);
  testing::guarded<std::byte> work(bytes);
  REQUIRE(training::ranking_hinge(exec, config, given.view(), made.gradient.data(), made.result.data(),
                                  {work.data(), bytes})
              .ok());
  CHECK((work.intact() && made.gradient.intact()));
  return made;
}

template <class Real>
void compare(training::hinge_config const& config, problem<Real> const& given) {
  auto const host = run(fkv::host, config, given);
  auto const device = run(testing::exec, config, given);
  CHECK(device.gradient.same_bytes(host.gradient));
  auto const& got = device.result[0];
  auto const& expected = host.result[0];
  CHECK(got.rows == expected.rows);
  CHECK(got.not_finite_rows == expected.not_finite_rows);
  CHECK(got.pairs == expected.pairs);
  CHECK(got.active == expected.active);
  CHECK(std::fabs(got.loss - expected.loss) <= 1e-12 * (1.0 + expected.loss));
}

}  // namespace

TEST_CASE_TEMPLATE("ranking_hinge kernels: the host's bits for any number of candidates", Real, float, double) {
  std::uint64_t seed = 1;
  for (int const n : {1, 2, 3, 31, 255, 256, 257, 700}) {
    CAPTURE(n);
    compare<Real>({}, {4, n, seed++});
    compare<Real>({.margin = -0.02}, {3, n, seed++});
  }
}

TEST_CASE("ranking_hinge kernels: pairs at a few distances") {
  for (int const n : {8, 9, 64, 301})
    for (int const shifts : {1, 3, n / 2 - 1, n / 2, n})
      compare<float>({.num_shifts = shifts, .seed = 77, .step = 3, .first_row = 12},
                     {3, n, 50u + static_cast<unsigned>(n)});
}

TEST_CASE("ranking_hinge kernels: rows that do not count") {
  problem<float> given(6, 40, 9);
  auto const row = [&](int r) { return static_cast<std::size_t>(r * 40); };
  given.scores[row(1) + 7] = std::numeric_limits<float>::infinity();
  given.scores[row(2) + 39] = std::numeric_limits<float>::quiet_NaN();
  for (std::size_t i = 0; i < 40; ++i) {
    given.labels[row(3) + i] = 5.0f;
    given.labels[row(4) + i] = std::numeric_limits<float>::quiet_NaN();
  }
  compare<float>({}, given);
  problem<float> none(1, 40, 10);
  for (float& label : none.labels) label = 1.0f;
  compare<float>({}, none);
}

TEST_CASE("ranking_hinge kernels: no gradient, no candidates") {
  problem<float> const given(2, 50, 11);
  std::vector<training::hinge_result> result(1);
  auto const bytes = training::ranking_hinge_bytes(testing::exec, given.view());
  testing::guarded<std::byte> work(bytes);
  float* const none = nullptr;
  CHECK(training::ranking_hinge(testing::exec, {}, given.view(), none, result.data(), {work.data(), bytes}).ok());
  CHECK(result[0].rows == 2);
  training::ranking_rows<float> const empty{};
  CHECK(training::ranking_hinge(testing::exec, {}, empty, none, result.data(), {}).code == fkv::errc::unsupported);
  CHECK(training::ranking_hinge(testing::exec, {}, given.view(), none, result.data(), {work.data(), bytes - 1}).code ==
        fkv::errc::workspace_too_small);
}
