// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include <foresightkv/detail/kernels/block_context.hpp>

#include "emulation/block_bodies.hpp"
#include "emulation/block_checks.hpp"
#include "emulation/emulated_execution.hpp"
#include "emulation/sanitizers.hpp"
#include "emulation/thread_block.hpp"

namespace fkv = foresightkv;
namespace bodies = testing::bodies;
using grid = testing::thread_grid;
using launcher = fkv::detail::kernels::launcher<testing::emulated_execution>;

static_assert(fkv::detail::kernels::block_context<testing::thread_block<256>>);
static_assert(fkv::detail::kernels::block_context<testing::thread_block<256, 2>>);

TEST_CASE("thread_block runs correct bodies correctly") {
  for (std::uint64_t seed = 0; seed < 3; ++seed)
    for (int resident : {1, 2}) testing::check_everything<grid>({.seed = seed, .resident_blocks = resident});
}

TEST_CASE("thread_block refuses what breaks a rule, and says what") {
  for (std::uint64_t seed = 0; seed < 3; ++seed) testing::check_misuse<grid>({.seed = seed});
}

TEST_CASE("a grid of threads that throws leaves nothing behind") {
  for (std::uint64_t seed = 0; seed < 3; ++seed)
    for (int resident : {1, 3}) testing::check_exception<grid>({.seed = seed, .resident_blocks = resident});
}

TEST_CASE("faults that no schedule hides") {
  CHECK(testing::wrong_scans<grid>({.faults = {.short_scan = true}}, 1) > 0);
  CHECK(testing::wrong_copies<grid>({.faults = {.swapped_copies = true}}, 5) > 0);
  CHECK_THROWS_AS((void)testing::wrong_scans<grid>({.faults = {.skipped_sync = 0}}, 1), testing::block_misuse);
}

TEST_CASE("emulated launches on threads") {
  testing::launch_log log;
  testing::threaded_execution exec;
  exec.log = &log;
  exec.options.hides_caller = false;  // the body is a lambda
  std::vector<int> visits(4 * 32);
  auto const body = bodies::body<32>([&](auto const& context, auto&) {
    context.sync(2);
    ++visits[static_cast<std::size_t>(context.block()) * 32 + static_cast<std::size_t>(context.rank())];
  });
  CHECK(launcher::run(exec, 4, body).ok());
  CHECK(launcher::run(exec, 0, body).ok());
  CHECK(visits == std::vector<int>(4 * 32, 1));
  REQUIRE(log.size() == 1);
  CHECK(log[0].report.syncs == 1u << 2);
}
