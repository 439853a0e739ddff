// SPDX-License-Identifier: Apache-2.0
// The benchmarks of the device backend. Without a device: one line that says why, and exit status 77.
#include <cstdio>
#include <cstring>
#include <string>

#include "support/device_timing.cuh"

namespace {

void describe_device() {
  cudaDeviceProp device{};
  int driver = 0, runtime = 0;
  benchmarks::require(cudaGetDeviceProperties(&device, benchmarks::traits().device));
  benchmarks::require(cudaDriverGetVersion(&driver));
  benchmarks::require(cudaRuntimeGetVersion(&runtime));
  benchmark::AddCustomContext("device", device.name);
  benchmark::AddCustomContext("multiprocessors", std::to_string(device.multiProcessorCount));
  benchmark::AddCustomContext("L2_bytes", std::to_string(device.l2CacheSize));
  benchmark::AddCustomContext("memory_bytes", std::to_string(device.totalGlobalMem));
  benchmark::AddCustomContext("cuda_driver", std::to_string(driver));
  benchmark::AddCustomContext("cuda_runtime", std::to_string(runtime));
}

}  // namespace

int main(int count, char** arguments) {
  bool lists = false;
  for (int i = 1; i < count; ++i) lists = lists || std::strncmp(arguments[i], "--benchmark_list_tests", 22) == 0;
  benchmark::Initialize(&count, arguments);
  if (benchmark::ReportUnrecognizedArguments(count, arguments)) return 2;
  if (!lists && benchmarks::traits().native != cudaSuccess) {
    std::printf("skipped: %s\n", cudaGetErrorString(static_cast<cudaError_t>(benchmarks::traits().native)));
    return 77;
  }
  try {
    if (!lists) describe_device();
    benchmark::RunSpecifiedBenchmarks();
  } catch (std::exception const& problem) {
    std::fprintf(stderr, "%s\n", problem.what());
    return 1;
  }
  return 0;
}
