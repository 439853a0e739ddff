// SPDX-License-Identifier: Apache-2.0
#pragma once

// The judges of one layer over rows of candidates, and the derivative of a loss by their weights.
//
//   x = [key, value, statistics]    z = W1' x + b1      s = w2 . gelu(z) + b2    (gelu: the exact, erf form)
//   dw2 = sum ds gelu(z)            dz = ds w2 gelu'(z)  db1 = sum dz            dW1 = sum x dz'
//
// Weights and gradients have the packed layout of `pack_judge`, so the score is a keep score and a trained
// judge is ready for `foresight`; `unpack_judge` gives the published layout, of weights and of gradients
// alike.
//
// b2 has no influence on any loss that ignores a common shift of a row's scores, which the ranking hinge and
// GRPO both do. Its true gradient is 0, and what a sum leaves there is rounding noise that Adam turns into
// steps of the size of the learning rate. It is frozen unless asked for.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/buffer.hpp>
#include <foresightkv/detail/host/parallel.hpp>
#include <foresightkv/element.hpp>
#include <foresightkv/execution.hpp>
#include <foresightkv/judge.hpp>
#include <foresightkv/status.hpp>
#include <foresightkv/training/detail/judge_gradient.hpp>
#include <foresightkv/workspace.hpp>

namespace foresightkv::inline v0::training {

/// Elements from one head, and from one token of a head, to the next; 0 means: as if contiguous.
struct token_strides {
  std::int64_t head = 0;
  std::int64_t token = 0;
};

/// What the judges of one layer look at. Row r belongs to KV head r % kv_heads (of judge_shape::num_kv_heads)
/// and to step r / kv_heads; a step is any number of rows that share keys and values: evictions of a
/// sequence, rollouts, both. Keys and values are those of the whole sequence, read in place.
template <element Key = float, element Value = Key>
struct judge_rows {
  Key const* keys = nullptr;                ///< [kv_heads][tokens][key_head_dim], after RoPE
  Value const* values = nullptr;            ///< [kv_heads][tokens][value_head_dim]
  std::int32_t const* positions = nullptr;  ///< [steps][kv_heads][candidates]: tokens; null: candidate i is token i
  float const* statistics = nullptr;        ///< [steps][kv_heads][candidates][8 * group], feature after feature
  int steps = 0;
  int candidates = 0;
  int tokens = 0;
  token_strides key_strides{};
  token_strides value_strides{};
};

/// Rows and candidates of a call.
template <class Rows>
[[nodiscard]] constexpr std::size_t num_scores(judge_shape const& shape, Rows const& rows) {
  return static_cast<std::size_t>(rows.steps) * static_cast<std::size_t>(shape.num_kv_heads) *
         static_cast<std::size_t>(rows.candidates);
}

/// Whether the bias of the judge's output is trained.
enum class output_bias : int { frozen, trained };

}  // namespace foresightkv::inline v0::training

namespace foresightkv::inline v0::detail::training {

using namespace foresightkv::training;

/// Steps whose gradient is summed up by one thread. Part of the result: sums of so many steps are added in
/// order.
inline constexpr int steps_together = 4;

constexpr int num_parts(int steps) { return steps / steps_together + (steps % steps_together != 0); }

template <element Key, element Value>
status check_rows(judge_shape const& shape, judge_rows<Key, Value> const& rows) {
  if (!shape.valid() || rows.steps < 0 || rows.candidates < 0 || rows.tokens < 0) return {errc::invalid_shape};
  if (num_scores(shape, rows) == 0) return {};
  // Tasks and candidates of a call are counted in int.
  if (rows.steps > 0x7fffffff / shape.num_kv_heads) return {errc::invalid_shape};
  if (rows.positions == nullptr && rows.candidates > rows.tokens) return {errc::invalid_shape};
  auto const checked = first_of(check_buffer(rows.keys), check_buffer(rows.values), check_aligned(rows.positions),
                                check_buffer(rows.statistics));
  if (!checked.ok() || rows.positions == nullptr) return checked;
  bool inside = true;
  for (std::size_t i = 0; i < num_scores(shape, rows); ++i)
    inside &= rows.positions[i] >= 0 && rows.positions[i] < rows.tokens;
  return inside ? status{} : status{errc::invalid_shape};
}

template <element Key, element Value>
host::judge_row<Key, Value> row_of(judge_shape const& shape, judge_rows<Key, Value> const& rows, int step, int head) {
  auto const pick = [&](token_strides strides, int dim) {
    if (strides.token == 0) strides.token = dim;
    if (strides.head == 0) strides.head = strides.token * rows.tokens;
    return strides;
  };
  auto const key = pick(rows.key_strides, shape.key_head_dim);
  auto const value = pick(rows.value_strides, shape.value_head_dim);
  auto const at = (std::int64_t{step} * shape.num_kv_heads + head) * rows.candidates;
  return {rows.keys + head * key.head,
          rows.values + head * value.head,
          key.token,
          value.token,
          rows.positions == nullptr ? nullptr : rows.positions + at,
          rows.statistics + at * (judge_shape::features * shape.group),
          rows.candidates};
}

/// A row without any gradient adds nothing, whatever its inputs are: 0 * NaN would.
template <class Real>
bool any_nonzero(Real const* values, int count) {
  bool found = false;
  for (int i = 0; i < count; ++i) found |= !(values[i] == Real{0});
  return found;
}

/// The gradient of `head` over the steps of one part.
template <class Real, element Key, element Value>
void backward_part(judge_shape const& shape, Real const* weights, judge_rows<Key, Value> const& rows, int head,
                   int part, Real const* hidden, Real const* score_gradient, output_bias bias, Real* gradient) {
  std::fill_n(gradient, shape.head_floats(), Real{0});
  int const last = std::min(rows.steps, (part + 1) * steps_together);
  for (int step = part * steps_together; step < last; ++step) {
    auto const at = (std::int64_t{step} * shape.num_kv_heads + head) * rows.candidates;
    auto const* const slopes = score_gradient + at;
    if (!any_nonzero(slopes, rows.candidates)) continue;
    auto const row = row_of(shape, rows, step, head);
    host::with_best_isa([&](auto isa) __attribute__((always_inline)) {
      host::backward_row<decltype(isa)>(shape, weights, row, hidden + at * judge_shape::hidden, slopes, gradient);
    });
    if (bias == output_bias::frozen) continue;
    host::packed_head<Real> const out(gradient, shape);
    for (int c = 0; c < rows.candidates; ++c) out.output[judge_shape::hidden] += slopes[c];
  }
}

}  // namespace foresightkv::inline v0::detail::training

namespace foresightkv::inline v0::training {

/// Scores of all candidates, and what `judge_backward` needs again.
///
/// weights: one layer's, packed, [kv_heads][shape.head_floats()]; shape.num_layers plays no part. hidden:
/// [steps] [kv_heads][candidates][16], before the activation. scores: [steps][kv_heads][candidates], higher =
/// keep. With float the operations of the scorer `foresight`; Real = double is a plain loop for checks.
///
/// Errors before anything is written: invalid_shape (also a position outside [0, tokens)), null_pointer,
/// misaligned, overlap.
template <class Real, element Key, element Value>
status judge_forward(host_execution exec, judge_shape const& shape, Real const* weights,
                     judge_rows<Key, Value> const& rows, Real* hidden, Real* scores) {
  if (auto const checked = detail::training::check_rows(shape, rows); !checked.ok()) return checked;
  auto const count = num_scores(shape, rows);
  if (count == 0) return {};
  auto const packed = shape.head_floats() * static_cast<std::size_t>(shape.num_kv_heads);
  auto const units = count * judge_shape::hidden;
  auto const checked = detail::first_of(
      detail::check_buffer(weights), detail::check_buffer(hidden), detail::check_buffer(scores),
      detail::check_apart(hidden, units, scores, count), detail::check_apart(hidden, units, weights, packed),
      detail::check_apart(scores, count, weights, packed),
      detail::check_apart(hidden, units, rows.statistics,
                          count * static_cast<std::size_t>(judge_shape::features * shape.group)));
  if (!checked.ok()) return checked;
  int const tasks = rows.steps * shape.num_kv_heads;
  // Head by head: consecutive steps of one head share most of their tokens.
  detail::host::parallel_for(detail::host::num_threads(exec, tasks), tasks, [&](int task, int) {
    int const head = task / rows.steps, step = task % rows.steps;
    auto const row = detail::training::row_of(shape, rows, step, head);
    auto const at = (std::int64_t{step} * shape.num_kv_heads + head) * rows.candidates;
    auto const* const own = weights + static_cast<std::size_t>(head) * shape.head_floats();
    detail::host::with_best_isa([&](auto isa) __attribute__((always_inline)) {
      detail::host::forward_row<decltype(isa)>(shape, own, row, hidden + at * judge_shape::hidden, scores + at);
    });
  });
  return {};
}

/// Bytes of workspace of `judge_backward`; 0 if an extent is invalid.
template <class Real = float, class Rows>
[[nodiscard]] std::size_t judge_backward_bytes(host_execution, judge_shape const& shape, Rows const& rows) {
  if (!shape.valid() || rows.steps <= 0 || rows.candidates <= 0) return 0;
  detail::arena counting;
  counting.take<Real>(static_cast<std::size_t>(detail::training::num_parts(rows.steps)) *
                      static_cast<std::size_t>(shape.num_kv_heads) * shape.head_floats());
  return counting.bytes();
}

/// Adds the derivative of a loss by the weights to `gradient`, [kv_heads][shape.head_floats()].
///
/// weights, rows, hidden: as given to, and written by, `judge_forward`. score_gradient:
/// [steps][kv_heads][candidates], dloss / dscore; a row where it is all 0 is not looked at. Every four steps
/// of a head are summed in order, and these sums are added in order: the same bits whatever the number of
/// threads.
///
/// Errors before anything is written: as `judge_forward`, and workspace_too_small.
template <class Real, element Key, element Value>
status judge_backward(host_execution exec, judge_shape const& shape, Real const* weights,
                      judge_rows<Key, Value> const& rows, Real const* hidden, Real const* score_gradient,
                      output_bias bias, Real* gradient, workspace scratch) {
  if (auto const checked = detail::training::check_rows(shape, rows); !checked.ok()) return checked;
  auto const count = num_scores(shape, rows);
  if (count == 0) return {};
  auto const packed = shape.head_floats() * static_cast<std::size_t>(shape.num_kv_heads);
  auto const checked = detail::first_of(detail::check_buffer(weights), detail::check_buffer(hidden),
                                        detail::check_buffer(score_gradient), detail::check_buffer(gradient),
                                        detail::check_apart(gradient, packed, weights, packed),
                                        detail::check_apart(gradient, packed, hidden, count * judge_shape::hidden),
                                        detail::check_apart(gradient, packed, score_gradient, count),
                                        detail::check_scratch(scratch, judge_backward_bytes<Real>(exec, shape, rows)));
  if (!checked.ok()) return checked;

  int const parts = detail::training::num_parts(rows.steps);
  auto const floats = shape.head_floats();
  detail::arena cutting{scratch};
  auto* const sums = cutting.take<Real>(static_cast<std::size_t>(parts) * packed);
  auto const part_of = [&](int head, int part) {
    return sums +
           (static_cast<std::size_t>(head) * static_cast<std::size_t>(parts) + static_cast<std::size_t>(part)) * floats;
  };
  int const tasks = parts * shape.num_kv_heads;
  detail::host::parallel_for(detail::host::num_threads(exec, tasks), tasks, [&](int task, int) {
    int const head = task / parts, part = task % parts;
    detail::training::backward_part(shape, weights + static_cast<std::size_t>(head) * floats, rows, head, part, hidden,
                                    score_gradient, bias, part_of(head, part));
  });
  detail::host::parallel_for(detail::host::num_threads(exec, shape.num_kv_heads), shape.num_kv_heads,
                             [&](int head, int) {
                               Real* const total = part_of(head, 0);
                               for (int part = 1; part < parts; ++part)
                                 for (std::size_t i = 0; i < floats; ++i) total[i] += part_of(head, part)[i];
                               for (std::size_t i = 0; i < floats; ++i)
                                 gradient[static_cast<std::size_t>(head) * floats + i] += total[i];
                             });
  return {};
}

/// The same with the bias of the output frozen.
template <class Real, element Key, element Value>
status judge_backward(host_execution exec, judge_shape const& shape, Real const* weights,
                      judge_rows<Key, Value> const& rows, Real const* hidden, Real const* score_gradient,
                      Real* gradient, workspace scratch) {
  return judge_backward(exec, shape, weights, rows, hidden, score_gradient, output_bias::frozen, gradient, scratch);
}

}  // namespace foresightkv::inline v0::training
