// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <typeinfo>
#include <vector>

#include <foresightkv/detail/kernels/block_context.hpp>
#include <foresightkv/status.hpp>

#include "emulation/block_faults.hpp"
#include "emulation/fiber_block.hpp"
#include "support/random.hpp"
#include "emulation/thread_block.hpp"

namespace testing {

/// One launch: which body, how large, and what it did.
struct launch_record {
  std::type_info const* body;
  int blocks;
  int threads;
  grid_report report;
};

using launch_log = std::vector<launch_record>;

enum class emulation { fibers, threads };

/// Runs the device backend's kernel bodies on the CPU. With a log every launch has its own schedule, as the
/// log's length goes into it, else all have that of the seed. What a body throws and what it does wrong leave
/// the verb as an exception.
struct emulated_execution {
  emulation kind = emulation::fibers;
  grid_options options{};
  bool clusters = true;  ///< as a device that has them
  launch_log* log = nullptr;

  [[nodiscard]] grid_options of_this_launch() const {
    grid_options made = options;
    made.seed = random_source(options.seed + (log == nullptr ? 0u : log->size())).bits();
    return made;
  }
};

}  // namespace testing

template <>
struct foresightkv::detail::kernels::launcher<testing::emulated_execution> {
  template <class Body>
  static status run(testing::emulated_execution const& exec, int blocks, Body const& body) {
    if (blocks <= 0) return {};
    auto const options = exec.of_this_launch();
    testing::grid_report const report = exec.kind == testing::emulation::fibers
                                            ? testing::fiber_grid::run(options, blocks, body)
                                            : testing::thread_grid::run(options, blocks, body);
    if (exec.log != nullptr) exec.log->push_back({&typeid(Body), blocks, Body::threads, report});
    return {};
  }
  static bool clusters(testing::emulated_execution const& exec) { return exec.clusters; }
};
