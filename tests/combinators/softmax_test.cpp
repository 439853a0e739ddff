// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include <foresightkv/combinators/softmax.hpp>
#include <foresightkv/scorers/key_norm.hpp>

#include "support/sample_scorers.hpp"
#include "support/scorer_case.hpp"

namespace fkv = foresightkv;

namespace {

using testing::naive_row;

std::vector<double> naive_softmax(naive_row const& row, std::vector<double> scores) {
  double largest = -1e300, total = 0.0;
  for (std::size_t slot = 0; slot < scores.size(); ++slot)
    if (row.candidate[slot]) largest = std::max(largest, scores[slot]);
  for (std::size_t slot = 0; slot < scores.size(); ++slot)
    total += scores[slot] = row.candidate[slot] ? std::exp(scores[slot] - largest) : 0.0;
  for (double& score : scores) score = total > 0.0 ? score / total : 0.0;
  return scores;
}

}  // namespace

TEST_CASE("softmax: over the candidates, 0 for the protected") {
  using scorer = fkv::softmax<fkv::key_norm>;
  static_assert(fkv::row_scorer<scorer> && !scorer::needs_time_order && scorer::scratch_rows == 0);
  testing::check_scorer(
      scorer{},
      [](naive_row const& row) {
        std::vector<double> scores;
        for (auto const& key : row.key) scores.push_back(-std::sqrt(row.dot(key, key)));
        return naive_softmax(row, scores);
      },
      1e-5);
}

TEST_CASE("softmax: NaN and -inf get nothing, +inf and huge scores share everything") {
  float const infinity = std::numeric_limits<float>::infinity();
  for (float const odd : {infinity, 3e38f, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
    CAPTURE(odd);
    testing::random_source random(30);
    testing::scorer_case<float> tokens({.layers = 1, .sequences = 1, .kv_heads = 1}, random);
    for (bool const shuffled : {false, true}) {
      fkv::softmax<testing::odd_scorer> const scorer{{odd}};
      if (shuffled)
        tokens.score_in(scorer, testing::shuffled_block{&random});
      else
        tokens.score(scorer);
      naive_row const row = tokens.naive(0);
      int odd_candidates = 0;
      double of_odd = 0.0, of_others = 0.0;
      for (std::size_t slot = 0; slot < row.length(); ++slot) {
        double const got = double{tokens.scores.at(0, static_cast<int>(slot))};
        bool const is_odd = row.position[slot] % 5 == 2;
        odd_candidates += is_odd && row.candidate[slot];
        (is_odd ? of_odd : of_others) += got;
        if (!row.candidate[slot]) CHECK(got == 0.0);
        if (is_odd && row.candidate[slot] && odd > 0.0f) CHECK(got > 0.0);
      }
      REQUIRE(odd_candidates > 3);
      CHECK(of_odd == doctest::Approx(odd > 0.0f ? 1.0 : 0.0));
      CHECK(of_others == doctest::Approx(odd > 0.0f ? 0.0 : 1.0));
    }
  }
}

TEST_CASE("softmax: rows without candidates, and without one score to compare, are all 0") {
  testing::random_source random(31);
  testing::scorer_case<float> tokens({}, random);
  tokens.score(fkv::softmax<testing::constant_scorer>{{std::numeric_limits<float>::quiet_NaN()}});
  for (int slot = 0; slot < tokens.options.length; ++slot) CHECK(tokens.scores.at(0, slot) == 0.0f);
  tokens.protect_all();
  tokens.score(fkv::softmax<testing::constant_scorer>{{1.0f}});
  for (int slot = 0; slot < tokens.options.length; ++slot) CHECK(tokens.scores.at(0, slot) == 0.0f);
}
