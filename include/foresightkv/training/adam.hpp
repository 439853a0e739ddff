// SPDX-License-Identifier: Apache-2.0
#pragma once

// Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1), without weight decay:
//
//   m = beta1 m + (1 - beta1) g      v = beta2 v + (1 - beta2) g^2
//   w -= rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)          t = 1, 2, ...
//
// A weight whose gradient was always 0 stays where it is, which is how the judge's output bias and padding
// are frozen.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/buffer.hpp>
#include <foresightkv/detail/host/parallel.hpp>
#include <foresightkv/execution.hpp>
#include <foresightkv/status.hpp>

namespace foresightkv::inline v0::training {

/// Constants of Adam.
struct adam_config {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;

  [[nodiscard]] constexpr bool valid() const {
    return beta1 >= 0.0 && beta1 < 1.0 && beta2 >= 0.0 && beta2 < 1.0 && epsilon > 0.0 && detail::is_finite(epsilon);
  }
};

/// Weights and the two running means of the gradient and its square, which begin at 0.
template <class Real>
struct adam_state {
  Real* weights = nullptr;  ///< [count]
  Real* mean = nullptr;     ///< [count]
  Real* square = nullptr;   ///< [count]
  std::size_t count = 0;
};

/// One step. `step` counts from 1. Element by element: the same bits whatever the number of threads.
///
/// Errors before anything is written: invalid_config (also a rate that is negative or not finite, a step
/// below 1), null_pointer, misaligned, overlap (gradient and state).
template <class Real>
status adam_step(host_execution exec, adam_config const& config, double rate, std::int64_t step, Real const* gradient,
                 adam_state<Real> const& state) {
  if (!config.valid() || !detail::is_finite(rate) || rate < 0.0 || step < 1)
    return {errc::invalid_config, 0, argument::config};
  if (state.count == 0) return {};
  auto const checked = detail::first_of(detail::check_buffer(gradient), detail::check_buffer(state.weights),
                                        detail::check_buffer(state.mean), detail::check_buffer(state.square),
                                        detail::check_apart(gradient, state.count, state.weights, state.count),
                                        detail::check_apart(gradient, state.count, state.mean, state.count),
                                        detail::check_apart(gradient, state.count, state.square, state.count));
  if (!checked.ok()) return checked;
  auto const exponent = static_cast<double>(step);
  auto const size = static_cast<Real>(rate / (1.0 - std::pow(config.beta1, exponent)));
  auto const unbias = static_cast<Real>(1.0 / std::sqrt(1.0 - std::pow(config.beta2, exponent)));
  auto const epsilon = static_cast<Real>(config.epsilon);
  auto const new_share = static_cast<Real>(1.0 - config.beta1);
  auto const old_square = static_cast<Real>(config.beta2), new_square = static_cast<Real>(1.0 - config.beta2);
  constexpr std::size_t block = std::size_t{1} << 14;
  auto const blocks = static_cast<int>(std::min<std::size_t>((state.count + block - 1) / block, 1 << 20));
  auto const share = (state.count + static_cast<std::size_t>(blocks) - 1) / static_cast<std::size_t>(blocks);
  detail::host::parallel_for(detail::host::num_threads(exec, blocks), blocks, [&](int part, int) {
    auto const from = std::min(state.count, static_cast<std::size_t>(part) * share);
    auto const to = std::min(state.count, from + share);
    for (std::size_t i = from; i < to; ++i) {
      Real const g = gradient[i];
      Real const mean = state.mean[i] += new_share * (g - state.mean[i]);
      Real const square = state.square[i] = old_square * state.square[i] + new_square * g * g;
      state.weights[i] -= size * mean / (std::sqrt(square) * unbias + epsilon);
    }
  });
  return {};
}

}  // namespace foresightkv::inline v0::training
