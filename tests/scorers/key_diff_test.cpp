// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <concepts>

#include <foresightkv/scorers/key_diff.hpp>

#include "support/scorer_case.hpp"

namespace fkv = foresightkv;

namespace {

std::vector<double> naive_key_diff(testing::naive_row const& row) {
  std::vector<double> mean(row.key[0].size(), 0.0), scores(row.length(), 0.0);
  auto const norm = [&](std::vector<double> const& x) { return std::sqrt(row.dot(x, x)); };
  for (std::size_t slot = 0; slot < row.length(); ++slot)
    for (std::size_t d = 0; d < mean.size() && row.occupied(slot); ++d)
      mean[d] += row.key[slot][d] / norm(row.key[slot]);
  for (std::size_t slot = 0; slot < row.length(); ++slot)
    scores[slot] = -row.dot(row.key[slot], mean) / (norm(row.key[slot]) * norm(mean));
  return scores;
}

}  // namespace

TEST_CASE("key_diff: minus the cosine with the mean of the unit keys") {
  static_assert(fkv::row_scorer<fkv::key_diff>);
  static_assert(std::same_as<fkv::key_diff::reads, fkv::statistics<>>);
  testing::check_scorer(fkv::key_diff{}, naive_key_diff, 2e-5);
}

TEST_CASE("key_diff: zero keys score 0, garbage in empty slots does not matter") {
  testing::random_source random(9);
  testing::scorer_case<float> tokens({.ordered = false, .key_dim = 20, .length = 90}, random);
  fkv::dense_cache<float> const view = tokens.cache.view();
  int empty = 0;
  for (int slot = 0; slot < 90; ++slot) {
    bool const hole = tokens.positions[static_cast<std::size_t>(slot)] < 0;
    empty += hole;
    for (int d = 0; d < 20; ++d) {
      if (hole) view.key({0, 0, 0}, slot)[d] = std::nanf("");
      if (slot == 89) view.key({0, 0, 0}, slot)[d] = 0.0f;
    }
  }
  REQUIRE(empty > 0);
  tokens.score(fkv::key_diff{});
  int zero = 0, finite = 0;
  for (int slot = 0; slot < 90; ++slot) {
    bool const hole = tokens.positions[static_cast<std::size_t>(slot)] < 0;
    finite += !hole && std::isfinite(tokens.scores.at(0, slot));
    zero += !hole && tokens.scores.at(0, slot) == 0.0f;
  }
  CHECK(finite == 90 - empty);
  CHECK(zero == 1);
  CHECK(tokens.scores.at(0, 89) == 0.0f);
}
