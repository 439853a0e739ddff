// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <foresightkv/selection.hpp>

namespace fkv = foresightkv;

TEST_CASE("selection: rows of lists and scores stand `capacity` entries apart, beyond 32 bits too") {
  fkv::selection lists;
  lists.capacity = 40;
  CHECK(lists.at(0) == 0);
  CHECK(lists.at(3) == 120);
  lists.capacity = 1 << 20;
  CHECK(lists.at(1 << 20) == std::size_t{1} << 40);

  float values[12] = {};
  fkv::score_view const scores{values, 4};
  CHECK(scores.row(0) == values);
  CHECK(scores.row(2) == values + 8);
}
