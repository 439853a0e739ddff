// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <typeinfo>
#include <vector>

namespace testing {

/// What a grid did, as far as its context sees it: a device reports nothing.
struct grid_report {
  std::uint64_t syncs = 0;          ///< bit n: sync(n) was called
  std::uint64_t warp_syncs = 0;     ///< bit n: sync_warp(n) was called
  std::uint64_t cluster_syncs = 0;  ///< bit n: sync_cluster(n) was called
};

/// One launch: which body, how large, and what it did.
struct launch_record {
  std::type_info const* body;
  int blocks;
  int threads;
  grid_report report{};
};

using launch_log = std::vector<launch_record>;

}  // namespace testing
