// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <typeinfo>

#include "support/launch_log.hpp"

namespace testing {

/// What an emulated context does wrong on purpose, for a test of the tests.
struct block_faults {
  int skipped_sync = -1;               ///< sync of this number does nothing
  int skipped_warp_sync = -1;          ///< sync_warp of this number does nothing
  int skipped_cluster_sync = -1;       ///< sync_cluster of this number does nothing
  bool short_scan = false;             ///< exclusive_sum leaves out what the last warp adds
  bool late_landing = false;           ///< wait does not wait: copies land at the end of the block
  bool swapped_copies = false;         ///< every second copy_async changes places with the one before it
  std::type_info const* in = nullptr;  ///< only in this body; nullptr: in all

  [[nodiscard]] bool concern(std::type_info const& body) const { return in == nullptr || *in == body; }
};

/// How a grid is run on the CPU.
struct grid_options {
  std::uint64_t seed = 0;  ///< of the schedule: the order of blocks and, for fibers, of threads
  int resident_blocks =
      2;  ///< blocks at a time; 1: each block runs to its end before another one starts. At least a cluster
  bool hides_caller =
      false;  ///< whether the stack that the launch comes from is hidden from bodies, as it is from a device
  block_faults faults{};
};

/// A body that breaks a rule of its context.
struct block_misuse : std::logic_error {
  using std::logic_error::logic_error;
};

/// What uninitialised shared memory holds: a NaN, and a large integer.
inline constexpr std::uint32_t shared_poison = 0x7FCBCBCBu;

}  // namespace testing
