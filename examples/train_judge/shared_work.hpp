// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <exception>
#include <mutex>
#include <span>

#include "support/communicator.hpp"

namespace train_judge {

/// body(task) for every task, on so many threads. The first exception reaches the caller after all have
/// ended.
template <class Body>
void on_threads([[maybe_unused]] int threads, std::size_t tasks, Body const& body) {
  std::exception_ptr problem;
  std::mutex guard;
  auto const count = static_cast<std::ptrdiff_t>(tasks);
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) schedule(dynamic)
#endif
  for (std::ptrdiff_t task = 0; task < count; ++task) {
    try {
      body(static_cast<std::size_t>(task));
    } catch (...) {
      std::lock_guard const lock(guard);
      if (!problem) problem = std::current_exception();
    }
  }
  if (problem) std::rethrow_exception(problem);
}

/// Collective: task t is worked on by process t % size, and what it wrote reaches all of them.
///
/// work(task) does it; results(task, send) calls send(std::span) for each array that the task wrote, in the
/// same order and of the same size everywhere.
template <class Work, class Results>
void share_work(support::communicator const& world, std::size_t tasks, int threads, Work const& work,
                Results const& results) {
  auto const rank = static_cast<std::size_t>(world.rank()), size = static_cast<std::size_t>(world.size());
  auto const own = tasks > rank ? (tasks - rank - 1) / size + 1 : 0;
  support::together(world, [&] { on_threads(threads, own, [&](std::size_t i) { work(rank + i * size); }); });
  if (size == 1) return;
  for (std::size_t task = 0; task < tasks; ++task)
    results(task, [&](auto values) { world.broadcast(values, static_cast<int>(task % size)); });
}

}  // namespace train_judge
