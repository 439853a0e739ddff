// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <foresightkv/cuda_execution.cuh>
#include <foresightkv/detail/cuda/block_context.cuh>
#include <foresightkv/status.hpp>
#include <type_traits>

namespace foresightkv::inline v0::detail {

// Hidden, whatever nvcc's defaults are: a kernel belongs to the library or program that it is compiled into.
namespace [[gnu::visibility("hidden")]] cuda {

template <class Body>
using block_of = cuda_block<Body::threads, kernels::cluster_of<Body>()>;

template <class Body>
using body_memory = typename Body::template shared<block_of<Body>>;

/// Above what a block gets without asking, shared memory is dynamic.
template <class Body>
inline constexpr std::size_t dynamic_bytes = sizeof(body_memory<Body>) > 48 * 1024 ? sizeof(body_memory<Body>) : 0;

/// Blocks of a multiprocessor that a body is compiled for: Body::min_blocks, or one.
template <class Body>
constexpr int min_blocks() {
  if constexpr (requires { Body::min_blocks; })
    return Body::min_blocks;
  else
    return 1;
}

template <class Body, class Architectures>
__global__ void __launch_bounds__(Body::threads, min_blocks<Body>()) run_body(Body const __grid_constant__ body) {
  using memory = body_memory<Body>;
  block_of<Body> const context;
  if constexpr (dynamic_bytes<Body> == 0) {
    __shared__ memory shared;
    body(context, shared);
  } else {
    extern __shared__ __align__(128) std::byte dynamic_memory[];
    body(context, *reinterpret_cast<memory*>(dynamic_memory));
  }
}

template <class Body>
using kernel_pointer = void (*)(Body);

/// The one kernel of a body in a library or program. nvcc 13 gives each translation unit a kernel of its own; this
/// function, never inlined, is merged by the linker, so that what was prepared in one unit is launched in another.
template <class Body, class Architectures>
[[gnu::noinline]] kernel_pointer<Body> kernel_of() {
  static_assert(std::is_trivially_copyable_v<Body>, "foresightkv: a kernel's arguments must be trivially copyable");
  static_assert(alignof(body_memory<Body>) <= 128, "foresightkv: shared memory is aligned to 128 bytes at most");
  return &run_body<Body, Architectures>;
}

/// Lets a kernel have its dynamic shared memory. Where it has none, nothing is asked of CUDA.
template <class Body, class Architectures>
cudaError_t allow_memory() {
  if constexpr (dynamic_bytes < Body >> 0)
    return cudaFuncSetAttribute(kernel_of<Body, Architectures>(), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(dynamic_bytes<Body>));
  else
    return cudaSuccess;
}

/// What can be said before a launch.
template <class Body, class Architectures>
status check_device(device_traits const& traits) {
  if (traits.native != cudaSuccess) return {errc::cuda, traits.native};
  return sizeof(body_memory<Body>) <= traits.shared_bytes_per_block ? status{} : status{errc::unsupported};
}

/// Whether bodies with a cluster run on a device: it has to run code for sm_90 or later, not what is compiled from PTX
/// of sm_80. So it does where there is code for its own major version; of other versions it is not known here.
template <int... Each>
constexpr bool has_clusters(architectures<Each...> const*, device_traits const& traits) {
  int const own = traits.compute_capability;
  bool const compiled = ((Each >= 900 && Each / 10 <= own && Each / 100 == own / 10) || ...);
  return compiled && traits.num_multiprocessors >= kernels::largest_cluster;
}

/// The call's own result: cudaGetLastError would take away an error of the engine.
inline status to_status(cudaError_t error) { return error == cudaSuccess ? status{} : status{errc::cuda, error}; }

}  // namespace gnu::visibility("hidden")]]cuda

namespace kernels {

template <class Architectures>
struct launcher<basic_cuda_execution<Architectures>> {
  template <class Body>
  static status run(basic_cuda_execution<Architectures> const& exec, int blocks, Body const& body) {
    status const checked = cuda::check_device<Body, Architectures>(exec.traits);
    if (!checked.ok() || blocks <= 0) return checked;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(Body::threads));
    config.dynamicSmemBytes = cuda::dynamic_bytes<Body>;
    config.stream = exec.stream;
    [[maybe_unused]] cudaLaunchAttribute cluster{};
    if constexpr (cluster_of<Body>() > 1) {
      cluster.id = cudaLaunchAttributeClusterDimension;
      cluster.val.clusterDim.x = static_cast<unsigned>(cluster_of<Body>());
      cluster.val.clusterDim.y = 1;
      cluster.val.clusterDim.z = 1;
      config.attrs = &cluster;
      config.numAttrs = 1;
    }
    cudaError_t const allowed = cuda::allow_memory<Body, Architectures>();
    if (allowed != cudaSuccess) return cuda::to_status(allowed);
    return cuda::to_status(cudaLaunchKernelEx(&config, cuda::kernel_of<Body, Architectures>(), body));
  }
  static bool clusters(basic_cuda_execution<Architectures> const& exec) {
    return cuda::has_clusters(static_cast<Architectures const*>(nullptr), exec.traits);
  }
};

template <class Architectures>
struct launcher<basic_cuda_preparation<Architectures>> {
  template <class Body>
  static status run(basic_cuda_preparation<Architectures> const& exec, int, Body const&) {
    status const checked = cuda::check_device<Body, Architectures>(exec.traits);
    if (!checked.ok()) return checked;
    cudaFuncAttributes loaded{};
    cudaError_t const error = cudaFuncGetAttributes(&loaded, cuda::kernel_of<Body, Architectures>());
    return cuda::to_status(error == cudaSuccess ? cuda::allow_memory<Body, Architectures>() : error);
  }
  static bool clusters(basic_cuda_preparation<Architectures> const& exec) {
    return cuda::has_clusters(static_cast<Architectures const*>(nullptr), exec.traits);
  }
};

}  // namespace kernels

}  // namespace foresightkv::inline v0::detail
