// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory_resource>
#include <string>

namespace support {

/// Why nothing can run on a CUDA device here; empty where they can. A program without device_cuda.cpp has
/// device_none.cpp, which says so.
[[nodiscard]] std::string cuda_problem();

/// Memory that host and device share. Only where there is no problem.
[[nodiscard]] std::pmr::memory_resource* cuda_memory();

}  // namespace support
