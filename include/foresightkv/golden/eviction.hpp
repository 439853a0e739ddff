// SPDX-License-Identifier: Apache-2.0
#pragma once

// Golden Eviction (ForesightKV, arXiv 2602.03203): what a policy that knows the future evicts.
//
//   A[b][k] = mean over the rows t of query block b and over the group's query heads of
//             softmax(q_t . k / sqrt(D)), causal
//   alpha_k = max over b >= s of A[b][k]: the score of key k at step s (other futures: golden_future)
//   step s:   the candidates are the first B survivors; the L of least alpha go
//
// Block b holds the queries b L to b L + L - 1. Column s of the block means is block first_block() + s, the
// first that step s has not seen. Attention is that of the full cache, not renormalised after an eviction: a
// greedy rule, not an optimum.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <numbers>
#include <type_traits>

#include <foresightkv/detail/backend.hpp>
#include <foresightkv/detail/buffer.hpp>
#include <foresightkv/detail/order_key.hpp>
#include <foresightkv/execution.hpp>
#include <foresightkv/golden/config.hpp>
#include <foresightkv/golden/detail/host.hpp>
#include <foresightkv/golden/detail/kernels.hpp>
#include <foresightkv/status.hpp>
#include <foresightkv/workspace.hpp>

namespace foresightkv::inline v0 {

namespace detail {

/// Memory of the solver for one KV head.
struct golden_scratch {
  float* future;             // [blocks][tokens]: block means, folded in place
  std::int32_t* candidates;  // [budget] positions
  std::uint64_t* order;      // [budget]
};

/// Block means become future scores, in place: a recurrence from the last block to the first.
constexpr void fold_future(golden_config const& config, float* rows, int blocks, int tokens) {
  for (int block = blocks - 2; block >= 0; --block) {
    float* const row = rows + static_cast<std::int64_t>(block) * tokens;
    for (int k = 0; k < tokens; ++k) row[k] = fold_block(config, row[k], row[tokens + k]);
  }
  if (config.future != golden_future::mean) return;
  for (int block = 0; block < blocks; ++block) {
    float* const row = rows + static_cast<std::int64_t>(block) * tokens;
    for (int k = 0; k < tokens; ++k) row[k] = future_score(config, row[k], blocks - block);
  }
}

/// The largest (score, index) among the candidates that go: those up to it are evicted, `interval` in number.
constexpr std::uint64_t golden_threshold(golden_config const& config, float const* scores,
                                         golden_scratch const& scratch) {
  for (int i = 0; i < config.budget; ++i)
    scratch.order[i] = std::uint64_t{order_key(scores[scratch.candidates[i]])} << 32 | static_cast<std::uint32_t>(i);
  auto* const last = scratch.order + (config.interval - 1);
  std::nth_element(scratch.order, last, scratch.order + config.budget);
  return *last;
}

/// The eviction steps of one KV head, from its folded future scores.
constexpr void evict_golden(golden_config const& config, int head, int kv_heads, int tokens, int steps,
                            golden_scratch const& scratch, golden_output const& output) {
  for (int i = 0; i < config.budget; ++i) scratch.candidates[i] = i;
  for (int step = 0; step < steps; ++step) {
    float const* const scores = scratch.future + static_cast<std::int64_t>(step) * tokens;
    auto const row = static_cast<std::int64_t>(step) * kv_heads + head;
    auto const threshold = golden_threshold(config, scores, scratch);
    int gone = 0;
    for (int i = 0; i < config.budget; ++i) {
      auto const position = scratch.candidates[i];
      float const score = scores[position];
      if (output.labels != nullptr) output.labels[row * config.budget + i] = score;
      if ((std::uint64_t{order_key(score)} << 32 | static_cast<std::uint32_t>(i)) > threshold) {
        scratch.candidates[i - gone] = position;
        continue;
      }
      if (output.evicted != nullptr) output.evicted[row * config.interval + gone] = i;
      if (output.evicted_positions != nullptr) output.evicted_positions[row * config.interval + gone] = position;
      ++gone;
    }
    // The tokens that this step protected are the newest candidates of the next one.
    for (int i = 0; i < config.interval; ++i)
      scratch.candidates[config.budget - config.interval + i] = config.budget + step * config.interval + i;
  }
  if (output.future == nullptr) return;
  std::copy_n(scratch.future, static_cast<std::int64_t>(steps) * tokens,
              output.future + static_cast<std::int64_t>(head) * steps * tokens);
}

/// One KV head from its block means.
constexpr void golden_head(golden_config const& config, golden_means const& means, int head, int steps,
                           golden_scratch const& scratch, golden_output const& output) {
  for (int block = 0; block < means.blocks; ++block)
    for (int k = 0; k < means.tokens; ++k)
      scratch.future[static_cast<std::int64_t>(block) * means.tokens + k] = means.at(head, k, block);
  fold_future(config, scratch.future, means.blocks, means.tokens);
  evict_golden(config, head, means.kv_heads, means.tokens, steps, scratch, output);
}

}  // namespace detail

/// Labels and evictions of one KV head whose extents are known at compile time.
template <golden_config Config, std::size_t Tokens, std::size_t Blocks>
struct golden_plan {
  static constexpr auto budget = static_cast<std::size_t>(Config.budget);
  static constexpr auto interval = static_cast<std::size_t>(Config.interval);
  static constexpr auto steps = std::min(Blocks, static_cast<std::size_t>(Config.steps(static_cast<int>(Tokens))));

  std::array<std::array<float, budget>, steps> labels{};
  std::array<std::array<std::int32_t, interval>, steps> evicted{};
  std::array<std::array<std::int32_t, interval>, steps> evicted_positions{};
  std::array<std::array<float, Tokens>, steps> future{};
};

/// The solver as a constant expression: means[k][s] are the future block means of token k.
template <golden_config Config, std::size_t Tokens, std::size_t Blocks>
[[nodiscard]] constexpr auto golden_eviction(std::array<std::array<float, Blocks>, Tokens> const& means) {
  static_assert(sizeof(golden<Config>) > 0);  // checks the config
  using plan = golden_plan<Config, Tokens, Blocks>;
  std::array<float, Tokens * Blocks> future{};
  for (std::size_t block = 0; block < Blocks; ++block)
    for (std::size_t k = 0; k < Tokens; ++k) future[block * Tokens + k] = means[k][block];
  detail::fold_future(Config, future.data(), static_cast<int>(Blocks), static_cast<int>(Tokens));

  std::array<float, plan::steps * plan::budget> labels{};
  std::array<std::int32_t, plan::steps * plan::interval> evicted{}, positions{};
  std::array<std::int32_t, plan::budget> candidates{};
  std::array<std::uint64_t, plan::budget> order{};
  detail::evict_golden(Config, 0, 1, static_cast<int>(Tokens), static_cast<int>(plan::steps),
                       {future.data(), candidates.data(), order.data()},
                       {labels.data(), evicted.data(), positions.data(), nullptr});
  plan result{};
  for (std::size_t step = 0; step < plan::steps; ++step) {
    std::copy_n(labels.begin() + step * plan::budget, plan::budget, result.labels[step].begin());
    std::copy_n(evicted.begin() + step * plan::interval, plan::interval, result.evicted[step].begin());
    std::copy_n(positions.begin() + step * plan::interval, plan::interval, result.evicted_positions[step].begin());
    std::copy_n(future.begin() + step * Tokens, Tokens, result.future[step].begin());
  }
  return result;
}

namespace detail {

// Far below 2^63: what comes after this check may multiply extents as std::int64_t, and add the rounding of
// its scratch arrays, without a thought.
inline bool extents_fit(std::initializer_list<std::int64_t> extents) {
  double product = 16.0;
  for (auto const extent : extents) product *= static_cast<double>(extent);
  return product < 0x1p50;
}

inline status check_golden(golden_config const& config, golden_shape const& shape) {
  if (!config.valid() || !config.aligned()) return {errc::invalid_config, 0, argument::config};
  if (shape.kv_heads < 1 || shape.group < 1 || shape.tokens < 0 || shape.head_dim < 1)
    return {errc::invalid_shape, 0, argument::shape};
  std::int64_t const tokens = shape.tokens, heads = shape.kv_heads;
  bool const fit = extents_fit({heads, shape.group, tokens, shape.head_dim}) &&
                   extents_fit({heads, shape.group, config.future_blocks(shape.tokens) + 1, tokens + config.budget});
  return check_that(fit, errc::invalid_shape, argument::shape);
}

inline status check_golden(golden_config const& config, golden_means const& means) {
  if (!config.valid()) return {errc::invalid_config, 0, argument::config};
  bool const sound = means.kv_heads >= 1 && means.tokens >= 0 && means.blocks >= 0 && means.head_stride >= 0 &&
                     means.token_stride >= 0 && means.block_stride >= 0;
  bool const fit =
      extents_fit({means.kv_heads, means.blocks + std::int64_t{1}, std::int64_t{means.tokens} + config.budget}) &&
      extents_fit({means.kv_heads, means.head_stride}) && extents_fit({means.tokens, means.token_stride}) &&
      extents_fit({means.blocks, means.block_stride});
  return check_that(sound && fit, errc::invalid_shape, argument::input);
}

template <class Input>
status check_golden_input(Input const& input) {
  std::int64_t const heads = std::int64_t{input.shape.kv_heads} * input.shape.group;
  golden_strides const all[] = {input.query_strides, input.key_strides, input.lse_strides};
  for (auto const& strides : all)
    if (strides.head < 0 || strides.token < 0 || !extents_fit({heads, strides.head}) ||
        !extents_fit({input.shape.tokens, strides.token}))
      return {errc::invalid_shape, 0, argument::input};
  bool const scaled = input.softmax_scale >= 0.0f && is_finite(input.softmax_scale);
  return first_of(check_that(scaled, errc::invalid_shape), check_buffer(input.queries, input.keys),
                  check_aligned(input.lse))
      .at(argument::input);
}

inline status check_golden_output(golden_output const& output) {
  bool const some = output.labels != nullptr || output.evicted != nullptr || output.evicted_positions != nullptr ||
                    output.future != nullptr;
  return first_of(check_that(some, errc::null_pointer),
                  check_aligned(output.labels, output.evicted, output.evicted_positions, output.future))
      .at(argument::output);
}

inline host::block_means_plan plan_block_means(golden_config const& config, golden_shape const& shape) {
  host::block_means_plan plan;
  plan.kv_heads = shape.kv_heads;
  plan.group = shape.group;
  plan.tokens = shape.tokens;
  plan.head_dim = shape.head_dim;
  plan.interval = config.interval;
  plan.first_block = config.first_block();
  plan.blocks = config.future_blocks(shape.tokens);
  plan.head_maximum = config.reduction == golden_reduction::maximum;
  plan.full_interval = config.rules == golden_rules::published;
  return plan;
}

template <class Input>
host::block_means_plan plan_block_means(golden_config const& config, Input const& input) {
  auto plan = plan_block_means(config, input.shape);
  plan.multiply = input.scale() * std::numbers::log2e_v<float>;
  plan.lse_given = input.lse != nullptr;
  plan.lse_to_two = Input::base == log_base::natural ? std::numbers::log2e_v<float> : 1.0f;
  return plan;
}

template <class Element>
host::token_vectors<Element> vectors_of(Element const* data, golden_strides const& given, golden_shape const& shape,
                                        int dim) {
  golden_strides const strides = given.of(shape, dim);
  return {data, strides.head, strides.token};
}

inline golden_scratch take_golden_scratch(arena& memory, golden_config const& config, int tokens, int blocks) {
  auto const budget = static_cast<std::size_t>(config.budget);
  golden_scratch scratch{};
  scratch.future = memory.take<float>(static_cast<std::size_t>(tokens) * static_cast<std::size_t>(blocks));
  scratch.candidates = memory.take<std::int32_t>(budget);
  scratch.order = memory.take<std::uint64_t>(budget);
  return scratch;
}

inline golden_scratch* take_golden_scratches(arena& memory, golden_config const& config, int tokens, int blocks,
                                             int count) {
  auto* const all = memory.take<golden_scratch>(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) {
    auto const scratch = take_golden_scratch(memory, config, tokens, blocks);
    if (all != nullptr) all[i] = scratch;
  }
  return all;
}

/// The arrays of one call; the verb and its *_bytes function walk the same list.
struct golden_memory {
  int threads = 1;
  int heads = 1;  // worked on together
  float* packed = nullptr;
  host::block_means_scratch* threads_scratch = nullptr;
  golden_scratch* heads_scratch = nullptr;

  static golden_memory take(arena& memory, host_execution exec, host::block_means_plan const& plan,
                            golden_config const* solver) {
    golden_memory all;
    auto const tasks = std::min<std::int64_t>(std::int64_t{plan.kv_heads} * plan.blocks, 1 << 20);
    all.threads = host::num_threads(exec, static_cast<int>(tasks));
    all.heads = host::heads_together(plan, all.threads);
    all.packed = memory.take<float>(static_cast<std::size_t>(all.heads) * plan.packed_stride());
    all.threads_scratch = memory.take<host::block_means_scratch>(static_cast<std::size_t>(all.threads));
    for (int thread = 0; thread < all.threads; ++thread) {
      auto const scratch = host::block_means_scratch::take(memory, plan);
      if (all.threads_scratch != nullptr) all.threads_scratch[thread] = scratch;
    }
    if (solver != nullptr)
      all.heads_scratch = take_golden_scratches(memory, *solver, plan.tokens, plan.blocks, all.heads);
    return all;
  }
};

/// Block means of all KV heads, batch by batch: row_of(batch's first head, head of the batch, block) says
/// where they go, done(first head, heads) is called after each batch.
template <class Input, class RowOf, class Done>
void stream_block_means(host::block_means_plan const& plan, Input const& input, golden_memory const& memory,
                        RowOf const& row_of, Done const& done) {
  auto const queries = vectors_of(input.queries, input.query_strides, input.shape, plan.head_dim);
  auto const keys = vectors_of(input.keys, input.key_strides, input.shape, plan.head_dim);
  auto const lse = vectors_of(input.lse, input.lse_strides, input.shape, 1);
  for (int first = 0; first < plan.kv_heads; first += memory.heads) {
    int const heads = std::min(memory.heads, plan.kv_heads - first);
    host::pack_heads(plan, keys, first, heads, memory.threads, memory.packed);
    host::block_means_heads(plan, queries, lse, first, heads, memory.threads, memory.packed, memory.threads_scratch,
                            [&](int head, int block) { return row_of(first, head, block); });
    done(first, heads);
  }
}

/// The verbs on the host: (KV head, query block) pairs in parallel.
struct golden_host {
  static std::size_t block_means_bytes(host_execution exec, golden_config const& config, golden_shape const& shape) {
    arena counting;
    golden_memory::take(counting, exec, plan_block_means(config, shape), nullptr);
    return counting.bytes();
  }

  static std::size_t golden_eviction_bytes(host_execution exec, golden_config const& config,
                                           golden_shape const& shape) {
    arena counting;
    golden_memory::take(counting, exec, plan_block_means(config, shape), &config);
    return counting.bytes();
  }

  static std::size_t golden_eviction_bytes(host_execution exec, golden_config const& config,
                                           golden_means const& means) {
    arena counting;
    take_golden_scratches(counting, config, means.tokens, means.blocks, host::num_threads(exec, means.kv_heads));
    return counting.bytes();
  }

  template <class Input>
  static status block_means(host_execution exec, golden_config const& config, Input const& input, float* means,
                            workspace scratch) {
    auto const plan = plan_block_means(config, input);
    arena cutting{scratch};
    auto const memory = golden_memory::take(cutting, exec, plan, nullptr);
    auto const row_of = [&](int first, int head, int block) {
      return means + (std::int64_t{first + head} * plan.blocks + block) * plan.tokens;
    };
    stream_block_means(plan, input, memory, row_of, [](int, int) {});
    return {};
  }

  template <class Input>
  static status golden_eviction(host_execution exec, golden_config const& config, Input const& input,
                                golden_output const& output, workspace scratch) {
    auto const plan = plan_block_means(config, input);
    arena cutting{scratch};
    auto const memory = golden_memory::take(cutting, exec, plan, &config);
    auto const row_of = [&](int, int head, int block) {
      return memory.heads_scratch[head].future + std::int64_t{block} * plan.tokens;
    };
    auto const solve = [&](int first, int heads) {
      host::parallel_for(memory.threads, heads, [&](int head, int) {
        fold_future(config, memory.heads_scratch[head].future, plan.blocks, plan.tokens);
        evict_golden(config, first + head, plan.kv_heads, plan.tokens, config.steps(plan.tokens),
                     memory.heads_scratch[head], output);
      });
    };
    stream_block_means(plan, input, memory, row_of, solve);
    return {};
  }

  static status golden_eviction(host_execution exec, golden_config const& config, golden_means const& means,
                                golden_output const& output, workspace scratch) {
    int const steps = std::min(config.steps(means.tokens), means.blocks);
    int const threads = host::num_threads(exec, means.kv_heads);
    arena cutting{scratch};
    auto const* const memory = take_golden_scratches(cutting, config, means.tokens, means.blocks, threads);
    host::parallel_for(threads, means.kv_heads,
                       [&](int head, int thread) { golden_head(config, means, head, steps, memory[thread], output); });
    return {};
  }
};

template <class Exec>
using golden_backend = std::conditional_t<host_executor<Exec>, golden_host, kernels::golden_kernels<Exec>>;

}  // namespace detail

/// Bytes of workspace of `block_means`; 0 if config or shape is invalid. Device: 8 per query that it reads.
template <class Exec>
[[nodiscard]] std::size_t block_means_bytes(Exec exec, golden_config const& config, golden_shape const& shape) {
  if (!detail::check_golden(config, shape).ok() || config.future_blocks(shape.tokens) == 0) return 0;
  return detail::golden_backend<Exec>::block_means_bytes(exec, config, shape);
}

/// Mean attention of each future query block to each key: means[kv_heads][future_blocks(tokens)][tokens], 0
/// beyond a block's last query. O(heads T T head_dim) time. Device: 2 launches, 1 with a log-sum-exp.
///
/// Errors before anything is written: invalid_config (also a budget that is no multiple of the interval under
/// golden_rules::exact), invalid_shape, null_pointer, misaligned, workspace_too_small, unsupported (a
/// device's grid of more than 2^31 - 1 blocks).
template <class Exec, element Query, element Key, log_base Base>
status block_means(Exec exec, golden_config const& config, golden_input<Query, Key, Base> const& input, float* means,
                   workspace scratch) {
  if (auto const checked = detail::check_golden(config, input.shape); !checked.ok()) return checked;
  if (config.future_blocks(input.shape.tokens) == 0) return {};
  if (auto const checked = detail::check_golden_input(input); !checked.ok()) return checked;
  auto const checked = detail::first_of(detail::check_buffer(means).at(argument::output),
                                        detail::check_scratch(scratch, block_means_bytes(exec, config, input.shape)));
  if (!checked.ok()) return checked;
  return detail::golden_backend<Exec>::block_means(exec, config, input, means, scratch);
}

/// Bytes of workspace of `golden_eviction` from queries and keys; 0 if config or shape is invalid.
///
/// O(threads (group + 32) T + heads T (T / interval + head_dim)), where `heads` is one where its blocks keep
/// all threads busy, else as many KV heads as that takes. Device: O(heads T (T / interval + group)), of as
/// many KV heads as have 1 GiB of block means together, but at least one.
template <class Exec>
[[nodiscard]] std::size_t golden_eviction_bytes(Exec exec, golden_config const& config, golden_shape const& shape) {
  if (!detail::check_golden(config, shape).ok() || config.steps(shape.tokens) == 0) return 0;
  return detail::golden_backend<Exec>::golden_eviction_bytes(exec, config, shape);
}

/// Golden Eviction of one layer of one sequence, streaming from queries and keys.
///
/// tokens <= budget + interval: no step, nothing is written. O(heads T T head_dim) time; the same results
/// whatever the number of threads. Device: 4 launches, 3 with a log-sum-exp, for each part of the KV heads
/// that golden_eviction_bytes has room for.
///
/// Errors before anything is written: as `block_means`.
template <class Exec, element Query, element Key, log_base Base>
status golden_eviction(Exec exec, golden_config const& config, golden_input<Query, Key, Base> const& input,
                       golden_output const& output, workspace scratch) {
  if (auto const checked = detail::check_golden(config, input.shape); !checked.ok()) return checked;
  if (config.steps(input.shape.tokens) == 0) return {};
  if (auto const checked = detail::check_golden_input(input); !checked.ok()) return checked;
  auto const checked =
      detail::first_of(detail::check_golden_output(output),
                       detail::check_scratch(scratch, golden_eviction_bytes(exec, config, input.shape)));
  if (!checked.ok()) return checked;
  return detail::golden_backend<Exec>::golden_eviction(exec, config, input, output, scratch);
}

/// Bytes of workspace of `golden_eviction` from block means; 0 if config or extents are invalid.
template <class Exec>
[[nodiscard]] std::size_t golden_eviction_bytes(Exec exec, golden_config const& config, golden_means const& means) {
  if (!detail::check_golden(config, means).ok() || std::min(config.steps(means.tokens), means.blocks) == 0) return 0;
  return detail::golden_backend<Exec>::golden_eviction_bytes(exec, config, means);
}

/// Golden Eviction of one layer of one sequence from block means: any budget of at least the interval. It
/// stops where the blocks run out: min(config.steps(tokens), blocks) steps. Device: 2 launches for each part
/// of the KV heads that golden_eviction_bytes has room for; results have the host's bits.
///
/// Errors before anything is written: as `block_means`.
template <class Exec>
status golden_eviction(Exec exec, golden_config const& config, golden_means const& means, golden_output const& output,
                       workspace scratch) {
  if (auto const checked = detail::check_golden(config, means); !checked.ok()) return checked;
  if (std::min(config.steps(means.tokens), means.blocks) == 0) return {};
  auto const checked =
      detail::first_of(detail::check_buffer(means.data).at(argument::input), detail::check_golden_output(output),
                       detail::check_scratch(scratch, golden_eviction_bytes(exec, config, means)));
  if (!checked.ok()) return checked;
  return detail::golden_backend<Exec>::golden_eviction(exec, config, means, output, scratch);
}

}  // namespace foresightkv::inline v0
