// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace testing {

/// Where the memory of the tests comes from: one pool with red zones of its own, or an allocation of CUDA for every
/// block, so that compute-sanitizer knows where each of them ends.
enum class device_memory { pool, separate };

/// From this call on, operator new of the program returns memory that host and device share: managed memory, or memory
/// of the host that the device can reach where managed memory belongs to one of them at a time. Null, or why it cannot.
char const* use_device_memory(device_memory kind);

/// Blocks that were given back with something written beside them; the pool alone knows.
int blocks_broken();

}  // namespace testing
