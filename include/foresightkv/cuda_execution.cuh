// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>
#include <cstddef>
#include <foresightkv/execution.hpp>

namespace foresightkv::inline v0 {

/// What the library knows of a device. Plain data: query once, keep it, pass it with every call.
struct device_traits {
  int device = -1;             ///< ordinal; must be the current device of every call
  int compute_capability = 0;  ///< major * 10 + minor
  int num_multiprocessors = 0;
  std::size_t shared_bytes_per_block = 0;  ///< largest shared memory of one block, opted in
  std::size_t shared_bytes_per_multiprocessor = 0;
  int native = cudaErrorInvalidDevice;  ///< of the query: a verb given traits with an error here returns it

  /// Asks the current device. The only query that the library makes; it launches and allocates nothing.
  ///
  /// Without a device or a driver, `native` says so, and every verb then returns {errc::cuda, native} unrun.
  [[nodiscard]] static device_traits query() {
    device_traits traits;
    int major = 0, minor = 0, block = 0, multiprocessor = 0;
    cudaError_t error = cudaGetDevice(&traits.device);
    auto const read = [&](int& value, cudaDeviceAttr attribute) {
      if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, attribute, traits.device);
    };
    read(major, cudaDevAttrComputeCapabilityMajor);
    read(minor, cudaDevAttrComputeCapabilityMinor);
    read(traits.num_multiprocessors, cudaDevAttrMultiProcessorCount);
    read(block, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    read(multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
    traits.compute_capability = major * 10 + minor;
    traits.shared_bytes_per_block = static_cast<std::size_t>(block);
    traits.shared_bytes_per_multiprocessor = static_cast<std::size_t>(multiprocessor);
    traits.native = error;
    return traits;
  }
};

namespace detail::cuda {

/// The architectures that a translation unit is compiled for. Part of the type of its execution tags, hence of the name
/// of every function that leads to a launch: of two libraries in one process, built for different devices, neither
/// can end up in the other's kernels.
template <int... Architectures>
struct architectures;

}  // namespace detail::cuda

/// Runs a verb on a stream: kernels only, in order, no synchronisation, no allocation. Made by `on`.
template <class Architectures>
struct basic_cuda_execution {
  cudaStream_t stream;
  device_traits traits;
};

/// The tag of this translation unit's kernels.
using cuda_execution = basic_cuda_execution<detail::cuda::architectures<__CUDA_ARCH_LIST__>>;

/// The device execution tag: first argument of every verb.
///
/// Work goes to `stream` alone. Buffers named in a call are the stream's until its work is done; two calls may run on
/// two streams at once if neither writes what the other touches, workspaces included.
/// \par CUDA graphs
/// Every verb may be called while `stream` is captured. A replay runs the same launches on the same buffers, whatever
/// lengths and lists those hold by then, within the host's bounds of the captured call. Prepare the call before the
/// capture: see `prepare`.
/// \param stream  of the current device. There is no default: name cudaStreamLegacy or cudaStreamPerThread to mean one
/// \param traits  of the current device
[[nodiscard]] inline cuda_execution on(cudaStream_t stream, device_traits const& traits) { return {stream, traits}; }
cuda_execution on(std::nullptr_t, device_traits const&) = delete;
cuda_execution on(int, device_traits const&) = delete;

/// Readies a verb for its device instead of running it. Made by `prepare`.
template <class Architectures>
struct basic_cuda_preparation {
  device_traits traits;
};

/// The preparing tag of this translation unit's kernels.
using cuda_preparation = basic_cuda_preparation<detail::cuda::architectures<__CUDA_ARCH_LIST__>>;

/// The preparing tag: a verb called with it loads every kernel that the same call on a stream would launch, sets its
/// attributes, and runs nothing.
///
///     fkv::status ready = fkv::evict(fkv::prepare(traits), rows, window, {new_lengths});
///
/// Once per device and process, before the first call on a stream, with the same types and the same host values. CUDA
/// loads a kernel at its first use, which may allocate and synchronise and is no part of a captured graph.
/// \return as the verb; {errc::cuda, native} if a kernel does not load on this device
[[nodiscard]] inline cuda_preparation prepare(device_traits const& traits) { return {traits}; }

}  // namespace foresightkv::inline v0
