// SPDX-License-Identifier: Apache-2.0
#pragma once

/// \file
/// Everything, on the host and on CUDA devices: foresightkv.hpp, and the verbs for `on(stream, traits)`. Needs nvcc.

#include <foresightkv/cuda_execution.cuh>
#include <foresightkv/detail/cuda/backend.cuh>
#include <foresightkv/foresightkv.hpp>
