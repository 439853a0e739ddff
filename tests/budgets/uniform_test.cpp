// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <foresightkv/budgets/uniform.hpp>

namespace fkv = foresightkv;

TEST_CASE("uniform: the config's budget, whatever the row") {
  static_assert(fkv::budget<fkv::uniform> && fkv::uniform::domain == fkv::length_domain::sequence);
  static_assert(fkv::uniform{}({.budget = 7}, {}, {}) == 7);
  for (int row = 0; row < 4; ++row) CHECK(fkv::uniform{}({.budget = 100 + row}, {}, {row, row, row}) == 100 + row);
}
