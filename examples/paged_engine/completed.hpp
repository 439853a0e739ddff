// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <foresightkv/foresightkv.hpp>

#if defined(__CUDACC__)
#include <foresightkv/foresightkv.cuh>
#endif

namespace paged_engine {

namespace fkv = foresightkv;

/// What a call has begun, waited for: this engine reads and writes the arrays of its calls between them.
template <class Exec>
[[nodiscard]] fkv::status completed([[maybe_unused]] Exec const& exec, fkv::status const& begun) {
#if defined(__CUDACC__)
  if constexpr (std::same_as<Exec, fkv::cuda_execution>)
    if (cudaError_t const error = begun.ok() ? cudaStreamSynchronize(exec.stream) : cudaSuccess; error != cudaSuccess)
      return {fkv::errc::cuda, error};
#endif
  return begun;
}

}  // namespace paged_engine
