// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <concepts>

#include <foresightkv/scorers/key_norm.hpp>

#include "support/scorer_case.hpp"

namespace fkv = foresightkv;

TEST_CASE("key_norm: minus the L2 norm of the key") {
  static_assert(fkv::pointwise_scorer<fkv::key_norm>);
  static_assert(std::same_as<fkv::key_norm::reads, fkv::statistics<>>);
  testing::check_scorer(fkv::key_norm{}, testing::each_token([](auto const& row, std::size_t slot) {
                          return -std::sqrt(row.dot(row.key[slot], row.key[slot]));
                        }),
                        1e-5);
}
