// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory_resource>
#include <string>

namespace evict_trace {

/// Whether this program can evict on a CUDA device at all: device_cuda.cpp is part of it, not device_none.cpp.
[[nodiscard]] bool built_with_cuda();

/// Why evictions cannot run on a CUDA device here; empty where they can.
[[nodiscard]] std::string cuda_problem();

/// Memory that host and device share. Only where there is no problem.
[[nodiscard]] std::pmr::memory_resource* cuda_memory();

}  // namespace evict_trace
