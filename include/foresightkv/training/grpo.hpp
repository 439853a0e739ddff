// SPDX-License-Identifier: Apache-2.0
#pragma once

// Policy gradient on evictions (ForesightKV, section 3.3: GRPO, arXiv 2402.03300). One row of candidates has
// scores s (higher = keep) and picks, the candidates that a rollout evicted there:
//
//   log pi(c) = log softmax(-s)_c    over all candidates, also for the second, third, ... pick: not the density of
//                                    drawing without replacement (the published form)
//   r         = exp(clamp(log pi(c) - log pi_old(c), -10, 10))
//   loss      = mean over picks of -min(r A, clamp(r, 1 - clip, 1 + clip) A)
//               + kl_weight * mean over picks of (exp(d) - d - 1),    d = log pi_reference(c) - log pi(c)
//
// A is the advantage of the rollout (group_advantages). The loss ignores a common shift of a row's scores.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/buffer.hpp>
#include <foresightkv/detail/host/parallel.hpp>
#include <foresightkv/execution.hpp>
#include <foresightkv/status.hpp>
#include <foresightkv/workspace.hpp>
#include <limits>

namespace foresightkv::inline v0::training {

/// Constants of the policy gradient.
struct grpo_config {
  double clip = 0.2;
  double kl_weight = 0.05;        ///< used where reference log-probabilities are given
  double log_ratio_limit = 10.0;  ///< beyond it the ratio, and so the loss, no longer moves
  double scale = 1.0;             ///< of loss and gradient, such as 1 / rollouts per optimiser step

  [[nodiscard]] constexpr bool valid() const {
    return clip >= 0.0 && kl_weight >= 0.0 && log_ratio_limit >= 0.0 && detail::is_finite(clip) &&
           detail::is_finite(kl_weight) && detail::is_finite(log_ratio_limit) && detail::is_finite(scale);
  }
};

/// Extents of the evictions of one layer: row r belongs to KV head r % kv_heads, to rollout r / kv_heads %
/// rollouts and to step r / kv_heads / rollouts.
struct grpo_shape {
  int steps = 0;
  int rollouts = 0;
  int kv_heads = 0;
  int candidates = 0;  ///< per row
  int picks = 0;       ///< evicted of them

  [[nodiscard]] constexpr bool valid() const {
    constexpr std::int64_t most = 0x7fffffff;
    if (steps < 0 || rollouts < 0 || kv_heads < 0 || candidates < 0 || picks < 0) return false;
    auto const groups = std::int64_t{rollouts} * kv_heads;
    return groups <= most && (groups == 0 || steps <= most / groups) && (picks == 0 || candidates > 0);
  }
  [[nodiscard]] constexpr std::size_t rows() const {
    return static_cast<std::size_t>(steps) * static_cast<std::size_t>(rollouts) * static_cast<std::size_t>(kv_heads);
  }
  [[nodiscard]] constexpr std::size_t num_scores() const { return rows() * static_cast<std::size_t>(candidates); }
  [[nodiscard]] constexpr std::size_t num_picks() const { return rows() * static_cast<std::size_t>(picks); }
};

/// What the policy gradient reads. Real is float, or double for checks by finite differences.
template <class Real>
struct grpo_input {
  Real const* scores = nullptr;               ///< [rows][candidates] of the judge in training, higher = keep
  std::int32_t const* picked = nullptr;       ///< [rows][picks], in [0, candidates)
  Real const* old_log_probs = nullptr;        ///< [rows][picks] of the judge that made the rollout
  Real const* reference_log_probs = nullptr;  ///< [rows][picks] of the judge to stay close to; null: no KL term
  double const* advantages = nullptr;         ///< [rollouts]
};

/// What `grpo` found.
struct grpo_result {
  double loss = 0.0;        ///< scale * (policy + kl_weight * kl)
  double policy = 0.0;      ///< mean of the clipped term
  double kl = 0.0;          ///< mean of exp(d) - d - 1; 0 without a reference
  double clipped = 0.0;     ///< share of picks whose ratio the clip or the limit stopped
  int not_finite_rows = 0;  ///< rows without a part in loss and gradient, because something in them is infinite or NaN
};

}  // namespace foresightkv::inline v0::training

namespace foresightkv::inline v0::detail::training {

using namespace foresightkv::training;

inline status check_picked(grpo_shape const& shape, std::int32_t const* picked) {
  if (auto const checked = check_buffer(picked); !checked.ok()) return checked;
  bool inside = true;
  for (std::size_t i = 0; i < shape.num_picks(); ++i) inside &= picked[i] >= 0 && picked[i] < shape.candidates;
  return inside ? status{} : status{errc::invalid_shape};
}

/// log of the sum over candidates of exp(-score).
template <class Real>
double log_sum_of(Real const* scores, int n) {
  double lowest = static_cast<double>(scores[0]);
  for (int c = 1; c < n; ++c) lowest = std::min(lowest, static_cast<double>(scores[c]));
  double sum = 0.0;
  for (int c = 0; c < n; ++c) sum += std::exp(lowest - static_cast<double>(scores[c]));
  return std::log(sum) - lowest;
}

/// One row's part of the result: sums over its picks.
struct grpo_row {
  double policy, kl;
  int clipped;
  bool finite;
};

/// Loss of one pick, added to `row`; returns its derivative by the log-probability, without the mean and the
/// scale.
inline double weigh_pick(grpo_config const& config, double log_prob, double old_log_prob, double advantage,
                         grpo_row& row) {
  double const log_ratio = log_prob - old_log_prob;
  double const ratio = std::exp(std::clamp(log_ratio, -config.log_ratio_limit, config.log_ratio_limit));
  double const free = ratio * advantage;
  double const held = std::clamp(ratio, 1.0 - config.clip, 1.0 + config.clip) * advantage;
  row.policy -= std::min(free, held);
  bool const moves = free <= held && std::abs(log_ratio) <= config.log_ratio_limit;
  row.clipped += moves ? 0 : 1;
  return moves ? -free : 0.0;
}

/// Where the picks' gradients and their softmax part meet: gradient[c] is zero on entry where it is given.
template <class Real>
grpo_row grpo_of_row(grpo_config const& config, grpo_shape const& shape, grpo_input<Real> const& input, std::size_t r,
                     double* by_log_prob, Real* gradient) {
  auto const n = static_cast<std::size_t>(shape.candidates), picks = static_cast<std::size_t>(shape.picks);
  Real const* const scores = input.scores + r * n;
  std::int32_t const* const picked = input.picked + r * picks;
  Real const* const before = input.old_log_probs + r * picks;
  Real const* const reference = input.reference_log_probs == nullptr ? nullptr : input.reference_log_probs + r * picks;
  double const advantage =
      input.advantages[r / static_cast<std::size_t>(shape.kv_heads) % static_cast<std::size_t>(shape.rollouts)];
  grpo_row row{0.0, 0.0, 0, true};
  row.finite = is_finite(advantage) && all_finite(scores, n) && all_finite(before, picks) &&
               (reference == nullptr || all_finite(reference, picks));
  if (!row.finite) return row;

  double const log_sum = log_sum_of(scores, shape.candidates);
  double const weight = config.scale / static_cast<double>(shape.num_picks());
  double total = 0.0;
  for (std::size_t k = 0; k < picks; ++k) {
    double const log_prob = -static_cast<double>(scores[picked[k]]) - log_sum;
    double slope = weigh_pick(config, log_prob, static_cast<double>(before[k]), advantage, row);
    if (reference != nullptr) {
      double const apart = static_cast<double>(reference[k]) - log_prob;
      row.kl += std::expm1(apart) - apart;
      slope -= config.kl_weight * std::expm1(apart);
    }
    by_log_prob[k] = slope * weight;
    total += by_log_prob[k];
  }
  if (gradient == nullptr) return row;
  // d log pi(c) / d s_j = softmax(-s)_j - [j = c]
  for (std::size_t c = 0; c < n; ++c)
    gradient[c] = static_cast<Real>(total * std::exp(-static_cast<double>(scores[c]) - log_sum));
  for (std::size_t k = 0; k < picks; ++k)
    gradient[picked[k]] = static_cast<Real>(static_cast<double>(gradient[picked[k]]) - by_log_prob[k]);
  return row;
}

struct grpo_memory {
  grpo_row* rows = nullptr;
  double* slopes = nullptr;  // [threads][picks]

  static grpo_memory take(arena& memory, grpo_shape const& shape, int threads) {
    grpo_memory all;
    all.rows = memory.take<grpo_row>(shape.rows());
    all.slopes = memory.take<double>(static_cast<std::size_t>(threads) * static_cast<std::size_t>(shape.picks));
    return all;
  }
};

}  // namespace foresightkv::inline v0::detail::training

namespace foresightkv::inline v0::training {

/// Log-probabilities of the picks, [rows][picks], and, if `entropies` is not null, the entropy of each row's
/// distribution over its candidates. A row with a score that is infinite or NaN gets NaN.
///
/// Errors before anything is written: invalid_shape (also a pick outside [0, candidates)), null_pointer,
/// misaligned, overlap.
template <class Real>
status pick_log_probs(host_execution exec, grpo_shape const& shape, Real const* scores, std::int32_t const* picked,
                      Real* log_probs, Real* entropies = nullptr) {
  if (!shape.valid()) return {errc::invalid_shape, 0, argument::shape};
  if (shape.num_picks() == 0) return {};
  auto const checked = detail::first_of(detail::check_buffer(scores), detail::training::check_picked(shape, picked),
                                        detail::check_buffer(log_probs), detail::check_aligned(entropies),
                                        detail::check_apart(log_probs, shape.num_picks(), scores, shape.num_scores()),
                                        detail::check_apart(entropies, shape.rows(), scores, shape.num_scores()));
  if (!checked.ok()) return checked;
  auto const rows = static_cast<int>(shape.rows());
  auto const n = static_cast<std::size_t>(shape.candidates), picks = static_cast<std::size_t>(shape.picks);
  detail::host::parallel_for(detail::host::num_threads(exec, rows), rows, [&](int row, int) {
    auto const r = static_cast<std::size_t>(row);
    Real const* const own = scores + r * n;
    bool const finite = detail::all_finite(own, n);
    double const log_sum =
        finite ? detail::training::log_sum_of(own, shape.candidates) : std::numeric_limits<double>::quiet_NaN();
    for (std::size_t k = r * picks; k < (r + 1) * picks; ++k)
      log_probs[k] = static_cast<Real>(-static_cast<double>(own[picked[k]]) - log_sum);
    if (entropies == nullptr) return;
    double entropy = 0.0;
    for (std::size_t c = 0; c < n; ++c) {
      double const log_prob = -static_cast<double>(own[c]) - log_sum;
      entropy -= log_prob * std::exp(log_prob);
    }
    entropies[r] = static_cast<Real>(entropy);
  });
  return {};
}

/// Bytes of workspace of `grpo`; 0 if the shape is invalid or empty.
[[nodiscard]] inline std::size_t grpo_bytes(host_execution exec, grpo_shape const& shape) {
  if (!shape.valid() || shape.num_picks() == 0) return 0;
  detail::arena counting;
  detail::training::grpo_memory::take(counting, shape, detail::host::num_threads(exec, static_cast<int>(shape.rows())));
  return counting.bytes();
}

/// The clipped policy loss with its KL term and, if `gradient` is not null, its derivative by the scores,
/// [rows] [candidates].
///
/// Means are over all steps * rollouts * kv_heads * picks of the call, those of rows left out included: so a
/// group may be worked through rollout by rollout, with scale = 1 / rollouts. Summed in double precision in a
/// fixed order: the same bits whatever the number of threads. A row that is left out has gradient 0.
///
/// Errors before anything is written: invalid_config, invalid_shape (also a pick outside [0, candidates)),
/// null_pointer, misaligned, overlap (gradient and scores), workspace_too_small.
template <class Real>
status grpo(host_execution exec, grpo_config const& config, grpo_shape const& shape, grpo_input<Real> const& input,
            Real* gradient, grpo_result* result, workspace scratch) {
  if (!config.valid()) return {errc::invalid_config, 0, argument::config};
  if (!shape.valid()) return {errc::invalid_shape, 0, argument::shape};
  if (result == nullptr) return {errc::null_pointer, 0, argument::output};
  if (shape.num_picks() == 0) {
    if (gradient != nullptr && shape.num_scores() > 0) std::fill_n(gradient, shape.num_scores(), Real{0});
    *result = {};
    return {};
  }
  auto const checked =
      detail::first_of(detail::check_buffer(input.scores), detail::training::check_picked(shape, input.picked),
                       detail::check_buffer(input.old_log_probs), detail::check_aligned(input.reference_log_probs),
                       detail::check_buffer(input.advantages), detail::check_aligned(gradient),
                       detail::check_apart(gradient, shape.num_scores(), input.scores, shape.num_scores()),
                       detail::check_apart(gradient, shape.num_scores(), input.old_log_probs, shape.num_picks()),
                       detail::check_apart(gradient, shape.num_scores(), input.reference_log_probs, shape.num_picks()),
                       detail::check_scratch(scratch, grpo_bytes(exec, shape)));
  if (!checked.ok()) return checked;

  auto const rows = static_cast<int>(shape.rows());
  int const threads = detail::host::num_threads(exec, rows);
  detail::arena cutting{scratch};
  auto const memory = detail::training::grpo_memory::take(cutting, shape, threads);
  auto const n = static_cast<std::size_t>(shape.candidates);
  detail::host::parallel_for(threads, rows, [&](int row, int thread) {
    auto const r = static_cast<std::size_t>(row);
    auto* const slopes = memory.slopes + static_cast<std::size_t>(thread) * static_cast<std::size_t>(shape.picks);
    Real* const own = gradient == nullptr ? nullptr : gradient + r * n;
    memory.rows[r] = detail::training::grpo_of_row(config, shape, input, r, slopes, own);
    if (!memory.rows[r].finite && own != nullptr) std::fill_n(own, n, Real{0});
  });
  grpo_result found;
  for (std::size_t r = 0; r < shape.rows(); ++r) {
    auto const& row = memory.rows[r];
    found.policy += row.policy;
    found.kl += row.kl;
    found.clipped += row.clipped;
    found.not_finite_rows += row.finite ? 0 : 1;
  }
  auto const picks = static_cast<double>(shape.num_picks());
  found.policy /= picks;
  found.kl /= picks;
  found.clipped /= picks;
  found.loss = config.scale * (found.policy + config.kl_weight * found.kl);
  *result = found;
  return {};
}

}  // namespace foresightkv::inline v0::training
