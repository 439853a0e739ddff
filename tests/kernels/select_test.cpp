// SPDX-License-Identifier: Apache-2.0
// Rows around the sizes at which another instance of the kernel takes over, and up to the longest: against the oracle.
#include <doctest/doctest.h>

#include "support/select_bench.hpp"

namespace fkv = foresightkv;
using testing::hostile;

namespace {

void compare(int length, hostile kind, std::uint64_t seed) {
  CAPTURE(length);
  CAPTURE(seed);
  using policy_type = testing::select_policy<fkv::top_k, fkv::ordered>;
  testing::select_bench<policy_type> made(seed, testing::small_shape(1, length));
  made.place(0, testing::history::pristine, length);
  made.fill(kind);
  for (int const evicted : {0, 1, length / 9, length / 2, length - 1, length}) {
    CAPTURE(evicted);
    made.budgets[0] = length - evicted;
    REQUIRE(made.select().ok());
    CHECK(made.wrong_rows() == 0);
  }
}

}  // namespace

TEST_CASE("kernels: select around the sizes of its instances") {
  std::uint64_t seed = 1;
  for (int const length : {1, 2, 31, 255, 1023, 1024, 1025, 2048, 2049, 4096, 4097, 16384, 16385})
    for (hostile const kind : {hostile::ordinary, hostile::few_levels, hostile::all_equal}) compare(length, kind, seed++);
}

TEST_CASE("kernels: select of the longest rows") {
  compare(131072, hostile::ordinary, 101);
  compare(100001, hostile::few_levels, 102);
}
