// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <foresightkv/compactions/fill_holes.hpp>

#include "support/compaction_bench.hpp"

namespace fkv = foresightkv;

TEST_CASE("fill_holes: the row's last tokens move into the holes, columns with them") {
  static_assert(fkv::compaction<fkv::fill_holes> && !fkv::fill_holes::keeps_time_order &&
                fkv::fill_holes::moves_tokens);
  for (std::uint64_t seed = 100; seed < 140; ++seed) {
    testing::check_compaction<fkv::fill_holes, fkv::bfloat16, fkv::length_domain::layer>(seed);
    testing::check_compaction<fkv::fill_holes, fkv::float8_e5m2, fkv::length_domain::row>(seed);
  }
}
