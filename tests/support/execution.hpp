// SPDX-License-Identifier: Apache-2.0
#pragma once

// Which backend the verbs of a test program run on: `testing::exec` is its tag. The same test files are compiled for
// the host, for the device's kernels on an emulated block (FORESIGHTKV_TEST_EMULATED), and for a device (by nvcc).

#include <foresightkv/foresightkv.hpp>

#if defined(FORESIGHTKV_TEST_EMULATED)

#include "emulation/emulated_backend.hpp"

namespace testing {

#if defined(FORESIGHTKV_TEST_THREADS)
using execution = threaded_execution;
#else
using execution = emulated_execution;
#endif
inline execution const exec{};
inline constexpr bool reads_device_data = false;  ///< whether a verb looks at arrays before it starts
inline constexpr bool is_emulated = true;
inline constexpr bool rounds_alike = true;  ///< whether a fused call and its stages give the same bits of a score

/// The same backend otherwise scheduled: results must not depend on it.
inline execution scheduled(int which) {
  execution made;
  made.options.seed = static_cast<std::uint64_t>(which);
  return made;
}

}  // namespace testing

#elif defined(__CUDACC__)

#include "support/cuda_execution.cuh"

#else

namespace testing {

using execution = foresightkv::host_execution;
inline constexpr execution exec{};
inline constexpr bool reads_device_data = true;  ///< whether a verb looks at arrays before it starts
inline constexpr bool is_emulated = false;
inline constexpr bool rounds_alike = true;  ///< whether a fused call and its stages give the same bits of a score

/// The same backend otherwise scheduled: results must not depend on it.
inline execution scheduled(int which) { return exec.threads(which); }

}  // namespace testing

#endif
