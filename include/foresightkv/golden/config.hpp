// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <foresightkv/detail/order_key.hpp>
#include <foresightkv/element.hpp>
#include <foresightkv/observation.hpp>

namespace foresightkv::inline v0 {

// What Golden Eviction is told and gives back: see golden_eviction.hpp for what it computes.

/// How a candidate's block means x_s, x_s+1, ... of the future become its score.
enum class golden_future : int {
  maximum,    ///< the largest (the paper); NaN counts only where nothing else is there
  sum,        ///< x_s + x_s+1 + ...
  mean,       ///< the sum over the number of future blocks
  discounted  ///< x_s + discount * (x_s+1 + discount * (...))
};

/// How the query heads of one KV head become one block mean.
enum class golden_reduction : int {
  mean,    ///< over heads and rows together (the paper)
  maximum  ///< the largest of the heads' own means
};

/// Whose rules hold at the end of a sequence and for budgets that are no multiple of the interval.
enum class golden_rules : int {
  /// A last, partial block is divided by its own rows. From queries and keys the budget must be a multiple of
  /// the interval.
  exact,
  /// The paper's code: a partial block is divided by the interval too, and where the budget is no multiple,
  /// the first future block, 1 + budget / interval, starts before budget + interval.
  published
};

/// What Golden Eviction computes. A structural type: usable as a template argument and as a run-time value.
struct golden_config {
  int budget = 1024;
  int interval = 256;
  golden_future future = golden_future::maximum;
  float discount = 0.9f;  ///< of golden_future::discounted, in [0, 1]
  golden_reduction reduction = golden_reduction::mean;
  golden_rules rules = golden_rules::exact;

  [[nodiscard]] constexpr bool valid() const {
    return interval > 0 && interval <= budget && discount >= 0.0f && discount <= 1.0f &&
           future >= golden_future::maximum && future <= golden_future::discounted &&
           reduction >= golden_reduction::mean && reduction <= golden_reduction::maximum &&
           rules >= golden_rules::exact && rules <= golden_rules::published;
  }
  /// Whether block means can be built from queries and keys under these rules.
  [[nodiscard]] constexpr bool aligned() const { return rules == golden_rules::published || budget % interval == 0; }

  /// Evictions of a sequence: one while more than budget + interval tokens survive.
  [[nodiscard]] constexpr int steps(int tokens) const {
    return tokens - interval <= budget ? 0 : (tokens - budget - 1) / interval;
  }
  /// Index of the first query block that the first step has not seen.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int first_block() const { return 1 + budget / interval; }
  [[nodiscard]] constexpr int num_blocks(int tokens) const { return tokens / interval + (tokens % interval != 0); }
  /// Blocks from first_block() on: columns of the block means. At least steps(tokens), and one more at most.
  [[nodiscard]] constexpr int future_blocks(int tokens) const {
    return std::max(0, num_blocks(tokens) - first_block());
  }
  /// Rows that the sum of block `block` is divided by.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int block_rows(int block, int tokens) const {
    int const left = tokens - block * interval;
    return rules == golden_rules::published || interval < left ? interval : left;
  }

  friend constexpr bool operator==(golden_config const&, golden_config const&) = default;
};

/// A config fixed at compile time: checked here, converted to the run-time struct wherever it is used.
template <golden_config Config>
struct golden {
  static_assert(Config.valid(),
                "foresightkv: golden_config must have 0 < interval <= budget and a discount between 0 and 1");
  constexpr operator golden_config() const { return Config; }
};

/// Extents of one layer of one sequence.
struct golden_shape {
  int kv_heads = 1;
  int group = 1;  ///< query heads per KV head; query head = kv_head * group + j
  int tokens = 0;
  int head_dim = 0;
};

/// Distances in elements; both 0: contiguous [head][token][dim].
struct golden_strides {
  std::int64_t head = 0;
  std::int64_t token = 0;

  /// The same with no 0 left: those of vectors of `dim` elements.
  [[nodiscard]] constexpr golden_strides of(golden_shape const& shape, int dim) const {
    std::int64_t const next_token = token == 0 ? dim : token;
    return {head == 0 ? next_token * shape.tokens : head, next_token};
  }
};

/// Queries and keys of a whole sequence, after RoPE. The elements of one token are contiguous.
///
/// A query whose log-sum-exp (given or computed) is not finite is masked: it gives every token 0, and still
/// counts as a row of its block.
template <element Query, element Key = Query, log_base Base = log_base::natural>
struct golden_input {
  static constexpr log_base base = Base;

  Query const* queries = nullptr;  ///< [kv_heads * group][tokens][head_dim]
  Key const* keys = nullptr;       ///< [kv_heads][tokens][head_dim]
  golden_shape shape{};
  float softmax_scale = 0.0f;  ///< 0: 1 / sqrt(head_dim)
  float const* lse = nullptr;  ///< [kv_heads * group][tokens] of the scaled logits; null: computed
  golden_strides query_strides{};
  golden_strides key_strides{};
  golden_strides lse_strides{};

  /// The softmax scale, also where it is left at 0.
  [[nodiscard]] float scale() const {
    return softmax_scale > 0.0f ? softmax_scale : 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  }
};

/// Means of future blocks: at(h, k, s) is KV head h's mean attention of block first_block() + s to key k.
struct golden_means {
  float const* data = nullptr;
  int kv_heads = 0;
  int tokens = 0;
  int blocks = 0;
  std::int64_t head_stride = 0;
  std::int64_t token_stride = 0;
  std::int64_t block_stride = 0;

  /// [kv_heads][tokens][blocks]
  [[nodiscard]] static constexpr golden_means token_major(float const* data, int kv_heads, int tokens, int blocks) {
    return {data, kv_heads, tokens, blocks, std::int64_t{tokens} * blocks, blocks, 1};
  }
  /// [kv_heads][blocks][tokens], as `block_means` writes it.
  [[nodiscard]] static constexpr golden_means block_major(float const* data, int kv_heads, int tokens, int blocks) {
    return {data, kv_heads, tokens, blocks, std::int64_t{tokens} * blocks, 1, tokens};
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr float at(int head, int token, int block) const {
    return data[head * head_stride + token * token_stride + block * block_stride];
  }
};

/// What Golden Eviction writes; a null member is left out, but one must be there if there is a step.
///
/// Labels are future scores: higher = keep. Of equal scores the lowest index is evicted first, NaN before
/// everything, -0 == +0; lists ascend.
struct golden_output {
  float* labels = nullptr;                    ///< [steps][kv_heads][budget] score of each candidate
  std::int32_t* evicted = nullptr;            ///< [steps][kv_heads][interval] indices among the candidates
  std::int32_t* evicted_positions = nullptr;  ///< [steps][kv_heads][interval] positions in the sequence
  float* future = nullptr;  ///< [kv_heads][steps][tokens] score of every token, evicted or not, at every step
};

namespace detail {

/// The future from a block on, made of its own mean and of the future from the next block on.
/// golden_future::mean is still a sum here.
FORESIGHTKV_HOST_DEVICE constexpr float fold_block(golden_config const& config, float mean, float later) {
  if (config.future == golden_future::maximum) return order_key(later) > order_key(mean) ? later : mean;
  if (config.future != golden_future::discounted) return mean + later;
#if defined(__CUDA_ARCH__)
  return mean + __fmul_rn(config.discount, later);  // fused, it would have other bits than the host's
#else
  return mean + config.discount * later;
#endif
}

/// The score that a folded future of so many blocks stands for.
FORESIGHTKV_HOST_DEVICE constexpr float future_score(golden_config const& config, float future, int blocks) {
  return config.future == golden_future::mean ? future / static_cast<float>(blocks) : future;
}

}  // namespace detail

}  // namespace foresightkv::inline v0
