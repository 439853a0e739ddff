// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <concepts>

#include <foresightkv/scorers/window_sum.hpp>

#include "support/scorer_case.hpp"

namespace fkv = foresightkv;

TEST_CASE("window_sum: sum over the window's queries, mean over the group") {
  static_assert(fkv::pointwise_scorer<fkv::window_sum>);
  static_assert(std::same_as<fkv::window_sum::reads, fkv::statistics<fkv::sum>>);
  testing::check_scorer(fkv::window_sum{},
                        testing::each_token([](auto const& row, std::size_t slot) { return row.window_sum(slot); }),
                        2e-5);
}
