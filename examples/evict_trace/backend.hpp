// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/foresightkv.hpp>
#include <memory_resource>

#if defined(__CUDACC__)
#include <foresightkv/foresightkv.cuh>
#endif

namespace evict_trace {

namespace fkv = foresightkv;

/// Where verbs run, and the memory that they can read there.
struct backend {
  fkv::host_execution host{};
  bool on_device = false;  ///< a CUDA device, in a translation unit that nvcc compiles
  std::pmr::memory_resource* memory = std::pmr::new_delete_resource();

  /// call(tag), waited for.
  template <class Call>
  fkv::status run(Call const& call) const {
#if defined(__CUDACC__)
    if (on_device) {
      static fkv::device_traits const traits = fkv::device_traits::query();
      fkv::status const done = call(fkv::on(cudaStreamPerThread, traits));
      cudaError_t const error = done.ok() ? cudaStreamSynchronize(cudaStreamPerThread) : cudaSuccess;
      return error == cudaSuccess ? done : fkv::status{fkv::errc::cuda, error};
    }
#endif
    return call(host);
  }
};

}  // namespace evict_trace
