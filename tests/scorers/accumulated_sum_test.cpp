// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <concepts>

#include <foresightkv/scorers/accumulated_sum.hpp>

#include "support/scorer_case.hpp"

namespace fkv = foresightkv;

TEST_CASE("accumulated_sum: mean over the group of the accumulated sum") {
  static_assert(fkv::pointwise_scorer<fkv::accumulated_sum>);
  static_assert(std::same_as<fkv::accumulated_sum::reads, fkv::statistics<fkv::accumulated>>);
  testing::check_scorer(fkv::accumulated_sum{}, testing::each_token([](auto const& row, std::size_t slot) {
                          return row.group_mean([&](std::size_t j) { return row.accumulated[slot][j]; });
                        }),
                        1e-6);
}
