// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>

#if defined(__CUDACC__)
#define FORESIGHTKV_HOST_DEVICE __host__ __device__
#else
#define FORESIGHTKV_HOST_DEVICE
#endif

namespace foresightkv::inline v0 {

/// Runs a verb on the calling thread, or over OpenMP threads where the caller's translation unit enables OpenMP.
struct host_execution {
  int num_threads =
      0;  ///< 0: OpenMP's own default; 1: the calling thread alone; 256 at most. Results never depend on it

  [[nodiscard]] constexpr host_execution threads(int count) const { return {count}; }
};

/// The host execution tag: first argument of every verb.
inline constexpr host_execution host{};

template <class Exec>
concept host_executor = std::same_as<Exec, host_execution>;

}  // namespace foresightkv::inline v0
