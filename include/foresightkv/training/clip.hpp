// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <foresightkv/detail/buffer.hpp>
#include <foresightkv/detail/host/parallel.hpp>
#include <foresightkv/execution.hpp>
#include <foresightkv/judge.hpp>
#include <foresightkv/status.hpp>

namespace foresightkv::inline v0::training {

/// Whose norm is limited.
enum class clip_scope : int {
  layer,  ///< each layer's own: no layer slows another one down
  joint   ///< that of all layers together, as published; the more layers, the more often it clips
};

/// Gradient clipping.
struct clip_config {
  double max_norm = 1.0;
  clip_scope scope = clip_scope::layer;

  [[nodiscard]] constexpr bool valid() const {
    return detail::is_finite(max_norm) && max_norm > 0.0 && (scope == clip_scope::layer || scope == clip_scope::joint);
  }
};

/// What `clip_gradient` did.
struct clip_result {
  double norm = 0.0;          ///< of all layers together, before clipping
  int clipped_layers = 0;     ///< scaled down; with clip_scope::joint all layers or none
  int not_finite_layers = 0;  ///< with an infinite or NaN gradient: above 0, skip the optimiser step
};

}  // namespace foresightkv::inline v0::training

namespace foresightkv::inline v0::detail::training {

/// Four sums side by side in a fixed order: the same bits on every machine. `count` is a multiple of 4.
template <class Real>
double sum_of_squares(Real const* values, std::size_t count) {
  double sums[4] = {};
  for (std::size_t i = 0; i < count; i += 4)
    for (std::size_t lane = 0; lane < 4; ++lane) {
      auto const value = static_cast<double>(values[i + lane]);
      sums[lane] += value * value;
    }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

}  // namespace foresightkv::inline v0::detail::training

namespace foresightkv::inline v0::training {

/// Scales the gradient of all judges, [num_layers][kv_heads][shape.head_floats()], so that norms stay below
/// max_norm: by max_norm / (norm + 1e-6) where that is below 1, as PyTorch does. layer_norms: [num_layers],
/// before clipping. A norm that is not finite scales nothing.
///
/// Errors before anything is written: invalid_config, invalid_shape, null_pointer, misaligned.
template <class Real>
status clip_gradient(host_execution exec, clip_config const& config, judge_shape const& shape, Real* gradient,
                     double* layer_norms, clip_result* result) {
  if (!config.valid()) return {errc::invalid_config, 0, argument::config};
  if (!shape.valid()) return {errc::invalid_shape, 0, argument::shape};
  auto const checked =
      detail::first_of(detail::check_buffer(gradient), detail::check_buffer(layer_norms), detail::check_buffer(result));
  if (!checked.ok()) return checked;
  auto const floats = static_cast<std::size_t>(shape.num_kv_heads) * shape.head_floats();
  int const threads = detail::host::num_threads(exec, shape.num_layers);
  detail::host::parallel_for(threads, shape.num_layers, [&](int layer, int) {
    layer_norms[layer] =
        std::sqrt(detail::training::sum_of_squares(gradient + static_cast<std::size_t>(layer) * floats, floats));
  });
  clip_result found;
  double squares = 0.0;
  for (int layer = 0; layer < shape.num_layers; ++layer) {
    squares += layer_norms[layer] * layer_norms[layer];
    found.not_finite_layers += detail::is_finite(layer_norms[layer]) ? 0 : 1;
  }
  found.norm = std::sqrt(squares);
  auto const factor_of = [&](int layer) {
    double const norm = config.scope == clip_scope::joint ? found.norm : layer_norms[layer];
    return detail::is_finite(norm) ? std::min(1.0, config.max_norm / (norm + 1e-6)) : 1.0;
  };
  for (int layer = 0; layer < shape.num_layers; ++layer) found.clipped_layers += factor_of(layer) < 1.0 ? 1 : 0;
  detail::host::parallel_for(threads, shape.num_layers, [&](int layer, int) {
    auto const factor = static_cast<Real>(factor_of(layer));
    if (!(factor < Real{1})) return;
    Real* const own = gradient + static_cast<std::size_t>(layer) * floats;
    for (std::size_t i = 0; i < floats; ++i) own[i] *= factor;
  });
  *result = found;
  return {};
}

}  // namespace foresightkv::inline v0::training
