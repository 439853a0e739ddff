// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/buffer.hpp>
#include <foresightkv/detail/random.hpp>
#include <foresightkv/execution.hpp>
#include <foresightkv/judge.hpp>
#include <foresightkv/scorers/foresight.hpp>
#include <foresightkv/status.hpp>
#include <type_traits>

namespace foresightkv::inline v0::training {

/// What a judge knows before it is trained.
enum class judge_start : int {
  random,     ///< nothing: small random weights
  window_sum  ///< to rank as `window_sum` does: hidden unit 0 passes that on, and the others are not heard
              ///< yet
};

/// How `initialise_judge` begins.
struct initialisation_config {
  judge_start start = judge_start::window_sum;
  double deviation = 0.02;  ///< of the random weights, uniform about 0; biases are 0
  std::uint64_t seed = 0;

  [[nodiscard]] constexpr bool valid() const {
    return start >= judge_start::random && start <= judge_start::window_sum && deviation >= 0.0 &&
           detail::is_finite(deviation);
  }
};

}  // namespace foresightkv::inline v0::training

namespace foresightkv::inline v0::detail::training {

/// Place of the statistic `sum` among a judge's eight; -1 if they do not have it.
template <class Features>
constexpr int place_of_sum() {
  int place = 0, found = -1;
  Features::for_each([&](auto feature) {
    if (std::is_same_v<decltype(feature), sum> && found < 0) found = place;
    ++place;
  });
  return found;
}

/// Unit 0 = mean over the group of the window's sum, in the packed weights of one head. GELU rises wherever
/// its argument is not negative, so the order of the scores is that of the sums.
template <class Features>
void pass_window_sum(judge_shape const& shape, float* head) {
  constexpr int hidden = judge_shape::hidden;
  int const first = shape.key_head_dim + shape.value_head_dim + place_of_sum<Features>() * shape.group;
  for (int input = 0; input < shape.inputs(); ++input) {
    bool const summed = input >= first && input < first + shape.group;
    head[input * hidden] = summed ? 1.0f / static_cast<float>(shape.group) : 0.0f;
  }
  float* const output = head + (shape.inputs() + 1) * hidden;
  std::fill_n(output, hidden, 0.0f);
  output[0] = 1.0f;
}

}  // namespace foresightkv::inline v0::detail::training

namespace foresightkv::inline v0::training {

/// Weights of all layers to begin a training with, packed: packed_judge_floats(shape) floats. Each weight is
/// a draw of its own (Philox4x32-10 by its place and the seed), the same on every machine.
///
/// Features: what the judge will read; judge_start::window_sum needs `sum` among them.
/// Errors before anything is written: invalid_config, invalid_shape, null_pointer, misaligned.
template <class Features>
status initialise_judge(host_execution, initialisation_config const& config, judge_shape const& shape, float* packed) {
  constexpr bool has_sum = detail::training::place_of_sum<Features>() >= 0;
  if (!config.valid() || (config.start == judge_start::window_sum && !has_sum))
    return {errc::invalid_config, 0, argument::config};
  if (!shape.valid()) return {errc::invalid_shape, 0, argument::shape};
  if (auto const checked = detail::check_buffer(packed); !checked.ok()) return checked;
  constexpr int hidden = judge_shape::hidden;
  double const width = config.deviation * std::sqrt(3.0);
  int const weights = shape.inputs() * hidden;
  for (int row = 0; row < shape.num_layers * shape.num_kv_heads; ++row, packed += shape.head_floats()) {
    auto const draw = [&](int place) {
      auto const bits =
          detail::philox({{static_cast<std::uint32_t>(place), static_cast<std::uint32_t>(row), 0, 0}}, config.seed)
              .word[0];
      return static_cast<float>(width * (2.0 * static_cast<double>(detail::uniform_float(bits)) - 1.0));
    };
    std::fill_n(packed, shape.head_floats(), 0.0f);
    for (int i = 0; i < weights; ++i) packed[i] = draw(i);
    for (int unit = 0; unit < hidden; ++unit) packed[weights + hidden + unit] = draw(weights + unit);
    if constexpr (has_sum)
      if (config.start == judge_start::window_sum) detail::training::pass_window_sum<Features>(shape, packed);
  }
  return {};
}

}  // namespace foresightkv::inline v0::training
