// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a rollout earns (ForesightKV, section 3.3), from the language model's loss at each token t, with the
// full cache and under eviction. The first budget + interval tokens see no eviction and are left out; so is
// the fifth of the rest where the model is least certain anyway, by entropy:
//
//   delta_t = loss_full(t) - loss_evicted(t)
//   reward  = - mean over the tokens left of ( delta_t^2 if delta_t < -1.5 else 0 )
//   A_i     = (reward_i - mean of the group) / (population deviation of the group + 1e-8)
//
// A group is a number of rollouts of the same sequence. The language model is not part of this library:
// losses and entropies come from wherever it runs.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/buffer.hpp>
#include <foresightkv/detail/order_key.hpp>
#include <foresightkv/execution.hpp>
#include <foresightkv/status.hpp>
#include <foresightkv/workspace.hpp>
#include <limits>

namespace foresightkv::inline v0::training {

/// Which tokens count, and from which rise of their loss on.
struct reward_config {
  int first_token = 0;                    ///< budget + interval: what lies before it is left out
  double entropy_fraction_dropped = 0.2;  ///< floor(fraction * tokens) of the highest entropy are left out
  double threshold = 1.5;                 ///< nats

  [[nodiscard]] constexpr bool valid() const {
    return first_token >= 0 && entropy_fraction_dropped >= 0.0 && entropy_fraction_dropped < 1.0 && threshold >= 0.0 &&
           detail::is_finite(threshold);
  }
};

/// Losses of one group: rollouts of the same sequence. Element t of each array is the same predicted token.
struct reward_input {
  float const* loss_full = nullptr;     ///< [tokens]
  float const* loss_evicted = nullptr;  ///< [rollouts][tokens]
  float const* entropy = nullptr;       ///< [tokens], of the full-cache distributions; the loss is no stand-in for it
  int rollouts = 0;
  int tokens = 0;
};

/// One rollout's reward.
struct reward_result {
  double reward = 0.0;  ///< NaN if a loss or entropy that counts is not finite, or if no token is left
  int tokens = 0;       ///< of the mean
  int worse = 0;        ///< of them, those whose loss rose beyond the threshold
  int not_finite = 0;   ///< tokens from first_token on with a loss or an entropy that is infinite or NaN
};

}  // namespace foresightkv::inline v0::training

namespace foresightkv::inline v0::detail::training {

using namespace foresightkv::training;

/// The tokens that count, ascending; `order` holds their number of entries and more on return.
inline int keep_certain_tokens(reward_config const& config, float const* entropy, int tokens, std::uint64_t* order) {
  int const count = std::max(0, tokens - config.first_token);
  int const dropped = static_cast<int>(count * config.entropy_fraction_dropped);
  // Largest first; of equal entropies the earlier token goes.
  for (int i = 0; i < count; ++i)
    order[i] = std::uint64_t{~order_key(entropy[config.first_token + i])} << 32 | static_cast<std::uint32_t>(i);
  std::nth_element(order, order + dropped, order + count);
  for (int i = dropped; i < count; ++i) order[i - dropped] = order[i] & 0xffffffffu;
  std::sort(order, order + (count - dropped));
  return count - dropped;
}

inline reward_result reward_of(reward_config const& config, reward_input const& input, float const* loss_evicted,
                               std::uint64_t const* kept, int count) {
  reward_result found;
  found.tokens = count;
  for (int t = config.first_token; t < input.tokens; ++t)
    found.not_finite +=
        is_finite(input.loss_full[t]) && is_finite(loss_evicted[t]) && is_finite(input.entropy[t]) ? 0 : 1;
  double sum = 0.0;
  for (int i = 0; i < count; ++i) {
    auto const t = static_cast<std::size_t>(config.first_token) + static_cast<std::size_t>(kept[i]);
    double const delta = static_cast<double>(input.loss_full[t]) - static_cast<double>(loss_evicted[t]);
    if (!(delta < -config.threshold)) continue;
    sum += delta * delta;
    ++found.worse;
  }
  bool const known = found.not_finite == 0 && count > 0;
  found.reward = known ? -sum / count : std::numeric_limits<double>::quiet_NaN();
  return found;
}

}  // namespace foresightkv::inline v0::detail::training

namespace foresightkv::inline v0::training {

/// Bytes of workspace of `rewards`; 0 if no token counts.
[[nodiscard]] inline std::size_t rewards_bytes(host_execution, reward_config const& config, reward_input const& input) {
  if (input.tokens <= config.first_token) return 0;
  detail::arena counting;
  counting.take<std::uint64_t>(static_cast<std::size_t>(input.tokens));
  return counting.bytes();
}

/// The reward of each rollout of a group, results[rollouts]. If `kept` is not null it gets the tokens of the
/// mean, counted from first_token, ascending: at most tokens - first_token of them, reward_result::tokens
/// says how many.
///
/// Errors before anything is written: invalid_config, invalid_shape, null_pointer (a missing entropy too),
/// misaligned, workspace_too_small.
inline status rewards(host_execution exec, reward_config const& config, reward_input const& input,
                      reward_result* results, std::int32_t* kept, workspace scratch) {
  if (!config.valid()) return {errc::invalid_config, 0, argument::config};
  if (input.rollouts < 0 || input.tokens < 0) return {errc::invalid_shape};
  if (input.rollouts == 0) return {};
  auto const some = input.tokens > 0;
  auto const checked = detail::first_of(detail::check_buffer(results), detail::check_aligned(kept),
                                        some ? detail::check_buffer(input.loss_full) : status{},
                                        some ? detail::check_buffer(input.loss_evicted) : status{},
                                        some ? detail::check_buffer(input.entropy) : status{},
                                        detail::check_scratch(scratch, rewards_bytes(exec, config, input)));
  if (!checked.ok()) return checked;
  detail::arena cutting{scratch};
  auto* const order = cutting.take<std::uint64_t>(static_cast<std::size_t>(input.tokens));
  int const count = input.tokens <= config.first_token
                        ? 0
                        : detail::training::keep_certain_tokens(config, input.entropy, input.tokens, order);
  for (int i = 0; kept != nullptr && i < count; ++i) kept[i] = static_cast<std::int32_t>(order[i]);
  for (int rollout = 0; rollout < input.rollouts; ++rollout) {
    auto const* const own =
        input.loss_evicted + static_cast<std::size_t>(rollout) * static_cast<std::size_t>(input.tokens);
    results[rollout] = detail::training::reward_of(config, input, own, order, count);
  }
  return {};
}

/// Advantages of the rollouts of one group: rewards minus their mean, over their population deviation +
/// epsilon. Rewards that are not finite take no part and get 0. All rewards equal: all advantages 0.
///
/// Errors before anything is written: invalid_shape (fewer than two rollouts: their advantage would always be
/// 0), invalid_config, null_pointer, misaligned.
inline status group_advantages(host_execution, int rollouts, double const* rewards, double* advantages,
                               double epsilon = 1e-8) {
  if (rollouts < 2) return {errc::invalid_shape};
  if (!detail::is_finite(epsilon) || !(epsilon > 0.0)) return {errc::invalid_config, 0, argument::config};
  auto const checked = detail::first_of(detail::check_buffer(rewards), detail::check_buffer(advantages));
  if (!checked.ok()) return checked;
  int count = 0;
  double sum = 0.0, squares = 0.0;
  for (int i = 0; i < rollouts; ++i) {
    if (!detail::is_finite(rewards[i])) continue;
    sum += rewards[i];
    ++count;
  }
  double const mean = count > 0 ? sum / count : 0.0;
  for (int i = 0; i < rollouts; ++i)
    if (detail::is_finite(rewards[i])) squares += (rewards[i] - mean) * (rewards[i] - mean);
  double const deviation = count > 0 ? std::sqrt(squares / count) : 0.0;
  for (int i = 0; i < rollouts; ++i)
    advantages[i] = detail::is_finite(rewards[i]) ? (rewards[i] - mean) / (deviation + epsilon) : 0.0;
  return {};
}

}  // namespace foresightkv::inline v0::training
