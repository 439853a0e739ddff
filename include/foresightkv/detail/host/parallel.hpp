// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/execution.hpp>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace foresightkv::inline v0::detail::host {

inline constexpr int most_threads = 256;

/// Threads that a call over `tasks` tasks uses.
inline int num_threads(host_execution exec, int tasks) {
#if defined(_OPENMP)
  int const wanted = exec.num_threads > 0 ? exec.num_threads : omp_get_max_threads();
#else
  int const wanted = 1;
  (void)exec;
#endif
  int const allowed = wanted < most_threads ? wanted : most_threads;
  int const useful = tasks < allowed ? tasks : allowed;
  return useful < 1 ? 1 : useful;
}

/// body(task, thread) for every task; tasks are independent, so the schedule does not show in results.
template <class Body>
void parallel_for(int threads, int tasks, Body const& body) {
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int task = 0; task < tasks; ++task) body(task, omp_get_thread_num());
    return;
  }
#else
  (void)threads;
#endif
  for (int task = 0; task < tasks; ++task) body(task, 0);
}

}  // namespace foresightkv::inline v0::detail::host
