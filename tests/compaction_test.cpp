// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <foresightkv/compactions/fill_holes.hpp>
#include <foresightkv/compactions/ordered.hpp>
#include <foresightkv/compactions/slot_list.hpp>

namespace fkv = foresightkv;

namespace {

struct derived : fkv::ordered {};

}  // namespace

TEST_CASE("compaction: a closed set") {
  CHECK(fkv::compaction<fkv::ordered>);
  CHECK(fkv::compaction<fkv::fill_holes>);
  CHECK(fkv::compaction<fkv::slot_list>);
  CHECK_FALSE(fkv::compaction<derived>);
  CHECK_FALSE(fkv::compaction<int>);
}
