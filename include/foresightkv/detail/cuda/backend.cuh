// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/cuda_execution.cuh>
#include <foresightkv/detail/backend.hpp>
#include <foresightkv/detail/cuda/launch.cuh>
#include <foresightkv/detail/kernels/kernel_backend.hpp>

namespace foresightkv::inline v0::detail {

/// The verbs on a device: launches on the stream of the tag, nothing else.
template <class Architectures>
struct backend<basic_cuda_execution<Architectures>> : kernels::kernel_backend<basic_cuda_execution<Architectures>> {};

/// The same walk without launches.
template <class Architectures>
struct backend<basic_cuda_preparation<Architectures>> : kernels::kernel_backend<basic_cuda_preparation<Architectures>> {
};

}  // namespace foresightkv::inline v0::detail
