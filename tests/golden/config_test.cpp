// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <limits>

#include <foresightkv/golden/config.hpp>

namespace fkv = foresightkv;
using fkv::golden_config;

// A compile-time config converts to the run-time value that it was made of.
static_assert(static_cast<golden_config>(fkv::golden<golden_config{.budget = 64, .interval = 16}>{}) ==
              golden_config{.budget = 64, .interval = 16});

TEST_CASE("golden_config: what is valid") {
  CHECK(golden_config{}.valid());
  CHECK(golden_config{.budget = 16, .interval = 16}.valid());
  CHECK(golden_config{.budget = 72, .interval = 16}.valid());
  CHECK_FALSE(golden_config{.budget = 16, .interval = 17}.valid());
  CHECK_FALSE(golden_config{.budget = 16, .interval = 0}.valid());
  CHECK_FALSE(golden_config{.budget = -16, .interval = -32}.valid());
  CHECK_FALSE(golden_config{.discount = -0.1f}.valid());
  CHECK_FALSE(golden_config{.discount = 1.1f}.valid());
  CHECK_FALSE(golden_config{.discount = std::numeric_limits<float>::quiet_NaN()}.valid());
  CHECK_FALSE(golden_config{.future = static_cast<fkv::golden_future>(9)}.valid());
}

TEST_CASE(
    "golden_config: block means from queries and keys need whole blocks, unless the published rules are asked for") {
  CHECK(golden_config{.budget = 64, .interval = 16}.aligned());
  CHECK_FALSE(golden_config{.budget = 72, .interval = 16}.aligned());
  CHECK(golden_config{.budget = 72, .interval = 16, .rules = fkv::golden_rules::published}.aligned());
}

TEST_CASE("golden_config: steps count the evictions of the loop that they stand for") {
  for (int budget : {1, 3, 8, 13})
    for (int interval = 1; interval <= budget; ++interval)
      for (int tokens = 0; tokens < 70; ++tokens) {
        golden_config const config{.budget = budget, .interval = interval};
        int steps = 0;
        for (int survivors = tokens; survivors > budget + interval; survivors -= interval) ++steps;
        CAPTURE(budget);
        CAPTURE(interval);
        CAPTURE(tokens);
        CHECK(config.steps(tokens) == steps);
        CHECK(config.future_blocks(tokens) >= steps);
        CHECK(config.future_blocks(tokens) <= steps + 1);
      }
  CHECK(golden_config{.budget = 1024, .interval = 256}.steps(std::numeric_limits<int>::max()) == 8388603);
}

TEST_CASE("golden_config: a partial block has its own rows, or the whole interval's by the published rules") {
  golden_config config{.budget = 64, .interval = 16};
  CHECK(config.num_blocks(100) == 7);
  CHECK(config.block_rows(5, 100) == 16);
  CHECK(config.block_rows(6, 100) == 4);
  config.rules = fkv::golden_rules::published;
  CHECK(config.block_rows(6, 100) == 16);
}
