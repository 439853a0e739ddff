// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <foresightkv/compactions/slot_list.hpp>

#include "support/compaction_bench.hpp"

namespace fkv = foresightkv;

TEST_CASE("slot_list: nothing moves, evicted slots become empty") {
  static_assert(fkv::compaction<fkv::slot_list> && !fkv::slot_list::keeps_time_order && !fkv::slot_list::moves_tokens);
  for (std::uint64_t seed = 200; seed < 240; ++seed)
    testing::check_compaction<fkv::slot_list, float, fkv::length_domain::sequence>(seed);
}

TEST_CASE("slot_list: keys and values keep every byte") {
  testing::compaction_bench<fkv::slot_list> made(1, 60);
  made.place(testing::history::holes);
  made.budgets.assign(made.budgets.size(), 4);
  made.choose();
  auto const before = made.cache;
  REQUIRE(made.compact().ok());
  CHECK(made.cache.same_tokens(before));
}
