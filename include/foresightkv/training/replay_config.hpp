// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <foresightkv/config.hpp>
#include <foresightkv/element.hpp>
#include <foresightkv/judge.hpp>
#include <foresightkv/training/judge_gradient.hpp>

// What a feature replay is told and gives back: see feature_replay.hpp for what it does.

namespace foresightkv::inline v0::training {

/// When a replayed layer is cut, and how far.
struct replay_config {
  eviction_config eviction{};
  int start = 0;  ///< tokens cached when the first eviction comes (a prompt); 0: budget + interval

  [[nodiscard]] constexpr int first_length() const { return start == 0 ? eviction.budget + eviction.interval : start; }
  /// Steps begin at golden's block borders, so the start is a multiple of the interval.
  [[nodiscard]] constexpr bool valid() const {
    return eviction.valid() && eviction.budget <= 0x3fffffff && eviction.interval <= 0x3fffffff && start >= 0 &&
           first_length() >= eviction.budget + eviction.interval && first_length() % eviction.interval == 0;
  }
  /// Evictions of a sequence: one before each window that is not the prompt's.
  [[nodiscard]] constexpr int steps(int tokens) const {
    return tokens <= first_length() ? 0 : (tokens - first_length() - 1) / eviction.interval + 1;
  }
  /// First token that arrives after a step.
  [[nodiscard]] constexpr int next_token(int step) const { return first_length() + step * eviction.interval; }
  /// Tokens cached before a step.
  [[nodiscard]] constexpr int length(int step) const {
    return step == 0 ? first_length() : eviction.budget + eviction.interval;
  }
  [[nodiscard]] constexpr int candidates(int step) const {
    return length(step) - eviction.recent() - eviction.sink_tokens;
  }
  [[nodiscard]] constexpr int evictions(int step) const { return length(step) - eviction.budget; }
  /// Candidates of one KV head in the steps before `step`: steps(tokens) gives the size of an output.
  [[nodiscard]] constexpr std::size_t candidates_before(int step) const {
    return step == 0 ? 0 : static_cast<std::size_t>(candidates(0)) + sum_of(step - 1, candidates(1));
  }
  [[nodiscard]] constexpr std::size_t evictions_before(int step) const {
    return step == 0 ? 0 : static_cast<std::size_t>(evictions(0)) + sum_of(step - 1, evictions(1));
  }

 private:
  static constexpr std::size_t sum_of(int count, int each) {
    return static_cast<std::size_t>(count) * static_cast<std::size_t>(each);
  }
};

/// One layer of one recorded sequence. Queries and keys are those after RoPE; elements of a token are
/// contiguous.
template <element Query = float, element Key = Query>
struct recorded_layer {
  Query const* queries = nullptr;  ///< [kv_heads * group][tokens][key_head_dim]
  Key const* keys = nullptr;       ///< [kv_heads][tokens][key_head_dim]
  Key const* values = nullptr;     ///< [kv_heads][tokens][value_head_dim]
  int kv_heads = 0;
  int group = 0;
  int tokens = 0;  ///< to replay
  int key_head_dim = 0;
  int value_head_dim = 0;
  float softmax_scale = 0.0f;  ///< 0: 1 / sqrt(key_head_dim)
  int layer = 0;               ///< number in the model: names the draws of a sampled replay
  token_strides query_strides{};
  token_strides key_strides{};
  token_strides value_strides{};

  [[nodiscard]] constexpr judge_shape shape() const { return {1, kv_heads, group, key_head_dim, value_head_dim}; }
};

/// What every token is worth to block b and all later ones, as golden_output::future has it: row b -
/// first_block of each KV head. golden_config{.budget = interval, .interval = interval} gives every block
/// from the third on.
struct future_scores {
  float const* data = nullptr;  ///< [kv_heads][rows][tokens]
  int rows = 0;
  int tokens = 0;
  int first_block = 2;

  [[nodiscard]] constexpr float const* row(int kv_head, int block) const {
    return data + (std::int64_t{kv_head} * rows + block - first_block) * tokens;
  }
};

/// Who says what goes.
struct replay_guide {
  float const* weights = nullptr;  ///< the layer's judges, packed; null: golden, the lowest labels
  bool sampled = false;            ///< drawn as `sampled_top_k` draws: a rollout
  std::uint64_t seed = 0;          ///< of the draws
  std::uint32_t rollout = 0;       ///< another number draws other evictions
};

/// What a replay writes, step after step: step s begins at kv_heads * candidates_before(s) candidates (or
/// evictions_before(s) evictions). With the default start all steps have budget - recent + interval
/// candidates, so that the whole is one judge_rows and one ranking_rows; else each step is one.
struct replay_output {
  std::int32_t* positions = nullptr;  ///< [kv_heads][candidates] of a step, ascending
  float* statistics = nullptr;        ///< [kv_heads][candidates][8 * group], feature after feature
  float* labels = nullptr;            ///< [kv_heads][candidates] future scores: higher = keep
  std::int32_t* evicted = nullptr;    ///< [kv_heads][evictions] indices among the candidates, ascending; may be null
  std::int32_t* evicted_positions = nullptr;  ///< [kv_heads][evictions]; may be null
};

}  // namespace foresightkv::inline v0::training
