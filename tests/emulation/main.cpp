// SPDX-License-Identifier: Apache-2.0
// The tests on emulated blocks, on a stack that kernels cannot read.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "emulation/test_stack.hpp"

int main(int argc, char** argv) {
  int result = 1;
  auto run_tests = [&] { result = doctest::Context(argc, argv).run(); };
  testing::test_stack::run(run_tests);
  return result;
}
