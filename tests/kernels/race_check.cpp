// SPDX-License-Identifier: Apache-2.0
// Every kernel body on blocks of real threads, for ThreadSanitizer: without it this only compares bytes.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <exception>

#include "support/kernel_cases.hpp"

int main(int argc, char** argv) {
  doctest::Context context(argc, argv);  // the benches check as they go
  context.setAsDefaultForAssertsOutOfTestCases();
  testing::execution fibers, threads;
  threads.kind = testing::emulation::threads;
  int wrong = 0, cases = 0;
  for (testing::kernel_case const& which : testing::kernel_cases(true)) {
    bool same = false;
    try {
      same = which.run(threads) == which.run(fibers);
    } catch (std::exception const& problem) {
      std::printf("%s: %s\n", which.name.c_str(), problem.what());
    }
    std::printf("%s: %s\n", which.name.c_str(), same ? "same bytes" : "OTHER BYTES");
    std::fflush(stdout);
    wrong += !same;
    ++cases;
  }
  std::printf("%d kernel cases, %d wrong\n", cases, wrong);
  return wrong == 0 && cases > 0 ? 0 : 1;
}
