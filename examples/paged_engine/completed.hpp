// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <foresightkv/foresightkv.hpp>
#include <string>

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

/// What a status says, a CUDA error by its number.
[[nodiscard]] inline std::string text(fkv::status const& done) {
  if (done.code == fkv::errc::cuda) return "CUDA error " + std::to_string(done.native);
  return std::string(done.message()) + ": " + fkv::message(done.where);
}

}  // namespace paged_engine
