// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include <foresightkv/combinators/max_pool.hpp>
#include <foresightkv/scorers/key_norm.hpp>
#include <foresightkv/scorers/snap_kv.hpp>

#include "support/naive_pool.hpp"
#include "support/sample_scorers.hpp"

namespace fkv = foresightkv;

namespace {

using testing::naive_row;

template <int Width>
auto naive_max_pool() {
  return [](naive_row const& row) {
    return testing::naive_pool(row, testing::naive_norms(row), Width, [](double own, std::vector<double> const& all) {
      for (double const score : all) own = std::max(own, score);
      return own;
    });
  };
}

}  // namespace

TEST_CASE("max_pool: the largest among the neighbours that are candidates") {
  using scorer = fkv::max_pool<7, fkv::key_norm>;
  static_assert(fkv::row_scorer<scorer> && scorer::needs_time_order && scorer::newest_queries == 0);
  static_assert(scorer::scratch_rows == 1 && fkv::max_pool<3, fkv::snap_kv<5>>::scratch_rows == 6);
  static_assert(fkv::max_pool<3, fkv::snap_kv<5>>::newest_queries == 5);
  testing::check_scorer(scorer{}, naive_max_pool<7>(), 1e-5, true);
  testing::check_scorer_on<float>(fkv::max_pool<1, fkv::key_norm>{}, naive_max_pool<1>(), 1e-5, true, 400);
  testing::check_scorer_on<float>(fkv::max_pool<63, fkv::key_norm>{}, naive_max_pool<63>(), 1e-5, true, 500);
}

TEST_CASE("max_pool: NaN stays where it is and does not spread") {
  testing::random_source random(40);
  testing::scorer_case<float> tokens({.layers = 1, .sequences = 1, .kv_heads = 1}, random);
  testing::odd_scorer const odd{std::numeric_limits<float>::quiet_NaN(), 9};
  tokens.score(fkv::max_pool<5, testing::odd_scorer>{odd});
  naive_row const row = tokens.naive(0);
  int nans = 0;
  for (std::size_t slot = 0; slot < row.length(); ++slot) {
    bool const is_nan = std::isnan(tokens.scores.at(0, static_cast<int>(slot)));
    CHECK(is_nan == (row.position[slot] % 9 == 2));
    nans += is_nan;
  }
  CHECK(nans > 3);
}

TEST_CASE("max_pool: a row without candidates keeps its scores") {
  testing::random_source random(41);
  testing::scorer_case<float> tokens({}, random);
  tokens.protect_all();
  testing::check_case(tokens, fkv::max_pool<5, fkv::key_norm>{}, testing::naive_norms, 1e-5, random);
}
