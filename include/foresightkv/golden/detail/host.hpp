// SPDX-License-Identifier: Apache-2.0
#pragma once

// Block means of causal attention, streaming: one pass over Q K^T, never a T x T matrix.
//
// A task is one (KV head, query block). It walks tiles of about 32 rows (all query heads of a few positions)
// and, in each, chunks of keys up to the diagonal. A chunk is exponentiated while it is in cache, against the
// row's largest logit so far; when the row's end is known, that is corrected by one weight per (row, chunk)
// as the chunk is added to the block's sums. The order of additions depends on shapes alone, never on
// threads.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <foresightkv/detail/host/attention.hpp>
#include <foresightkv/detail/host/parallel.hpp>
#include <foresightkv/element.hpp>
#include <foresightkv/workspace.hpp>

namespace foresightkv::inline v0::detail::host {

/// Vectors of one array [head][token][dim]: data + head * head_stride + token * token_stride.
template <class Element>
struct token_vectors {
  Element const* data = nullptr;
  std::int64_t head_stride = 0;
  std::int64_t token_stride = 0;

  [[nodiscard]] Element const* at(std::int64_t head, std::int64_t token) const {
    return data + head * head_stride + token * token_stride;
  }
};

/// What block_means computes, without the types of its arrays.
struct block_means_plan {
  /// Keys per chunk, whole panels of every instruction set: 32 rows of logits are 123 KB.
  static constexpr int chunk = 960;
  static constexpr int tile = 32;

  int kv_heads = 0;
  int group = 0;
  int tokens = 0;
  int head_dim = 0;
  int interval = 0;
  int first_block = 0;
  int blocks = 0;
  bool head_maximum = false;   // heads are reduced by maximum, else by mean
  bool full_interval = false;  // a partial block is divided by the interval too
  bool lse_given = false;
  float multiply = 0.0f;    // base-2 exponent per unit of dot product
  float lse_to_two = 0.0f;  // from the base of the given log-sum-exp to base 2

  [[nodiscard]] constexpr int chunks() const { return (tokens - 1) / chunk + 1; }
  [[nodiscard]] constexpr int tile_positions() const { return std::max(1, tile / group); }
  [[nodiscard]] constexpr int tile_rows() const { return tile_positions() * group; }
  [[nodiscard]] constexpr int num_sums() const { return head_maximum ? group : 1; }
  [[nodiscard]] constexpr std::size_t sum_stride() const {
    return static_cast<std::size_t>(chunks()) * static_cast<std::size_t>(chunk);
  }
  [[nodiscard]] constexpr std::size_t packed_stride() const {
    auto const padded_tokens = std::int64_t{tokens} + panel_tokens<isa_avx512>;
    return static_cast<std::size_t>(padded_tokens * head_dim);
  }
};

static_assert(block_means_plan::chunk % panel_tokens<isa_baseline> == 0 &&
              block_means_plan::chunk % panel_tokens<isa_avx2> == 0 &&
              block_means_plan::chunk % panel_tokens<isa_avx512> == 0);

/// Memory of one thread.
struct block_means_scratch {
  float* queries = nullptr;     // [tile_rows][head_dim]
  float* numerators = nullptr;  // [chunks][tile_rows][chunk], one chunk if the log-sum-exp is given
  float* references = nullptr;  // [chunks][tile_rows] what each chunk's exponents were reduced by
  float* maxima = nullptr;      // [tile_rows] so far, in base 2
  float* totals = nullptr;      // [tile_rows] sum of exponentials, relative to maxima
  float* weights = nullptr;     // [tile_rows]
  float* sums = nullptr;        // [num_sums][sum_stride]

  static block_means_scratch take(arena& memory, block_means_plan const& plan) {
    auto const rows = static_cast<std::size_t>(plan.tile_rows());
    auto const chunks = static_cast<std::size_t>(plan.chunks());
    block_means_scratch scratch;
    scratch.queries = memory.take<float>(rows * static_cast<std::size_t>(plan.head_dim));
    scratch.numerators = memory.take<float>((plan.lse_given ? 1 : chunks) * rows * block_means_plan::chunk);
    scratch.references = memory.take<float>(chunks * rows);
    scratch.maxima = memory.take<float>(rows);
    scratch.totals = memory.take<float>(rows);
    scratch.weights = memory.take<float>(rows);
    scratch.sums = memory.take<float>(static_cast<std::size_t>(plan.num_sums()) * plan.sum_stride());
    return scratch;
  }
};

/// sums[i] += weights[r] * rows[r * stride + i] over all r, for i < n, a multiple of the vector length.
template <class Isa>
[[gnu::always_inline]] inline void add_weighted_rows(float const* rows, std::size_t stride, float const* weights,
                                                     int count, int n, float* sums) {
  constexpr int together = 4;  // rows per pass over the sums
  for (int r = 0; r < count; r += together) {
    float const* from[together];
    float weight[together];
    for (int i = 0; i < together; ++i) {  // beyond the last row, that one again with weight 0: its entries are finite
      bool const there = r + i < count;
      from[i] = rows + static_cast<std::size_t>(there ? r + i : count - 1) * stride;
      weight[i] = there ? weights[r + i] : 0.0f;
    }
    for (int i = 0; i < n; i += Isa::lanes) {
      typename Isa::floats total;
      load<Isa>(sums + i, total);
      unrolled<together>([&](auto row) __attribute__((always_inline)) {
        typename Isa::floats values;
        load<Isa>(from[row] + i, values);
        total += weight[row] * values;
      });
      store<Isa>(total, sums + i);
    }
  }
}

/// One tile: the rows j * positions + i are query head j at position first + i.
struct query_tile {
  int first = 0;
  int positions = 0;
  int group = 0;

  [[nodiscard]] int rows() const { return positions * group; }
  [[nodiscard]] int end() const { return first + positions; }
  [[nodiscard]] int position(int row) const { return first + row % positions; }
};

template <class Isa>
[[gnu::always_inline]] inline void add_chunk(block_means_plan const& plan, query_tile const& tile,
                                             block_means_scratch const& scratch, float const* numerators, int begin,
                                             int n) {
  for (int sum = 0; sum < plan.num_sums(); ++sum) {
    int const row = sum * tile.positions;
    int const count = plan.head_maximum ? tile.positions : tile.rows();
    add_weighted_rows<Isa>(numerators + static_cast<std::size_t>(row) * block_means_plan::chunk,
                           block_means_plan::chunk, scratch.weights + row, count, n,
                           scratch.sums + static_cast<std::size_t>(sum) * plan.sum_stride() + begin);
  }
}

/// 2^difference; a row's largest logit seldom changes from chunk to chunk.
inline float rescaling(float difference) { return difference == 0.0f ? 1.0f : std::exp2(difference); }

/// Exponentials of the first n logits of one row's chunk relative to its largest logit so far, which it
/// returns.
template <class Isa>
[[gnu::always_inline]] inline float exponentiate(float* x, int n, float multiply, float& maximum, float& total) {
  float const largest = row_maximum<Isa>(x, n) * multiply;
  float const reference = largest > maximum ? largest : maximum;
  bool const far = is_far(reference);
  if (far) scale_row<Isa>(x, n, multiply);  // rounded as the reference was, so that no exponent is above 0
  total = total * rescaling(maximum - reference) + exp2_row<Isa>(x, n, far ? 1.0f : multiply, reference);
  maximum = reference;
  return reference;
}

/// Weights of one chunk's rows once their totals are known; a masked row's entries are cleared, as they may
/// be NaN.
inline void weigh_chunk(query_tile const& tile, block_means_scratch const& scratch, float const* references,
                        float* numerators, int n) {
  for (int row = 0; row < tile.rows(); ++row) {
    float const total = scratch.totals[row];
    bool const masked = !is_finite(total) || !is_finite(scratch.maxima[row]) || !(total > 0.0f);
    scratch.weights[row] = masked ? 0.0f : rescaling(references[row] - scratch.maxima[row]) / total;
    if (masked) std::fill_n(numerators + static_cast<std::size_t>(row) * block_means_plan::chunk, n, 0.0f);
  }
}

/// Adds the softmax rows of one tile to the block's sums.
template <class Isa, class Query>
[[gnu::always_inline]] inline void add_tile(block_means_plan const& plan, token_vectors<Query> const& queries,
                                            token_vectors<float> const& lse, int kv_head, query_tile const& tile,
                                            float const* packed, block_means_scratch const& scratch) {
  constexpr int chunk = block_means_plan::chunk;
  auto const rows = static_cast<std::size_t>(tile.rows());
  auto const first_head = std::int64_t{kv_head} * plan.group;
  for (int row = 0; row < tile.rows(); ++row) {
    auto const head = first_head + row / tile.positions;
    widen<Isa>(queries.at(head, tile.position(row)), plan.head_dim,
               scratch.queries + static_cast<std::ptrdiff_t>(row) * plan.head_dim);
    scratch.weights[row] = 1.0f;
    scratch.totals[row] = 0.0f;
    scratch.maxima[row] =  // finite, so that a chunk of nothing but -inf subtracts no infinity
        plan.lse_given ? *lse.at(head, tile.position(row)) * plan.lse_to_two : std::numeric_limits<float>::lowest();
  }
  for (int index = 0, begin = 0; begin < tile.end(); ++index, begin += chunk) {
    int const n = std::min(chunk, tile.end() - begin);
    auto const stored = plan.lse_given ? 0 : static_cast<std::size_t>(index);
    float* const numerators = scratch.numerators + stored * rows * chunk;
    float* const references = scratch.references + stored * rows;
    logits<Isa>(scratch.queries, tile.rows(), plan.head_dim,
                packed + static_cast<std::ptrdiff_t>(begin) * plan.head_dim, n, numerators, chunk);
    for (int row = 0; row < tile.rows(); ++row) {
      float* const x = numerators + static_cast<std::size_t>(row) * chunk;
      int visible = std::clamp(tile.position(row) + 1 - begin, 0, n);
      references[row] = scratch.maxima[row];
      if (plan.lse_given) {
        if (!is_finite(scratch.maxima[row])) visible = 0;
        if (visible > 0) (void)exp2_row<Isa>(x, visible, plan.multiply, scratch.maxima[row]);
      } else if (visible > 0) {
        references[row] = exponentiate<Isa>(x, visible, plan.multiply, scratch.maxima[row], scratch.totals[row]);
      }
      std::fill(x + visible, x + padded<Isa>(n), 0.0f);
    }
    if (plan.lse_given) add_chunk<Isa>(plan, tile, scratch, numerators, begin, padded<Isa>(n));
  }
  if (plan.lse_given) return;
  for (int index = 0, begin = 0; begin < tile.end(); ++index, begin += chunk) {
    int const n = padded<Isa>(std::min(chunk, tile.end() - begin));
    float* const numerators = scratch.numerators + static_cast<std::size_t>(index) * rows * chunk;
    weigh_chunk(tile, scratch, scratch.references + static_cast<std::size_t>(index) * rows, numerators, n);
    add_chunk<Isa>(plan, tile, scratch, numerators, begin, n);
  }
}

/// Block means of future block `block` of one KV head: out[tokens], zero beyond the block's last query.
template <class Isa, class Query>
[[gnu::always_inline]] inline void block_means_row(block_means_plan const& plan, token_vectors<Query> const& queries,
                                                   token_vectors<float> const& lse, int kv_head, int block,
                                                   float const* packed, block_means_scratch const& scratch,
                                                   float* out) {
  int const begin = (plan.first_block + block) * plan.interval;
  int const rows = std::min(plan.interval, plan.tokens - begin);
  int const end = begin + rows;
  std::fill_n(scratch.sums, static_cast<std::size_t>(plan.num_sums()) * plan.sum_stride(), 0.0f);
  for (int first = begin; first < end; first += plan.tile_positions())
    add_tile<Isa>(plan, queries, lse, kv_head, {first, std::min(plan.tile_positions(), end - first), plan.group},
                  packed, scratch);

  float divisor = static_cast<float>(plan.full_interval ? plan.interval : rows);
  if (!plan.head_maximum) divisor *= static_cast<float>(plan.group);
  for (int k = 0; k < end; ++k) {
    float total = scratch.sums[k];
    for (int j = 1; j < plan.num_sums(); ++j)
      total =
          std::max(total, scratch.sums[static_cast<std::size_t>(j) * plan.sum_stride() + static_cast<std::size_t>(k)]);
    out[k] = total / divisor;
  }
  std::fill(out + end, out + plan.tokens, 0.0f);
}

/// KV heads that are worked on together: enough blocks for every thread, no more memory than that needs.
inline int heads_together(block_means_plan const& plan, int threads) {
  if (plan.blocks == 0) return 1;
  auto const wanted = (8 * std::int64_t{threads} + plan.blocks - 1) / plan.blocks;
  return static_cast<int>(std::min<std::int64_t>(threads == 1 ? 1 : wanted, plan.kv_heads));
}

/// Packed keys, one chunk per task.
template <class Key>
void pack_heads(block_means_plan const& plan, token_vectors<Key> const& keys, int first_head, int heads, int threads,
                float* packed) {
  parallel_for(threads, heads * plan.chunks(), [&](int task, int) {
    int const head = task / plan.chunks();
    int const begin = task % plan.chunks() * block_means_plan::chunk;
    float* const to = packed + static_cast<std::size_t>(head) * plan.packed_stride() +
                      static_cast<std::size_t>(begin) * static_cast<std::size_t>(plan.head_dim);
    with_best_isa([&](auto isa) __attribute__((always_inline)) {
      pack_keys<decltype(isa)>([&](int i) { return keys.at(first_head + head, begin + i); },
                               std::min(block_means_plan::chunk, plan.tokens - begin), plan.head_dim, to);
    });
  });
}

/// Block means of `heads` KV heads from first_head on, rows at row_of(head, block); the longest blocks go
/// first.
template <class Query, class RowOf>
void block_means_heads(block_means_plan const& plan, token_vectors<Query> const& queries,
                       token_vectors<float> const& lse, int first_head, int heads, int threads, float const* packed,
                       block_means_scratch const* scratch, RowOf const& row_of) {
  parallel_for(threads, heads * plan.blocks, [&](int task, int thread) {
    int const head = task % heads;
    int const block = plan.blocks - 1 - task / heads;
    with_best_isa([&](auto isa) __attribute__((always_inline)) {
      block_means_row<decltype(isa)>(plan, queries, lse, first_head + head, block,
                                     packed + static_cast<std::size_t>(head) * plan.packed_stride(), scratch[thread],
                                     row_of(head, block));
    });
  });
}

}  // namespace foresightkv::inline v0::detail::host
