// SPDX-License-Identifier: Apache-2.0
// The benchmarks of the device backend. Without a device: one line that says why, and exit status 77.
#include <cstdio>
#include <cstring>

#include "support/device_setting.cuh"

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
    benchmark::RunSpecifiedBenchmarks();
  } catch (std::exception const& problem) {
    std::fprintf(stderr, "%s\n", problem.what());
    return 1;
  }
  return 0;
}
