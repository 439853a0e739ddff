// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <foresightkv/compaction.hpp>

namespace fkv = foresightkv;

namespace {

struct complete {
  static constexpr bool keeps_time_order = true;
  static constexpr bool moves_tokens = false;
};
struct half_of_it {
  static constexpr bool keeps_time_order = true;
};

}  // namespace

TEST_CASE("compaction: what satisfies the concept") {
  static_assert(fkv::compaction<complete>);
  static_assert(!fkv::compaction<half_of_it>);
  CHECK_FALSE(fkv::compaction<int>);
}
