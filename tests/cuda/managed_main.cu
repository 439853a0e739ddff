// SPDX-License-Identifier: Apache-2.0
// The tests on a device. Without one: one line that says why, and the exit code that ctest takes for a skipped test.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>

#include "cuda/managed_memory.hpp"
#include "support/cuda_device.cuh"

namespace {

constexpr int skipped = 77;

int skip(char const* reason) {
  std::printf("skipped: %s\n", reason);
  return skipped;
}

}  // namespace

int main(int argc, char** argv) {
  if (!testing::device_available()) {
    auto const error = static_cast<cudaError_t>(testing::device_traits().native);
    return skip(cudaGetErrorString(error));
  }
  if (!testing::use_managed_memory()) return skip("host and device share no memory at the same time");
  int const result = doctest::Context(argc, argv).run();
  // Static objects hold memory of the device by now, which may be gone when they are destroyed.
  std::fflush(nullptr);
  std::_Exit(result);
}
