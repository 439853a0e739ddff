// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <concepts>

#include <foresightkv/scorers/r_kv.hpp>

#include "support/naive_window.hpp"

namespace fkv = foresightkv;

TEST_CASE("r_kv: importance minus redundancy") {
  static_assert(fkv::row_scorer<fkv::r_kv<>>);
  static_assert(std::same_as<fkv::r_kv<>::reads, fkv::statistics<>>);
  static_assert(fkv::r_kv<>::needs_time_order && fkv::r_kv<>::newest_queries == 8);
  int compared = 0;
  auto const naive = [&](testing::naive_row const& row) {
    auto scores = testing::naive_r_kv(row, 8, 7, 0.1f, 0.5);
    compared += !scores.empty();
    return scores;
  };
  testing::check_scorer(fkv::r_kv<>{}, naive, 5e-7, true);
  CHECK(compared > 100);
}

TEST_CASE("r_kv: only the redundancy, other thresholds") {
  for (float const threshold : {0.2f, 0.8f, 2.0f, -0.4f}) {
    CAPTURE(threshold);
    int compared = 0;
    auto const naive = [&](testing::naive_row const& row) {
      auto scores = testing::naive_r_kv(row, 4, 5, 0.0, double{threshold});
      compared += !scores.empty();
      return scores;
    };
    testing::check_scorer_on<float>(fkv::r_kv<4, 5>{.lambda = 0.0f, .threshold = threshold}, naive, 2e-7, true, 900);
    CHECK(compared > 10);
  }
}

TEST_CASE("r_kv: of equal keys the newest is held least against, and zero keys are harmless") {
  testing::random_source random(1000);
  testing::scorer_case<float> tokens({.layers = 1, .sequences = 1, .kv_heads = 1, .key_dim = 64, .length = 60}, random);
  fkv::dense_cache<float> const view = tokens.cache.view();
  for (int const slot : {10, 20, 30})
    for (int d = 0; d < 64; ++d) view.key({0, 0, 0}, slot)[d] = view.key({0, 0, 0}, 40)[d];
  for (int d = 0; d < 64; ++d) view.key({0, 0, 0}, 5)[d] = 0.0f;
  tokens.score(fkv::r_kv<>{.lambda = 0.0f});
  CHECK(tokens.scores.at(0, 40) > tokens.scores.at(0, 30));
  // The newest's own row singles out the one before it.
  CHECK(tokens.scores.at(0, 30) > tokens.scores.at(0, 20));
  CHECK(tokens.scores.at(0, 20) == doctest::Approx(tokens.scores.at(0, 10)));
  CHECK(std::isfinite(tokens.scores.at(0, 5)));
  CHECK(testing::score_error(tokens, [](auto const& row) { return testing::naive_r_kv(row, 8, 7, 0.0, 0.5); }) <= 2e-7);
}
