// SPDX-License-Identifier: Apache-2.0
#include "device.hpp"

namespace support {

std::string cuda_problem() { return "this program was built without CUDA"; }
std::pmr::memory_resource* cuda_memory() { return nullptr; }

}  // namespace support
