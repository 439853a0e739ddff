// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <typeinfo>
#include <vector>

#include <foresightkv/detail/kernels/block_context.hpp>

#include "emulation/block_bodies.hpp"
#include "emulation/block_checks.hpp"
#include "emulation/emulated_execution.hpp"
#include "emulation/fiber.hpp"
#include "emulation/fiber_block.hpp"

namespace fkv = foresightkv;
namespace bodies = testing::bodies;
using grid = testing::fiber_grid;
using launcher = fkv::detail::kernels::launcher<testing::emulated_execution>;
using testing::grid_options;

static_assert(fkv::detail::kernels::block_context<testing::fiber_block<256>>);
static_assert(fkv::detail::kernels::block_context<testing::fiber_block<32>>);
static_assert(fkv::detail::kernels::block_context<testing::fiber_block<32, 8>>);

namespace {

constexpr std::uint64_t seeds = 32;

/// How many schedules show a fault.
template <class Wrong>
int seeds_that_show(testing::block_faults const& faults, Wrong const& wrong) {
  int shown = 0;
  for (std::uint64_t seed = 0; seed < seeds; ++seed) shown += wrong(grid_options{.seed = seed, .faults = faults}) > 0;
  return shown;
}

/// Who ran, in order: the block and the rank of every step of a grid.
std::vector<int> trace(grid_options const& options, int blocks) {
  std::vector<int> steps;
  auto const body = bodies::body<32>([&](auto const& context, auto&) {
    for (int step = 0; step < 3; ++step) {
      steps.push_back(context.block() * 32 + context.rank());
      context.sync(0);
    }
  });
  (void)grid::run(options, blocks, body);
  return steps;
}

/// Three fibers that pass a token round, and add what they have on their stacks.
template <class Switch>
struct ring {
  using fiber = testing::basic_fiber<Switch>;
  struct member {
    ring* all;
    int number;
  };
  fiber main;
  member members[3] = {{this, 0}, {this, 1}, {this, 2}};
  fiber fibers[3] = {{0, &live, &members[0]}, {1, &live, &members[1]}, {2, &live, &members[2]}};
  std::string order;
  double sum = 0.0;

  static void live(void* argument) {
    auto const& self = *static_cast<member*>(argument);
    ring& all = *self.all;
    double local = 0.5 + self.number;
    for (;;) {
      try {
        local *= 2.0;
        all.order += static_cast<char>('a' + self.number);
        if (self.number == 1) throw self.number;
      } catch (int thrown) {
        all.order += static_cast<char>('0' + thrown);
      }
      all.sum += local;
      fiber& next = self.number < 2 ? all.fibers[self.number + 1] : all.main;
      all.fibers[self.number].switch_to(next);
    }
  }
};

template <class Switch>
void check_ring() {
  ring<Switch> made;
  for (int round = 0; round < 3; ++round) made.main.switch_to(made.fibers[0]);
  CHECK(made.order == "ab1cab1cab1c");
  CHECK(made.sum == (0.5 + 1.5 + 2.5) * (2.0 + 4.0 + 8.0));
}

}  // namespace

TEST_CASE("fibers keep their stacks and catch their exceptions, with both ways to switch") {
  check_ring<testing::portable_switch>();
  check_ring<testing::fastest_switch>();
}

TEST_CASE("fiber_block runs correct bodies correctly under every schedule") {
  for (std::uint64_t seed = 0; seed < seeds; ++seed)
    for (int resident : {1, 2, 7}) testing::check_everything<grid>({.seed = seed, .resident_blocks = resident});
}

TEST_CASE("fiber_block shows every fault") {
  using testing::block_faults;
  auto const neighbours = [](grid_options const& options) { return testing::wrong_neighbours<grid>(options, 1, 3); };
  CHECK(seeds_that_show({.skipped_sync = 0}, neighbours) == seeds);
  CHECK(seeds_that_show({.skipped_sync = 1}, neighbours) == seeds);
  CHECK(seeds_that_show({.skipped_sync = 2}, neighbours) == 0);
  auto const lanes = [](grid_options const& options) { return testing::wrong_lane_neighbours<grid>(options, 3); };
  CHECK(seeds_that_show({.skipped_warp_sync = 0}, lanes) == seeds);
  CHECK(seeds_that_show({.skipped_warp_sync = 1}, lanes) == seeds);
  auto const blocks = [](grid_options const& options) { return testing::wrong_block_neighbours<grid>(options, 1, 3); };
  CHECK(seeds_that_show({.skipped_cluster_sync = 0}, blocks) == seeds);
  CHECK(seeds_that_show({.skipped_cluster_sync = 1}, blocks) == seeds);
  CHECK(seeds_that_show({.skipped_cluster_sync = 3}, blocks) == 0);
  auto const scans = [](grid_options const& options) { return testing::wrong_scans<grid>(options, 1); };
  CHECK(seeds_that_show({.short_scan = true}, scans) == seeds);
  CHECK_THROWS_AS((void)scans({.faults = {.skipped_sync = 0}}), testing::block_misuse);
  auto const copies = [](grid_options const& options) { return testing::wrong_copies<grid>(options, 5); };
  CHECK(seeds_that_show({.skipped_sync = 0}, copies) == seeds);
  CHECK(seeds_that_show({.skipped_sync = 1}, copies) == seeds);
  CHECK(seeds_that_show({.late_landing = true}, copies) == seeds);
  CHECK(seeds_that_show({.swapped_copies = true}, copies) == seeds);
}

TEST_CASE("a fault is of one body where it names one") {
  testing::block_faults const elsewhere{.skipped_sync = 0, .in = &typeid(bodies::scans)};
  CHECK(testing::wrong_neighbours<grid>({.faults = elsewhere}, 1, 3) == 0);
  testing::block_faults const here{.skipped_sync = 0, .in = &typeid(bodies::neighbours)};
  CHECK(testing::wrong_neighbours<grid>({.faults = here}, 1, 3) > 0);
}

TEST_CASE("fiber_block refuses what breaks a rule, and says what") {
  for (std::uint64_t seed = 0; seed < seeds; ++seed) testing::check_misuse<grid>({.seed = seed});
}

TEST_CASE("a grid that throws leaves nothing behind") {
  for (std::uint64_t seed = 0; seed < seeds; ++seed)
    for (int resident : {1, 3}) testing::check_exception<grid>({.seed = seed, .resident_blocks = resident});
}

TEST_CASE("scratch that another thread overwrites before a sync") {
  int found = 0;
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    auto const body = bodies::body<64>([](auto const& context, auto& memory) {
      int all = 0;
      (void)context.exclusive_sum(memory.scan, 1, all);
      memory.scan.mark[63 - context.rank()] = 0;
    });
    found += testing::contains(testing::complaint<grid>({.seed = seed}, 1, body), "overwritten");
  }
  CHECK(found == seeds);
}

TEST_CASE("shared memory of a block of a cluster that has ended") {
  int refused = 0, poisoned = 0;
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    auto const body = bodies::body<32, 2>([&](auto const& context, auto& memory) {
      memory.words[0] = 7;
      context.sync_cluster(0);
      if (context.cluster_rank() == 0) return;
      std::uint32_t const& there = context.of_cluster(memory.words[0], 0);
      for (int i = 0; i < 4; ++i) context.sync(0);
      if (context.rank() == 5) poisoned += there == testing::shared_poison;
    });
    refused += testing::contains(testing::complaint<grid>({.seed = seed}, 2, body), "that block has ended");
  }
  CHECK(refused > 0);
  CHECK(poisoned > 0);
}

#if !defined(FORESIGHTKV_TEST_ASAN)  // which would stop at the write
TEST_CASE("a write behind shared memory is found when the grid ends") {
  auto const body = bodies::body<32>([](auto const&, auto& memory) {
    std::uint32_t volatile* const end = memory.words + 8;
    *end = 1;
  });
  CHECK(testing::contains(testing::complaint<grid>({}, 1, body), "outside its shared memory"));
}
#endif

TEST_CASE("a schedule is its seed's") {
  CHECK(trace({.seed = 3}, 5) == trace({.seed = 3}, 5));
  CHECK(trace({.seed = 3}, 5) != trace({.seed = 4}, 5));
}

TEST_CASE("some schedules run the same threads first at every step, others do not") {
  int same = 0;
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    std::vector<int> const steps = trace({.seed = seed}, 1);
    same += std::equal(steps.begin(), steps.begin() + 32, steps.begin() + 32);
  }
  CHECK(same > 0);
  CHECK(same < static_cast<int>(seeds));
}

TEST_CASE("blocks run in another order than their numbers', one by one or interleaved") {
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    std::vector<int> blocks;
    for (int step : trace({.seed = seed, .resident_blocks = 1}, 6))
      if (blocks.empty() || blocks.back() != step / 32) blocks.push_back(step / 32);
    CHECK(blocks.size() == 6);
    CHECK(!std::is_sorted(blocks.begin(), blocks.end()));
    std::vector<int> changes;
    for (int step : trace({.seed = seed, .resident_blocks = 2}, 6))
      if (changes.empty() || changes.back() != step / 32) changes.push_back(step / 32);
    CHECK(changes.size() >= 6);
  }
}

TEST_CASE("a copy takes what its source holds between its start and its wait") {
  int early = 0, late = 0;
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    std::uint32_t source[4] = {1, 1, 1, 1};
    auto const body = bodies::body<32>([&](auto const& context, auto& memory) {
      if (context.rank() != 0) return;
      memory.words[0] = 7;
      context.template copy_async<4>(memory.words, source);
      CHECK(memory.words[0] == testing::shared_poison);
      source[0] = 2;
      context.commit();
      context.template wait<0>();
      source[0] = 3;
      early += memory.words[0] == 1;
      late += memory.words[0] == 2;
    });
    (void)grid::run({.seed = seed}, 1, body);
  }
  CHECK(early > 0);
  CHECK(late > 0);
  CHECK(early + late == seeds);
}

TEST_CASE("emulated launches have a schedule each, and are logged") {
  testing::launch_log log;
  testing::emulated_execution const exec{.options = {.seed = 11}, .log = &log};
  std::vector<int> first, second;
  std::vector<int>* steps = &first;
  auto const body = bodies::body<64>([&](auto const& context, auto&) {
    context.sync(5);
    steps->push_back(context.rank());
    context.sync_warp(9);
  });
  CHECK(launcher::run(exec, 3, body).ok());
  steps = &second;
  CHECK(launcher::run(exec, 3, body).ok());
  CHECK(launcher::run(exec, 0, body).ok());
  CHECK(first != second);
  REQUIRE(log.size() == 2);
  CHECK(*log[1].body == typeid(body));
  CHECK(log[1].blocks == 3);
  CHECK(log[1].threads == 64);
  CHECK(log[1].report.syncs == 1u << 5);
  CHECK(log[1].report.warp_syncs == 1u << 9);
}

TEST_CASE("a body that uses memory of the caller's stack is found out") {
  int on_stack = 7;
  std::vector<int> on_heap{7};
  auto const body_of = [](int* number) {
    return bodies::body<32>([number](auto const& context, auto&) {
      if (context.rank() == 3) ++*number;
    });
  };
  grid_options const hiding{.hides_caller = true};
  (void)grid::run(hiding, 2, body_of(on_heap.data()));
  CHECK(on_heap[0] == 9);
  CHECK_THROWS_WITH_AS((void)grid::run(hiding, 2, body_of(&on_stack)), "a body uses memory of the caller's stack",
                       testing::block_misuse);
  (void)grid::run(hiding, 2, body_of(on_heap.data()));
  (void)grid::run({}, 2, body_of(&on_stack));
  CHECK(on_stack == 11);
}

TEST_CASE("many blocks") {
  std::vector<std::uint8_t> visits(20000);
  auto const body = bodies::body<256>([&](auto const& context, auto&) {
    if (context.rank() == 255) ++visits[static_cast<std::size_t>(context.block())];
  });
  (void)grid::run({.seed = 2}, 20000, body);
  CHECK(visits == std::vector<std::uint8_t>(20000, 1));
}
