// SPDX-License-Identifier: Apache-2.0
#pragma once

// The pairwise ranking loss (ForesightKV, arXiv 2602.03203, section 3.2), margin m, one row of n candidates
// with labels y and scores s:
//
//   P    = { (i, j) : y_i > y_j }                                      pairs of equal labels do not count
//   loss = 1 / |P|  sum over P of max(0, m - (s_i - s_j))              a row without pairs is left out
//   dloss / ds_i = ( #{ j : y_j > y_i, s_j - s_i < m } - #{ j : y_j < y_i, s_i - s_j < m } ) / |P|
//
// and the mean over the rows that have pairs. Scores and labels stand in the same orientation, whichever it
// is: if both change sign, the loss stays and its gradient changes sign. So golden's future scores go with
// keep scores (this library), and their negatives with the drop scores of the published code.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/buffer.hpp>
#include <foresightkv/detail/host/parallel.hpp>
#include <foresightkv/execution.hpp>
#include <foresightkv/status.hpp>
#include <foresightkv/training/detail/ranking.hpp>
#include <foresightkv/training/detail/ranking_hinge_kernels.hpp>
#include <foresightkv/training/hinge_config.hpp>
#include <foresightkv/workspace.hpp>

namespace foresightkv::inline v0::detail::training {

template <class Real>
struct hinge_memory {
  hinge_row* rows = nullptr;
  host::ranking_scratch<Real>* threads = nullptr;

  static hinge_memory take(arena& memory, int rows, int candidates, int threads) {
    hinge_memory all;
    all.rows = memory.take<hinge_row>(static_cast<std::size_t>(rows));
    all.threads = memory.take<host::ranking_scratch<Real>>(static_cast<std::size_t>(threads));
    for (int thread = 0; thread < threads; ++thread) {
      auto const scratch = host::ranking_scratch<Real>::take(memory, candidates);
      if (all.threads != nullptr) all.threads[thread] = scratch;
    }
    return all;
  }
};

inline bool labels_differ(float const* labels, int n) {
  std::uint32_t lowest = 0xffffffffu, highest = 0;
  for (int i = 0; i < n; ++i) {
    std::uint32_t const key = order_key(labels[i]);
    std::uint32_t const known = key == unlabelled ? 0xffffffffu : key;
    lowest = std::min(lowest, known);
    highest = std::max(highest, key);
  }
  return highest > lowest;
}

/// Which rows count depends on no other row, but how much each weighs does: the first of two passes.
template <class Real>
int find_rows(ranking_rows<Real> const& input, int threads, hinge_row* rows) {
  host::parallel_for(threads, input.rows, [&](int r, int) {
    auto const at = static_cast<std::size_t>(r) * static_cast<std::size_t>(input.candidates);
    bool const finite = all_finite(input.scores + at, static_cast<std::size_t>(input.candidates));
    rows[r] = {0.0, 0, 0, finite && labels_differ(input.labels + at, input.candidates), finite};
  });
  int count = 0;
  for (int r = 0; r < input.rows; ++r) count += rows[r].counts ? 1 : 0;
  return count;
}

template <class Real>
host::pair_counts count_pairs(hinge_config const& config, ranking_rows<Real> const& input, int r,
                              host::ranking_scratch<Real>& scratch) {
  int const n = input.candidates;
  auto const at = static_cast<std::size_t>(r) * static_cast<std::size_t>(n);
  auto const margin = static_cast<Real>(config.margin);
  bool const some = num_distances(config, n) > 0;
  random_counter const at_draw{{0, config.first_row + static_cast<std::uint32_t>(r), config.step, 0}};
  return host::with_best_isa([&](auto isa) __attribute__((always_inline)) {
    using isa_tag = decltype(isa);
    if (some)
      return host::count_shifted_pairs<isa_tag>(input.scores + at, input.labels + at, n, margin, at_draw, config.seed,
                                                config.num_shifts, scratch);
    return host::count_all_pairs<isa_tag>(input.scores + at, input.labels + at, n, margin, scratch);
  });
}

/// The loss of a row is linear in the counts: margin per active pair, and each score times its net count. The
/// counts sum to 0, so the scores may be taken from any level; taking the first one keeps what is common to
/// all out of it.
template <class Real>
double weigh_row(hinge_config const& config, Real const* scores, int n, host::pair_counts const& found,
                 std::int32_t const* net) {
  double const margin = static_cast<double>(static_cast<Real>(config.margin));
  double const level = static_cast<double>(scores[0]);
  double sum = margin * static_cast<double>(found.active);
  for (int i = 0; i < n; ++i) sum += (static_cast<double>(scores[i]) - level) * net[i];
  return std::max(sum, 0.0);
}

template <class Real>
void hinge_of_rows(hinge_config const& config, ranking_rows<Real> const& input, int threads, int count,
                   hinge_memory<Real> const& memory, Real* gradient) {
  int const n = input.candidates;
  double const thinned = pairs_per_compared(config, n);
  host::parallel_for(threads, input.rows, [&](int r, int thread) {
    hinge_row& row = memory.rows[r];
    auto const at = static_cast<std::size_t>(r) * static_cast<std::size_t>(n);
    if (!row.counts) {
      if (gradient != nullptr) std::fill_n(gradient + at, n, Real{0});
      return;
    }
    auto& scratch = memory.threads[thread];
    auto const found = count_pairs(config, input, r, scratch);
    double const factor = thinned / static_cast<double>(found.pairs);
    row.pairs = found.pairs;
    row.active = found.active;
    row.loss = factor * weigh_row(config, input.scores + at, n, found, scratch.gradient);
    if (gradient == nullptr) return;
    for (int i = 0; i < n; ++i)
      gradient[at + static_cast<std::size_t>(i)] = static_cast<Real>(scratch.gradient[i] * (factor / count));
  });
}

/// All rows on the host.
template <class Real>
hinge_result hinge_on_host(host_execution exec, hinge_config const& config, ranking_rows<Real> const& input,
                           Real* gradient, workspace scratch) {
  int const threads = host::num_threads(exec, input.rows);
  arena cutting{scratch};
  auto const memory = hinge_memory<Real>::take(cutting, input.rows, input.candidates, threads);
  hinge_result found;
  found.rows = find_rows(input, threads, memory.rows);
  hinge_of_rows(config, input, threads, found.rows, memory, gradient);
  for (int r = 0; r < input.rows; ++r) {
    auto const& row = memory.rows[r];
    found.not_finite_rows += row.finite ? 0 : 1;
    found.pairs += row.pairs;
    found.active += row.active;
    found.loss += row.loss;
  }
  if (found.rows > 0) found.loss /= found.rows;
  return found;
}

}  // namespace foresightkv::inline v0::detail::training

namespace foresightkv::inline v0::training {

/// Bytes of workspace of `ranking_hinge`; 0 if an extent is negative. Of `config` a device reads num_shifts.
template <class Exec, class Real>
[[nodiscard]] std::size_t ranking_hinge_bytes(Exec exec, ranking_rows<Real> const& input,
                                              hinge_config const& config = {}) {
  if (input.rows <= 0 || input.candidates <= 0) return 0;
  detail::arena counting;
  if constexpr (host_executor<Exec>)
    detail::training::hinge_memory<Real>::take(counting, input.rows, input.candidates,
                                               detail::host::num_threads(exec, input.rows));
  else
    detail::kernels::hinge_memory::take(counting, input.rows, input.candidates, config);
  return counting.bytes();
}

/// The pairwise ranking loss and, if `gradient` is not null, its derivative by the scores,
/// [rows][candidates].
///
/// The gradient is (integer count) * (1 / pairs / rows) in double precision, rounded once: the same bits on every
/// backend. The loss is a sum in double precision in a fixed order, which the backends do not share. Neither depends on
/// the number of threads. A row that is left out has gradient 0.
///
/// Host: O(n log n) per row (vector comparison of all pairs where n is small enough for that to be faster); O(n
/// num_shifts) and one sort of the labels with num_shifts > 0. Device: every pointer is device memory, `result` too; 3
/// launches (2 without a gradient), O(n^2) comparisons per row.
///
/// Errors before anything is written: invalid_config, invalid_shape, null_pointer, misaligned, overlap
/// (gradient and scores), workspace_too_small; unsupported on a device for a call without candidates.
template <class Exec, class Real>
status ranking_hinge(Exec exec, hinge_config const& config, ranking_rows<Real> const& input, Real* gradient,
                     hinge_result* result, workspace scratch) {
  if (!config.valid()) return {errc::invalid_config, 0, argument::config};
  if (input.rows < 0 || input.candidates < 0) return {errc::invalid_shape};
  if (result == nullptr) return {errc::null_pointer, 0, argument::output};
  if (input.size() == 0) {
    if constexpr (!host_executor<Exec>) return {errc::unsupported};
    if constexpr (host_executor<Exec>) *result = {};
    return {};
  }
  auto const checked = detail::first_of(detail::check_buffer(input.scores), detail::check_buffer(input.labels),
                                        detail::check_buffer(result), detail::check_aligned(gradient),
                                        detail::check_apart(gradient, input.size(), input.scores, input.size()),
                                        detail::check_apart(gradient, input.size(), input.labels, input.size()),
                                        detail::check_scratch(scratch, ranking_hinge_bytes(exec, input, config)));
  if (!checked.ok()) return checked;
  if constexpr (host_executor<Exec>)
    *result = detail::training::hinge_on_host(exec, config, input, gradient, scratch);
  else
    return detail::kernels::run_hinge(exec, config, input, gradient, result, scratch);
  return {};
}

}  // namespace foresightkv::inline v0::training
