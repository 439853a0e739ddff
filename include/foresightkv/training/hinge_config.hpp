// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <foresightkv/element.hpp>

namespace foresightkv::inline v0::training {

// What the ranking loss is told and gives back: see ranking_hinge.hpp for what it computes.

/// How `ranking_hinge` compares the candidates of a row.
struct hinge_config {
  double margin = 0.01;  ///< any finite number; compared in the type of the scores
  /// 0: every pair. Above 0: only the pairs (i, (i + d) mod n) of this many different d, drawn for each row
  /// from 1, ..., n / 2 without repetition, times (n / 2) / num_shifts; the expectation is the loss of all
  /// pairs (and its gradient). From n / 2 on every pair is met, with the same bits as 0.
  int num_shifts = 0;
  std::uint64_t seed = 0;       ///< of the draws: Philox4x32-10 at (draw, row, step)
  std::uint32_t step = 0;       ///< another number draws other distances
  std::uint32_t first_row = 0;  ///< number of this call's first row, where the rows of one step are spread over calls

  [[nodiscard]] constexpr bool valid() const { return detail::is_finite(margin) && num_shifts >= 0; }
};

/// Scores and labels of a number of rows. Real is float, or double for checks by finite differences.
template <class Real>
struct ranking_rows {
  Real const* scores = nullptr;   ///< [rows][candidates]
  float const* labels = nullptr;  ///< [rows][candidates]; NaN: the candidate takes part in no pair
  int rows = 0;
  int candidates = 0;

  [[nodiscard]] constexpr std::size_t size() const {
    return static_cast<std::size_t>(rows) * static_cast<std::size_t>(candidates);
  }
};

/// What `ranking_hinge` found.
struct hinge_result {
  double loss = 0.0;        ///< mean over the rows that count; 0 if there is none
  int rows = 0;             ///< rows that count: finite scores, and two different labels
  int not_finite_rows = 0;  ///< rows left out for a score that is infinite or NaN
  std::int64_t pairs = 0;   ///< pairs of different labels in the rows that count
  std::int64_t active = 0;  ///< of the pairs that were compared, those inside the margin
};

}  // namespace foresightkv::inline v0::training

namespace foresightkv::inline v0::detail::training {

using namespace foresightkv::training;

/// One row's part of the result.
struct hinge_row {
  double loss;
  std::int64_t pairs, active;
  bool counts, finite;
};

inline constexpr std::uint32_t unlabelled = 0;  // order_key of NaN

/// Distances that are drawn for a row of n candidates; 0: every pair is compared.
FORESIGHTKV_HOST_DEVICE constexpr int num_distances(hinge_config const& config, int n) {
  return config.num_shifts < n / 2 ? config.num_shifts : 0;
}

/// How many pairs each compared one stands for.
FORESIGHTKV_HOST_DEVICE constexpr double pairs_per_compared(hinge_config const& config, int n) {
  int const distances = num_distances(config, n);
  return distances > 0 ? static_cast<double>(n / 2) / distances : 1.0;
}

}  // namespace foresightkv::inline v0::detail::training
