// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <numeric>

#include <foresightkv/combinators/mean_pool.hpp>
#include <foresightkv/scorers/key_norm.hpp>

#include "support/naive_pool.hpp"

namespace fkv = foresightkv;

namespace {

using testing::naive_row;

template <int Width, fkv::pool_edge Edge>
auto naive_mean_pool() {
  return [](naive_row const& row) {
    return testing::naive_pool(row, testing::naive_norms(row), Width, [](double, std::vector<double> const& all) {
      double const total = std::accumulate(all.begin(), all.end(), 0.0);
      return total / (Edge == fkv::pool_edge::zeros ? double{Width} : static_cast<double>(all.size()));
    });
  };
}

template <int Width, fkv::pool_edge Edge>
void check_pool(std::uint64_t seed) {
  testing::check_scorer_on<float>(fkv::mean_pool<Width, Edge, fkv::key_norm>{}, naive_mean_pool<Width, Edge>(), 1e-5,
                                  true, seed);
}

}  // namespace

TEST_CASE("mean_pool: over the neighbours that are candidates, in two flavours") {
  using zeros = fkv::mean_pool<5, fkv::pool_edge::zeros, fkv::key_norm>;
  using valid = fkv::mean_pool<5, fkv::pool_edge::valid_tokens, fkv::key_norm>;
  static_assert(fkv::row_scorer<zeros> && zeros::needs_time_order && zeros::scratch_rows == 1);
  static_assert(fkv::row_scorer<valid> && valid::needs_time_order && valid::scratch_rows == 1);
  testing::check_scorer(zeros{}, naive_mean_pool<5, fkv::pool_edge::zeros>(), 1e-5, true);
  testing::check_scorer(valid{}, naive_mean_pool<5, fkv::pool_edge::valid_tokens>(), 1e-5, true);
  check_pool<1, fkv::pool_edge::zeros>(400);
  check_pool<63, fkv::pool_edge::zeros>(500);
  check_pool<63, fkv::pool_edge::valid_tokens>(600);
}

TEST_CASE("mean_pool: a row without candidates keeps its scores") {
  testing::random_source random(41);
  testing::scorer_case<float> tokens({}, random);
  tokens.protect_all();
  testing::check_case(tokens, fkv::mean_pool<5, fkv::pool_edge::zeros, fkv::key_norm>{}, testing::naive_norms, 1e-5,
                      random);
}
