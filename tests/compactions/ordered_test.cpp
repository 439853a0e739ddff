// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <foresightkv/compactions/ordered.hpp>

#include "support/compaction_bench.hpp"

namespace fkv = foresightkv;

TEST_CASE("ordered: kept tokens close up in time order, columns with them") {
  static_assert(fkv::compaction<fkv::ordered> && fkv::ordered::keeps_time_order && fkv::ordered::moves_tokens);
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    testing::check_compaction<fkv::ordered, float, fkv::length_domain::sequence>(seed);
    testing::check_compaction<fkv::ordered, fkv::half, fkv::length_domain::row>(seed);
  }
}
