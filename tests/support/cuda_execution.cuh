// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/foresightkv.cuh>

#include "support/cuda_device.cuh"
#include "support/launch_log.hpp"

namespace testing {

/// The device, waited for after every launch: tests look at memory between verbs.
struct waiting_cuda {
  bool clusters = true;  ///< if the device has them
  launch_log* log = nullptr;
};

}  // namespace testing

template <>
struct foresightkv::detail::kernels::launcher<testing::waiting_cuda> {
  template <class Body>
  static status run(testing::waiting_cuda const& exec, int blocks, Body const& body) {
    auto const stream = testing::cuda_stream();
    if (exec.log != nullptr && blocks > 0) exec.log->push_back({&typeid(Body), blocks, Body::threads});
    status const done = launcher<cuda_execution>::run(on(stream, testing::device_traits()), blocks, body);
    return done.ok() ? foresightkv::detail::cuda::to_status(cudaStreamSynchronize(stream)) : done;
  }
  static bool clusters(testing::waiting_cuda const& exec) {
    return exec.clusters && launcher<cuda_execution>::clusters(on(testing::cuda_stream(), testing::device_traits()));
  }
};

template <>
struct foresightkv::detail::backend<testing::waiting_cuda>
    : foresightkv::detail::kernels::kernel_backend<testing::waiting_cuda> {};

namespace testing {

using execution = waiting_cuda;
inline constexpr execution exec{};
inline constexpr bool reads_device_data = false;  ///< whether a verb looks at arrays before it starts
inline constexpr bool is_emulated = false;
inline constexpr bool rounds_alike = false;  ///< whether a fused call and its stages give the same bits of a score
inline execution scheduled(int) { return exec; }

}  // namespace testing
