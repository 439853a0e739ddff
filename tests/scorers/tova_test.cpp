// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <concepts>

#include <foresightkv/scorers/tova.hpp>

#include "support/scorer_case.hpp"

namespace fkv = foresightkv;

TEST_CASE("tova: the newest query's attention, mean over the group") {
  static_assert(fkv::pointwise_scorer<fkv::tova>);
  static_assert(std::same_as<fkv::tova::reads, fkv::statistics<fkv::last<1>>>);
  testing::check_scorer(fkv::tova{},
                        testing::each_token([](auto const& row, std::size_t slot) { return row.window_sum(slot, 1); }),
                        1e-5);
}
