// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <concepts>
#include <limits>

#include <foresightkv/combinators/standardised.hpp>
#include <foresightkv/scorers/h2o_per_query.hpp>
#include <foresightkv/scorers/key_norm.hpp>
#include <foresightkv/scorers/snap_kv.hpp>

#include "support/sample_scorers.hpp"
#include "support/scorer_case.hpp"

namespace fkv = foresightkv;

namespace {

using testing::naive_row;

/// Standardised over the candidates whose score is finite.
std::vector<double> standardise(naive_row const& row, std::vector<double> scores) {
  double count = 0.0, mean = 0.0, variance = 0.0;
  auto const counts = [&](std::size_t slot) { return row.candidate[slot] && std::isfinite(scores[slot]); };
  for (std::size_t slot = 0; slot < scores.size(); ++slot)
    if (counts(slot)) count += 1.0, mean += scores[slot];
  if (count == 0.0) return scores;
  mean /= count;
  for (std::size_t slot = 0; slot < scores.size(); ++slot)
    if (counts(slot)) variance += (scores[slot] - mean) * (scores[slot] - mean) / count;
  for (double& score : scores) score = (score - mean) / (std::sqrt(variance) + 1e-6);
  return scores;
}

double naive_norm(naive_row const& row, std::size_t slot) { return -std::sqrt(row.dot(row.key[slot], row.key[slot])); }

}  // namespace

TEST_CASE("standardised: mean 0 and deviation 1 over the candidates, every token mapped") {
  using scorer = fkv::standardised<fkv::key_norm>;
  static_assert(fkv::row_scorer<scorer> && !fkv::pointwise_scorer<scorer>);
  static_assert(std::same_as<scorer::reads, fkv::statistics<>>);
  static_assert(!scorer::needs_time_order && scorer::newest_queries == 0 && scorer::scratch_rows == 0);
  testing::check_scorer(
      scorer{}, [](naive_row const& row) { return standardise(row, testing::each_token(naive_norm)(row)); }, 2e-4);
}

TEST_CASE("standardised: forwards what its scorer needs") {
  using over_row = fkv::standardised<fkv::snap_kv<6, 3>>;
  static_assert(over_row::needs_time_order && over_row::newest_queries == 6 && over_row::scratch_rows == 6);
  static_assert(std::same_as<fkv::standardised<fkv::h2o_per_query>::reads, fkv::statistics<fkv::accumulated>>);
  testing::check_scorer(
      fkv::standardised<testing::users_row_scorer>{},
      [](naive_row const& row) {
        std::vector<double> scores;
        double largest = -1e300;
        // The scorer looks at every slot, empty ones too.
        for (auto const& key : row.key) largest = std::max(largest, key[0]);
        for (auto const& key : row.key) scores.push_back(key[0] - largest);
        return standardise(row, scores);
      },
      2e-4);
}

TEST_CASE("standardised: NaN and infinities stay, and stay out of the moments") {
  float const infinity = std::numeric_limits<float>::infinity();
  for (float const odd : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
    CAPTURE(odd);
    testing::random_source random(20);
    testing::scorer_case<float> tokens({}, random);
    tokens.score(fkv::standardised<testing::odd_scorer>{{odd}});
    int odd_tokens = 0;
    for (int row = 0; row < tokens.shape.num_rows(); ++row) {
      naive_row const exact = tokens.naive(row);
      std::vector<double> scores;
      for (std::size_t slot = 0; slot < exact.length(); ++slot)
        scores.push_back(exact.position[slot] % 5 == 2 ? double{odd} : exact.key[slot][0]);
      std::vector<double> const expected = standardise(exact, scores);
      for (std::size_t slot = 0; slot < exact.length(); ++slot) {
        double const got = double{tokens.scores.at(row, static_cast<int>(slot))};
        if (exact.position[slot] % 5 == 2) {
          ++odd_tokens;
          CHECK((std::isnan(odd) ? std::isnan(got) : got == double{odd}));
        } else {
          CHECK(got == doctest::Approx(expected[slot]).epsilon(1e-4));
        }
      }
    }
    CHECK(odd_tokens > 20);
  }
}

TEST_CASE("standardised: a constant row, and a row without candidates") {
  testing::random_source random(21);
  testing::scorer_case<float> tokens({}, random);
  tokens.score(fkv::standardised<testing::constant_scorer>{{0.25f}});
  for (int slot = 0; slot < tokens.options.length; ++slot) CHECK(tokens.scores.at(0, slot) == 0.0f);
  tokens.protect_all();
  tokens.score(fkv::standardised<testing::constant_scorer>{{0.25f}});
  for (int slot = 0; slot < tokens.options.length; ++slot) CHECK(tokens.scores.at(0, slot) == 0.25f);
}
