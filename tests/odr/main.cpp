// SPDX-License-Identifier: Apache-2.0
// Two engines in one process. Each must reach its own kernels, and the same end with or without a device.
#include "engine.hpp"

#include <cstdio>
#include <foresightkv/status.hpp>

namespace {

constexpr int ok = static_cast<int>(foresightkv::errc::ok), cuda = static_cast<int>(foresightkv::errc::cuda);
int failures = 0;

void check(bool holds, char const* what, engine_result const& got) {
  if (holds) return;
  ++failures;
  std::printf("failed: %s: code %d, native %d, length %d\n", what, got.code, got.native, got.length);
}

/// With a device the budget; without one CUDA's reason, and nothing written.
void check_evict(char const* engine, engine_result const& got, int budget) {
  bool const without_device = got.code == cuda && got.native != 0 && got.length == -1;
  check(without_device || (got.code == ok && got.length == budget), engine, got);
}

}  // namespace

int main() {
  engine_result const first = first_evict(false), second = second_evict(false);
  check_evict("first engine", first, 8);
  check_evict("second engine", second, 12);
  check_evict("first engine, shared policy", first_evict(true), 10);
  check_evict("second engine, shared policy", second_evict(true), 10);
  check(first.code == second.code, "both engines meet the same device", second);
  check(first_kernel_of_one_unit() == first_kernel_of_another_unit(), "one kernel of a body in a library", first);
  std::printf("%d failures, %s\n", failures, first.code == ok ? "run on a device" : "no CUDA device");
  return failures == 0 ? 0 : 1;
}
