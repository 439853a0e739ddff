// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>
#include <foresightkv/cuda_execution.cuh>

namespace testing {

/// Of the current device, or the reason why there is none.
inline foresightkv::device_traits const& device_traits() {
  static foresightkv::device_traits const traits = foresightkv::device_traits::query();
  return traits;
}

inline bool device_available() { return device_traits().native == cudaSuccess; }

/// The stream of every test; null without a device.
inline cudaStream_t cuda_stream() {
  static cudaStream_t const stream = [] {
    cudaStream_t made = nullptr;
    return cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking) == cudaSuccess ? made : nullptr;
  }();
  return stream;
}

}  // namespace testing
