// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <concepts>

#include <foresightkv/scorers/h2o_per_query.hpp>

#include "support/scorer_case.hpp"

namespace fkv = foresightkv;

TEST_CASE("h2o_per_query: accumulated sum over the number of queries from the token's own on") {
  static_assert(fkv::pointwise_scorer<fkv::h2o_per_query>);
  static_assert(std::same_as<fkv::h2o_per_query::reads, fkv::statistics<fkv::accumulated>>);
  testing::check_scorer(fkv::h2o_per_query{}, testing::each_token([](auto const& row, std::size_t slot) {
                          double const sum = row.group_mean([&](std::size_t j) { return row.accumulated[slot][j]; });
                          return sum / (row.next_position - row.position[slot]);
                        }),
                        1e-6);
}
