// SPDX-License-Identifier: Apache-2.0
// Rows around the sizes at which another instance of the kernel takes over, and up to the longest: against the oracle.
#include <doctest/doctest.h>

#include <foresightkv/selectors/sampled_top_k.hpp>

#include "support/policy_bench.hpp"
#include "support/select_bench.hpp"

namespace fkv = foresightkv;
using testing::hostile;

namespace {

void compare(int length, hostile kind, std::uint64_t seed, bool clusters = true) {
  CAPTURE(length);
  CAPTURE(seed);
  using policy_type = testing::select_policy<fkv::top_k, fkv::ordered>;
  testing::select_bench<policy_type> made(seed, testing::small_shape(1, length));
  made.exec.clusters = clusters;
  made.place(0, testing::history::pristine, length);
  made.fill(kind);
  for (int const evicted : {0, 1, length / 9, length / 2, length - 1, length}) {
    CAPTURE(evicted);
    made.budgets[0] = length - evicted;
    REQUIRE(made.select().ok());
    CHECK(made.wrong_rows() == 0);
  }
}

/// Blocks that choose for a row where the host promises rows of this length.
int blocks_of(int longest, bool clusters = true) {
  using policy_type = testing::select_policy<fkv::top_k, fkv::ordered>;
  testing::select_bench<policy_type> made(1, testing::small_shape(3, longest));
  testing::launch_log log;
  made.exec.log = &log;
  made.exec.clusters = clusters;
  made.place(0, testing::history::pristine, 10);
  made.fill(hostile::ordinary);
  made.budgets[0] = 4;
  REQUIRE(made.select().ok());
  CHECK(made.wrong_rows() == 0);
  return log.back().blocks / 3;
}

}  // namespace

TEST_CASE("kernels: select around the sizes of its instances") {
  std::uint64_t seed = 1;
  for (int const length : {1, 2, 31, 255, 1023, 1024, 1025, 2048, 2049, 4096, 4097, 16384, 16385})
    for (hostile const kind : {hostile::ordinary, hostile::few_levels, hostile::all_equal})
      compare(length, kind, seed++);
}

TEST_CASE("kernels: long rows are selected by a cluster of blocks") {
  if (!fkv::detail::kernels::launcher<testing::execution>::clusters(testing::exec)) {
    MESSAGE("skipped: no clusters on this device");
    return;
  }
  CHECK(blocks_of(16384) == 1);
  CHECK(blocks_of(16385) == 2);
  CHECK(blocks_of(32768) == 2);
  CHECK(blocks_of(32769) == 4);
  CHECK(blocks_of(65537) == 8);
  CHECK(blocks_of(131072) == 8);
  CHECK(blocks_of(131073) == 1);
  CHECK(blocks_of(131072, false) == 1);
}

TEST_CASE("kernels: select of long rows") {
  compare(20000, hostile::few_levels, 101);
  compare(40000, hostile::ordinary, 102);
  compare(100000, hostile::all_equal, 103);
  compare(131072, hostile::few_levels, 104);
  compare(20000, hostile::ordinary, 105, false);
  compare(131073, hostile::few_levels, 106, false);
}

TEST_CASE("kernels: evict of long rows selects by a cluster of blocks") {
  using policy_type = fkv::policy<fkv::eviction_config, fkv::key_norm, fkv::top_k, fkv::ordered>;
  policy_type const policy{{.budget = 9000, .interval = 100, .recent_tokens = 50, .sink_tokens = 4}, {}, {}, {}, {}};
  using bench = testing::policy_bench<policy_type>;
  bench by_cluster(301, policy, testing::small_shape(2, 17000), 1),
      by_block(301, policy, testing::small_shape(2, 17000), 1);
  by_block.exec.clusters = false;
  for (bench* made : {&by_cluster, &by_block}) {
    made->place(0, testing::history::ordered, 16900);
    REQUIRE(made->evict().ok());
    CHECK(made->new_length({0, 0, 0}) == 9000);
    made->each_row([&](fkv::row_index at) { CHECK(made->lists.count(made->shape.row(at)) == 7900); });
  }
  CHECK(by_cluster.lists.kept.same_bytes(by_block.lists.kept));
  CHECK(by_cluster.lists.evicted.same_bytes(by_block.lists.evicted));
  CHECK(by_cluster.cache.keys.same_bytes(by_block.cache.keys));
  CHECK(by_cluster.cache.values.same_bytes(by_block.cache.values));
  CHECK(by_cluster.state.memory.same_bytes(by_block.state.memory));
}

TEST_CASE("kernels: a cluster of blocks selects what one block does") {
  using sampled = testing::select_policy<fkv::sampled_top_k, fkv::fill_holes>;
  for (auto const before : {testing::history::holes, testing::history::filled}) {
    testing::select_bench<sampled> made(201, testing::small_shape(2, 40000));
    made.place(0, before, 39000);
    made.fill(hostile::few_levels);
    made.policy.config = {.budget = 1000, .interval = 1, .recent_tokens = 700, .sink_tokens = 5};
    for (int const budget : {100, 12000, 39000}) {  // fewer than are protected, some, all of them
      CAPTURE(budget);
      made.budgets[0] = budget;
      made.state.view.flags[0] = 0;
      REQUIRE(made.select().ok());
      auto const by_cluster = made.lists;
      auto const flags = made.state.view.flags[0];
      made.state.view.flags[0] = 0;
      made.exec.clusters = false;
      REQUIRE(made.select().ok());
      made.exec.clusters = true;
      CHECK(by_cluster.kept.same_bytes(made.lists.kept));
      CHECK(by_cluster.evicted.same_bytes(made.lists.evicted));
      CHECK(by_cluster.evicted_count.same_bytes(made.lists.evicted_count));
      CHECK(by_cluster.evicted_positions.same_bytes(made.lists.evicted_positions));
      CHECK(made.state.view.flags[0] == flags);
    }
  }
}
