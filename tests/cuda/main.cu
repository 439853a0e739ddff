// SPDX-License-Identifier: Apache-2.0
// The tests on a device: [--memory=separate] [doctest's options]. Without a device: one line that says why, and the
// exit code that ctest takes for a skipped test; --list-test-cases needs none. --device names it and runs nothing.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "cuda/device_memory.hpp"
#include "support/cuda_device.cuh"

namespace {

constexpr int skipped = 77;

int skip(char const* reason) {
  std::printf("skipped: %s\n", reason);
  return skipped;
}

int name_device() {
  cudaDeviceProp device{};
  int driver = 0;
  if (cudaGetDeviceProperties(&device, testing::device_traits().device) != cudaSuccess) return 1;
  if (cudaDriverGetVersion(&driver) != cudaSuccess) return 1;
  std::printf("%s, compute capability %d.%d, CUDA driver %d.%d, managed memory %s\n", device.name, device.major,
              device.minor, driver / 1000, driver % 1000 / 10,
              device.concurrentManagedAccess != 0 ? "shared" : "not shared at the same time");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  auto const given = [&](std::string_view option) { return std::find(argv + 1, argv + argc, option) != argv + argc; };
  if (given("--list-test-cases")) return doctest::Context(argc, argv).run();
  if (!testing::device_available()) {
    auto const error = static_cast<cudaError_t>(testing::device_traits().native);
    return skip(cudaGetErrorString(error));
  }
  if (given("--device")) return name_device();
  using testing::device_memory;
  auto const kind = given("--memory=separate") ? device_memory::separate : device_memory::pool;
  if (char const* const reason = testing::use_device_memory(kind)) return skip(reason);
  int result = doctest::Context(argc, argv).run();
  if (testing::blocks_broken() > 0) result = 1;
  // Static objects hold memory of the device by now, which may be gone when they are destroyed.
  std::fflush(nullptr);
  std::_Exit(result);
}
