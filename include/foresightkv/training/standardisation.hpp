// SPDX-License-Identifier: Apache-2.0
#pragma once

// Standardised inputs of the judge, x'_i = (x_i - mean_i) / deviation_i per KV head and input, folded into
// weights that read raw inputs:
//
//   w_i = w'_i / deviation_i,   b = b' - sum over i of w_i mean_i      so that w . x + b = w' . x' + b'
//   dloss/dw'_i = (dloss/dw_i - mean_i dloss/db) / deviation_i
//
// So nothing is standardised token by token: training keeps w', folds it before each step, runs
// `judge_forward` and `judge_backward` on the folded weights, turns the gradient back, and exports the folded
// weights, which have the published form.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/buffer.hpp>
#include <foresightkv/detail/host/parallel.hpp>
#include <foresightkv/training/detail/judge_gradient.hpp>
#include <foresightkv/training/judge_gradient.hpp>

namespace foresightkv::inline v0::training {

/// Sums over all candidates that were seen. Doubles: shares of several calls or processes may be added in a
/// fixed order.
struct input_moments {
  double* sums = nullptr;     ///< [kv_heads][inputs]
  double* squares = nullptr;  ///< [kv_heads][inputs]
};

/// Mean and deviation of each input of one layer; both [kv_heads][inputs].
struct standardisation {
  float const* mean = nullptr;
  float const* deviation = nullptr;  ///< above 0
};

/// Adds the inputs of all candidates to `moments`. Row after row in order: the same bits whatever the number
/// of threads.
///
/// Errors before anything is written: as `judge_forward`.
template <element Key, element Value>
status add_moments(host_execution exec, judge_shape const& shape, judge_rows<Key, Value> const& rows,
                   input_moments const& moments) {
  if (auto const checked = detail::training::check_rows(shape, rows); !checked.ok()) return checked;
  if (num_scores(shape, rows) == 0) return {};
  auto const checked = detail::first_of(detail::check_buffer(moments.sums), detail::check_buffer(moments.squares));
  if (!checked.ok()) return checked;
  auto const heads = shape.num_kv_heads;
  detail::host::parallel_for(detail::host::num_threads(exec, heads), heads, [&](int head, int) {
    double* const sums = moments.sums + std::ptrdiff_t{head} * shape.inputs();
    double* const squares = moments.squares + std::ptrdiff_t{head} * shape.inputs();
    for (int step = 0; step < rows.steps; ++step) {
      auto const row = detail::training::row_of(shape, rows, step, head);
      for (int c = 0; c < rows.candidates; ++c)
        detail::host::visit_inputs(shape, row, c, [&](int input, double value) {
          sums[input] += value;
          squares[input] += value * value;
        });
    }
  });
  return {};
}

/// The least attention of a window's queries often varies by 1e-10 and no more. Standardised by that it would get
/// weights of 1e9, and a candidate of another text, where it is 1e-3, any score at all.
inline constexpr double least_deviation = 1e-3;

/// Mean and population deviation from the sums over `count` candidates of each head. Inputs that vary less than `least`
/// get `least` for their deviation; one that never varies, or is not finite, gets 1: it then passes unchanged but for
/// its mean (0 if that is not finite).
///
/// Errors before anything is written: invalid_shape (count below 1 too), null_pointer, misaligned, invalid_config
/// (`least` negative or not finite).
inline status finish_moments(host_execution, judge_shape const& shape, input_moments const& moments, std::int64_t count,
                             float* mean, float* deviation, double least = least_deviation) {
  if (!shape.valid() || count < 1) return {errc::invalid_shape};
  if (!detail::is_finite(least) || least < 0.0) return {errc::invalid_config};
  auto const checked = detail::first_of(detail::check_buffer(moments.sums), detail::check_buffer(moments.squares),
                                        detail::check_buffer(mean), detail::check_buffer(deviation));
  if (!checked.ok()) return checked;
  auto const total = static_cast<std::size_t>(shape.num_kv_heads) * static_cast<std::size_t>(shape.inputs());
  for (std::size_t i = 0; i < total; ++i) {
    double const middle = moments.sums[i] / static_cast<double>(count);
    double const variance = moments.squares[i] / static_cast<double>(count) - middle * middle;
    // Two equal numbers may differ by a rounding of the squares: less than that is no variation.
    bool const varies = detail::is_finite(variance) && variance > 1e-12 * middle * middle && variance > 1e-30;
    mean[i] = detail::is_finite(middle) ? static_cast<float>(middle) : 0.0f;
    deviation[i] = varies ? static_cast<float>(std::max(std::sqrt(variance), least)) : 1.0f;
  }
  return {};
}

}  // namespace foresightkv::inline v0::training

namespace foresightkv::inline v0::detail::training {

inline status check_standardisation(judge_shape const& shape, standardisation const& inputs) {
  if (!shape.valid()) return {errc::invalid_shape, 0, argument::shape};
  auto const checked = first_of(check_buffer(inputs.mean), check_buffer(inputs.deviation));
  if (!checked.ok()) return checked;
  bool positive = true;
  auto const total = static_cast<std::size_t>(shape.num_kv_heads) * static_cast<std::size_t>(shape.inputs());
  for (std::size_t i = 0; i < total; ++i) positive &= is_finite(inputs.deviation[i]) && inputs.deviation[i] > 0.0f;
  return positive && all_finite(inputs.mean, total) ? status{} : status{errc::invalid_config};
}

}  // namespace foresightkv::inline v0::detail::training

namespace foresightkv::inline v0::training {

/// folded = the weights that give on raw inputs what `trained` gives on standardised ones; both
/// [kv_heads][shape.head_floats()], and they may be the same buffer.
///
/// Errors before anything is written: invalid_shape, null_pointer, misaligned, invalid_config (a mean that is
/// not finite, a deviation that is not above 0).
template <class Real>
status fold_standardisation(host_execution, judge_shape const& shape, standardisation const& inputs,
                            Real const* trained, Real* folded) {
  auto const checked = detail::first_of(detail::training::check_standardisation(shape, inputs),
                                        detail::check_buffer(trained), detail::check_buffer(folded));
  if (!checked.ok()) return checked;
  constexpr int hidden = judge_shape::hidden;
  for (int head = 0; head < shape.num_kv_heads; ++head) {
    auto const at = static_cast<std::size_t>(head) * shape.head_floats();
    auto const* const mean = inputs.mean + std::ptrdiff_t{head} * shape.inputs();
    auto const* const deviation = inputs.deviation + std::ptrdiff_t{head} * shape.inputs();
    detail::host::packed_head<Real const> const from(trained + at, shape);
    detail::host::packed_head<Real> const to(folded + at, shape);
    double bias[hidden];
    for (int u = 0; u < hidden; ++u) bias[u] = static_cast<double>(from.bias[u]);
    for (int i = 0; i < shape.inputs(); ++i)
      for (int u = 0; u < hidden; ++u) {
        auto const weight =
            static_cast<Real>(static_cast<double>(from.input[i * hidden + u]) / static_cast<double>(deviation[i]));
        to.input[i * hidden + u] = weight;
        bias[u] -= static_cast<double>(weight) * static_cast<double>(mean[i]);
      }
    for (int u = 0; u < hidden; ++u) to.bias[u] = static_cast<Real>(bias[u]);
    for (int u = 0; u < 2 * hidden; ++u) to.output[u] = from.output[u];
  }
  return {};
}

/// trained = the weights that give on standardised inputs what `raw` gives on raw ones, the inverse of
/// `fold_standardisation`: where a training begins with weights that exist. The same buffer may be given twice.
///
/// Errors before anything is written: as `fold_standardisation`.
template <class Real>
status unfold_standardisation(host_execution, judge_shape const& shape, standardisation const& inputs, Real const* raw,
                              Real* trained) {
  auto const checked = detail::first_of(detail::training::check_standardisation(shape, inputs),
                                        detail::check_buffer(raw), detail::check_buffer(trained));
  if (!checked.ok()) return checked;
  constexpr int hidden = judge_shape::hidden;
  for (int head = 0; head < shape.num_kv_heads; ++head) {
    auto const at = static_cast<std::size_t>(head) * shape.head_floats();
    auto const* const mean = inputs.mean + std::ptrdiff_t{head} * shape.inputs();
    auto const* const deviation = inputs.deviation + std::ptrdiff_t{head} * shape.inputs();
    detail::host::packed_head<Real const> const from(raw + at, shape);
    detail::host::packed_head<Real> const to(trained + at, shape);
    double bias[hidden];
    for (int u = 0; u < hidden; ++u) bias[u] = static_cast<double>(from.bias[u]);
    for (int i = 0; i < shape.inputs(); ++i)
      for (int u = 0; u < hidden; ++u) {
        auto const weight = static_cast<double>(from.input[i * hidden + u]);
        bias[u] += weight * static_cast<double>(mean[i]);
        to.input[i * hidden + u] = static_cast<Real>(weight * static_cast<double>(deviation[i]));
      }
    for (int u = 0; u < hidden; ++u) to.bias[u] = static_cast<Real>(bias[u]);
    for (int u = 0; u < 2 * hidden; ++u) to.output[u] = from.output[u];
  }
  return {};
}

/// Turns the gradient by folded weights into that by the trained ones, in place.
///
/// Errors before anything is written: as `fold_standardisation`.
template <class Real>
status standardise_gradient(host_execution, judge_shape const& shape, standardisation const& inputs, Real* gradient) {
  auto const checked =
      detail::first_of(detail::training::check_standardisation(shape, inputs), detail::check_buffer(gradient));
  if (!checked.ok()) return checked;
  constexpr int hidden = judge_shape::hidden;
  for (int head = 0; head < shape.num_kv_heads; ++head) {
    auto const* const mean = inputs.mean + std::ptrdiff_t{head} * shape.inputs();
    auto const* const deviation = inputs.deviation + std::ptrdiff_t{head} * shape.inputs();
    detail::host::packed_head<Real> const by(gradient + static_cast<std::size_t>(head) * shape.head_floats(), shape);
    for (int i = 0; i < shape.inputs(); ++i)
      for (int u = 0; u < hidden; ++u) {
        Real& own = by.input[i * hidden + u];
        own = static_cast<Real>(
            (static_cast<double>(own) - static_cast<double>(mean[i]) * static_cast<double>(by.bias[u])) /
            static_cast<double>(deviation[i]));
      }
  }
  return {};
}

}  // namespace foresightkv::inline v0::training
