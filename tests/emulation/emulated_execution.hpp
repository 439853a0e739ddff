// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <typeinfo>

#include <foresightkv/detail/kernels/block_context.hpp>
#include <foresightkv/status.hpp>

#include "emulation/block_faults.hpp"
#include "emulation/fiber_block.hpp"
#include "emulation/thread_block.hpp"
#include "support/random.hpp"

namespace testing {

/// Runs the device backend's kernel bodies on the CPU, on fibers. With a log every launch has its own schedule, as the
/// log's length goes into it, else all have that of the seed. What a body throws and what it does wrong leave
/// the verb as an exception.
struct emulated_execution {
  grid_options options{.hides_caller = true};
  bool clusters = true;  ///< as a device that has them
  launch_log* log = nullptr;

  [[nodiscard]] grid_options of_this_launch() const {
    grid_options made = options;
    made.seed = random_source(options.seed + (log == nullptr ? 0u : log->size())).bits();
    return made;
  }
  void note(std::type_info const& body, int blocks, int threads, grid_report const& report) const {
    if (log != nullptr) log->push_back({&body, blocks, threads, report});
  }
};

/// The same on threads or on fibers. A type of its own: compiling every body twice takes its time.
struct threaded_execution : emulated_execution {
  bool on_threads = true;
};

}  // namespace testing

template <>
struct foresightkv::detail::kernels::launcher<testing::emulated_execution> {
  template <class Body>
  static status run(testing::emulated_execution const& exec, int blocks, Body const& body) {
    if (blocks <= 0) return {};
    exec.note(typeid(Body), blocks, Body::threads, testing::fiber_grid::run(exec.of_this_launch(), blocks, body));
    return {};
  }
  static bool clusters(testing::emulated_execution const& exec) { return exec.clusters; }
};

template <>
struct foresightkv::detail::kernels::launcher<testing::threaded_execution> : launcher<testing::emulated_execution> {
  template <class Body>
  static status run(testing::threaded_execution const& exec, int blocks, Body const& body) {
    if (!exec.on_threads) return launcher<testing::emulated_execution>::run(exec, blocks, body);
    if (blocks <= 0) return {};
    exec.note(typeid(Body), blocks, Body::threads, testing::thread_grid::run(exec.of_this_launch(), blocks, body));
    return {};
  }
};
