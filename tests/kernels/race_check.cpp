// SPDX-License-Identifier: Apache-2.0
// Every kernel body on blocks of real threads, for ThreadSanitizer: without it this only compares bytes.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>

#include "emulation/kernel_cases.hpp"

namespace {

bool same_on_threads(testing::kernel_case const& which) {
  testing::execution threads, fibers;
  fibers.on_threads = false;
  bool same = false;
  try {
    same = which.run(threads) == which.run(fibers);
  } catch (std::exception const& problem) {
    std::printf("%s: %s\n", which.name.c_str(), problem.what());
  }
  std::printf("%s: %s\n", which.name.c_str(), same ? "same bytes" : "OTHER BYTES");
  std::fflush(stdout);
  return same;
}

}  // namespace

int main(int argc, char** argv) {
  doctest::Context context(argc, argv);  // the benches check as they go
  context.setAsDefaultForAssertsOutOfTestCases();
  int wrong = 0, cases = 0;
  for (testing::kernel_case const& which : testing::kernel_cases(true)) {
    // A process per case: ThreadSanitizer remembers every thread that there ever was.
    pid_t const child = fork();
    if (child == 0) std::exit(same_on_threads(which) ? 0 : 1);
    int status = -1;
    if (child < 0 || waitpid(child, &status, 0) != child) status = -1;
    wrong += !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    ++cases;
  }
  std::printf("%d kernel cases, %d wrong\n", cases, wrong);
  return wrong == 0 && cases > 0 ? 0 : 1;
}
