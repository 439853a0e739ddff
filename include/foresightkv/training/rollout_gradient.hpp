// SPDX-License-Identifier: Apache-2.0
#pragma once

// One step of the policy gradient over recorded rollouts. The language model is not part of this library, so
// a step has three parts, and what lies between them happens elsewhere:
//
//   1. rollouts: `feature_replay` with replay_guide::sampled, one per rollout number, and `rollout_log_probs` of the
//      judge that drew them (and of the judge to stay close to)
//   2. the language model runs with those evictions: per-token losses                    (not here)
//   3. `rewards` and `group_advantages` from the losses; for each rollout and layer `rollout_gradient`, with
//      grpo_config::scale = 1 / rollouts; then `clip_gradient` and `adam_step`

#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/buffer.hpp>
#include <foresightkv/training/grpo.hpp>
#include <foresightkv/training/judge_gradient.hpp>

namespace foresightkv::inline v0::training {

/// The evictions of one layer in one rollout, as `feature_replay` writes them with the default start: `rows`
/// and the evicted indices. With another start the first step is a call of its own.
template <class Real, element Key = float, element Value = Key>
struct recorded_rollout {
  judge_rows<Key, Value> rows{};
  std::int32_t const* picked = nullptr;       ///< [steps][kv_heads][picks], in [0, candidates)
  Real const* old_log_probs = nullptr;        ///< [steps][kv_heads][picks] of the judge that drew them
  Real const* reference_log_probs = nullptr;  ///< [steps][kv_heads][picks]; null: no KL term
  int picks = 0;                              ///< evictions of a step and KV head

  [[nodiscard]] constexpr grpo_shape shape(judge_shape const& judge) const {
    return {rows.steps, 1, judge.num_kv_heads, rows.candidates, picks};
  }
};

}  // namespace foresightkv::inline v0::training

namespace foresightkv::inline v0::detail::training {

/// The arrays of one call; the verbs and their *_bytes functions walk the same list.
template <class Real>
struct rollout_memory {
  Real *hidden = nullptr, *scores = nullptr, *slopes = nullptr;
  workspace grpo{}, backward{};

  template <element Key, element Value>
  static rollout_memory take(arena& memory, host_execution exec, judge_shape const& shape,
                             recorded_rollout<Real, Key, Value> const& rollout) {
    rollout_memory all;
    auto const count = num_scores(shape, rollout.rows);
    all.hidden = memory.take<Real>(count * judge_shape::hidden);
    all.scores = memory.take<Real>(count);
    all.slopes = memory.take<Real>(count);
    all.grpo.size = grpo_bytes(exec, rollout.shape(shape));
    all.grpo.data = memory.take<std::byte>(all.grpo.size);
    all.backward.size = judge_backward_bytes<Real>(exec, shape, rollout.rows);
    all.backward.data = memory.take<std::byte>(all.backward.size);
    return all;
  }
};

template <class Real, element Key, element Value>
status check_rollout(judge_shape const& shape, recorded_rollout<Real, Key, Value> const& rollout) {
  auto const checked = check_rows(shape, rollout.rows);
  if (!checked.ok() || !rollout.shape(shape).valid()) return first_of(checked, status{errc::invalid_shape});
  return rollout.shape(shape).num_picks() == 0 ? status{} : check_picked(rollout.shape(shape), rollout.picked);
}

}  // namespace foresightkv::inline v0::detail::training

namespace foresightkv::inline v0::training {

/// Bytes of workspace of `rollout_log_probs` and `rollout_gradient`; 0 if an extent is invalid or nothing is
/// picked.
template <class Real, element Key, element Value>
[[nodiscard]] std::size_t rollout_bytes(host_execution exec, judge_shape const& shape,
                                        recorded_rollout<Real, Key, Value> const& rollout) {
  if (!shape.valid() || rollout.rows.steps < 0 || rollout.rows.candidates < 0) return 0;
  if (!rollout.shape(shape).valid() || rollout.shape(shape).num_picks() == 0) return 0;
  detail::arena counting;
  detail::training::rollout_memory<Real>::take(counting, exec, shape, rollout);
  return counting.bytes();
}

/// Log-probabilities of a rollout's picks under one layer's judges, [steps][kv_heads][picks]: what a rollout
/// is recorded with, and what the KL term compares with.
///
/// Errors before anything is written: as `judge_forward` and `pick_log_probs`, and workspace_too_small.
template <class Real, element Key, element Value>
status rollout_log_probs(host_execution exec, judge_shape const& shape, Real const* weights,
                         recorded_rollout<Real, Key, Value> const& rollout, Real* log_probs, workspace scratch) {
  auto const checked = detail::first_of(detail::training::check_rollout(shape, rollout),
                                        detail::check_scratch(scratch, rollout_bytes(exec, shape, rollout)));
  if (!checked.ok() || rollout.shape(shape).num_picks() == 0) return checked;
  if (auto const given = detail::check_buffer(log_probs); !given.ok()) return given;
  detail::arena cutting{scratch};
  auto const memory = detail::training::rollout_memory<Real>::take(cutting, exec, shape, rollout);
  auto const done = judge_forward(exec, shape, weights, rollout.rows, memory.hidden, memory.scores);
  if (!done.ok()) return done;
  return pick_log_probs(exec, rollout.shape(shape), memory.scores, rollout.picked, log_probs);
}

/// Adds the derivative of one rollout's policy loss by one layer's weights to `gradient`,
/// [kv_heads][shape.head_floats()]: `judge_forward`, `grpo` and `judge_backward`, the output's bias frozen.
///
/// advantage: of the rollout, from `group_advantages`. The same bits whatever the number of threads.
/// Errors before anything is written: as those verbs.
template <class Real, element Key, element Value>
status rollout_gradient(host_execution exec, grpo_config const& config, judge_shape const& shape, Real const* weights,
                        recorded_rollout<Real, Key, Value> const& rollout, double advantage, Real* gradient,
                        grpo_result* result, workspace scratch) {
  if (!config.valid()) return {errc::invalid_config, 0, argument::config};
  auto const checked = detail::first_of(detail::training::check_rollout(shape, rollout), detail::check_buffer(result),
                                        detail::check_scratch(scratch, rollout_bytes(exec, shape, rollout)));
  if (!checked.ok()) return checked;
  if (rollout.shape(shape).num_picks() == 0) {
    *result = {};
    return {};
  }
  if (auto const given = detail::check_buffer(gradient); !given.ok()) return given;
  detail::arena cutting{scratch};
  auto const memory = detail::training::rollout_memory<Real>::take(cutting, exec, shape, rollout);
  auto done = judge_forward(exec, shape, weights, rollout.rows, memory.hidden, memory.scores);
  if (!done.ok()) return done;
  grpo_input<Real> const input{memory.scores, rollout.picked, rollout.old_log_probs, rollout.reference_log_probs,
                               &advantage};
  done = grpo(exec, config, rollout.shape(shape), input, memory.slopes, result, memory.grpo);
  if (!done.ok()) return done;
  return judge_backward(exec, shape, weights, rollout.rows, memory.hidden, memory.slopes, gradient, memory.backward);
}

}  // namespace foresightkv::inline v0::training
