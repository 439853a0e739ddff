// SPDX-License-Identifier: Apache-2.0
// Every kernel body under hostile schedules, and a test of that test: each barrier of each body is taken away in turn,
// and something has to show.
#include <doctest/doctest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <map>
#include <set>
#include <typeindex>

#include "emulation/kernel_cases.hpp"
#include "emulation/sanitizers.hpp"

namespace {

// Faulty kernels are run plain: hundreds of processes of a sanitizer take minutes and tell nothing more.
#if defined(FORESIGHTKV_TEST_ASAN)
constexpr bool skips_faults = true;
#else
constexpr bool skips_faults = false;
#endif

using testing::execution, testing::kernel_case, testing::launch_log;

std::vector<std::byte> run(kernel_case const& which, execution const& exec) { return which.run(exec); }

execution on_fibers(std::uint64_t seed, launch_log* log = nullptr) {
  execution exec;
  exec.options.seed = seed;
  exec.log = log;
  return exec;
}

/// Runs a check in a process of its own: what a faulty kernel writes where it should not ends that one. False for a
/// check that fails, throws or does not come back.
template <class Check>
bool survives(Check const& check) {
  std::fflush(nullptr);
  pid_t const child = fork();
  if (child == 0) {
    std::freopen("/dev/null", "w", stderr);
    for (int const signal : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL}) std::signal(signal, SIG_DFL);
    bool passed = false;
    try {
      passed = check();
    } catch (...) {
    }
    _exit(passed ? 0 : 1);
  }
  REQUIRE(child > 0);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/// Whether a fault is seen under some schedule: other bytes, or a report of the context.
bool shows(kernel_case const& which, std::vector<std::byte> const& right, testing::block_faults const& faults) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    auto exec = on_fibers(seed);
    exec.options.faults = faults;
    if (!survives([&] { return run(which, exec) == right; })) return true;
  }
  return false;
}

/// A body's name without its namespaces and arguments.
std::string short_name(std::type_info const& body) {
  std::string const name = body.name();
  auto const end = name.find("_kernel");
  auto begin = end;
  while (begin > 0 && (std::islower(name[begin - 1]) != 0 || name[begin - 1] == '_')) --begin;
  return end == std::string::npos ? name : name.substr(begin, end + 7 - begin);
}

}  // namespace

TEST_CASE("kernels: the schedule does not show in any byte") {
  for (kernel_case const& which : testing::kernel_cases()) {
    CAPTURE(which.name);
    auto const right = run(which, on_fibers(1));
    CHECK(right.size() > 100);
    for (std::uint64_t seed = 2; seed <= 4; ++seed) CHECK(run(which, on_fibers(seed)) == right);
  }
}

TEST_CASE("kernels: without any one barrier something shows" * doctest::skip(skips_faults)) {
  struct barrier {
    std::type_info const* body;
    int number;
    int testing::block_faults::*skipped;
    auto operator<=>(barrier const& other) const {
      return std::tuple(std::type_index(*body), number, kind()) <=>
             std::tuple(std::type_index(*other.body), other.number, other.kind());
    }
    [[nodiscard]] int kind() const {
      return skipped == &testing::block_faults::skipped_sync        ? 0
             : skipped == &testing::block_faults::skipped_warp_sync ? 1
                                                                    : 2;
    }
  };
  std::set<barrier> found, missed;
  for (kernel_case const& which : testing::kernel_cases()) {
    launch_log log;
    auto const right = run(which, on_fibers(1, &log));
    std::set<barrier> here;
    for (auto const& launch : log)
      for (int number = 0; number < 64; ++number) {
        if (launch.report.syncs >> number & 1) here.insert({launch.body, number, &testing::block_faults::skipped_sync});
        if (launch.report.warp_syncs >> number & 1)
          here.insert({launch.body, number, &testing::block_faults::skipped_warp_sync});
        if (launch.report.cluster_syncs >> number & 1)
          here.insert({launch.body, number, &testing::block_faults::skipped_cluster_sync});
      }
    for (barrier const& one : here) {
      if (found.contains(one)) continue;
      testing::block_faults faults;
      faults.*one.skipped = one.number;
      faults.in = one.body;
      (shows(which, right, faults) ? found : missed).insert(one);
    }
  }
  // A barrier counts as needed if one call shows it: not every call needs all that its bodies have.
  std::map<std::pair<std::string, int>, bool> needed;
  for (auto const* set : {&missed, &found})
    for (barrier const& one : *set) needed[{short_name(*one.body), one.number}] |= set == &found;
  for (auto const& [one, shown] : needed) {
    INFO("sync " << one.second << " of " << one.first);
    CHECK(shown);
  }
  CHECK(needed.size() > 20);
}

TEST_CASE("kernels: other faults of a block show" * doctest::skip(skips_faults)) {
  for (kernel_case const& which : testing::kernel_cases()) {
    CAPTURE(which.name);
    launch_log log;
    auto const right = run(which, on_fibers(1, &log));
    testing::block_faults short_scan, late, swapped;
    short_scan.short_scan = true;
    late.late_landing = true;
    swapped.swapped_copies = true;
    if (which.name.starts_with("select")) CHECK(shows(which, right, short_scan));
    if (which.name == "evict: mixed, ordered") {
      CHECK(shows(which, right, late));
      CHECK(shows(which, right, swapped));
    }
  }
}

TEST_CASE("kernels: an eviction is at most four launches, three with log-sum-exps; one more lists freed pages") {
  for (kernel_case const& which : testing::kernel_cases()) {
    if (!which.name.starts_with("evict")) continue;
    CAPTURE(which.name);
    launch_log log;
    (void)run(which, on_fibers(1, &log));
    auto const is_lse = [](auto const& launch) { return short_name(*launch.body).ends_with("lse_kernel"); };
    auto const lists_pages = [](auto const& launch) { return short_name(*launch.body) == "freed_pages_kernel"; };
    auto const sums = std::ranges::count_if(log, is_lse), lists = std::ranges::count_if(log, lists_pages);
    CHECK(sums <= 1);
    CHECK(lists == (which.name == "evict: pages" ? 1 : 0));
    CHECK(static_cast<std::ptrdiff_t>(log.size()) - sums - lists >= 2);
    CHECK(static_cast<std::ptrdiff_t>(log.size()) - sums - lists <= 3);
  }
}

TEST_CASE("kernels: into another cache it takes one launch more; compact takes as many as in place") {
  for (kernel_case const& which : testing::kernel_cases()) {
    if (!which.name.starts_with("into")) continue;
    launch_log log;
    (void)run(which, on_fibers(1, &log));
    std::vector<std::string> names;
    for (auto const& launch : log) names.push_back(short_name(*launch.body));
    CHECK(names == std::vector<std::string>{"visit_kernel", "lse_kernel", "observe_kernel", "select_kernel",
                                            "into_kernel",                                            // evict
                                            "freed_pages_kernel",                                     //
                                            "visit_kernel", "lse_kernel", "observe_kernel",           // score
                                            "visit_kernel", "select_kernel",                          // select
                                            "visit_kernel", "fetch_carried_kernel", "into_kernel"});  // compact
  }
}

TEST_CASE("kernels: tokens are taken back in three launches") {
  for (kernel_case const& which : testing::kernel_cases()) {
    if (!which.name.starts_with("take_back")) continue;
    launch_log log;
    (void)run(which, on_fibers(1, &log));
    std::vector<std::string> names;
    for (auto const& launch : log) names.push_back(short_name(*launch.body));
    CHECK(names == std::vector<std::string>{"visit_kernel", "newest_kernel", "take_back_kernel",  // tokens move
                                            "visit_kernel", "newest_kernel", "take_back_kernel"});
  }
}
