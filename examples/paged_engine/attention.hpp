// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "paged_engine/kv_memory.hpp"

namespace paged_engine {

/// One token of each of some sequences, in one layer: its key and value join the end of the sequence's rows, and its
/// queries attend to all that is there then. A sequence stands in it once.
struct attention_step {
  pages cache{};
  std::int32_t const* slots = nullptr;  ///< [count]
  int count = 0;
  int layer = 0;
  float const* queries = nullptr;  ///< [count][query head][dim]
  float const* keys = nullptr;     ///< [count][kv head][dim]
  float const* values = nullptr;
  float* outputs = nullptr;  ///< [count][query head][dim]
};

/// Where it runs: host_attention, or kernel_attention of attention_kernels.hpp.
using attention = std::function<void(attention_step const&)>;

inline void append_token(attention_step const& step, int index) {
  fkv::cache_shape const shape = step.cache.shape();
  int const slot = step.slots[index], dim = shape.key_head_dim;
  for (int head = 0; head < shape.num_kv_heads; ++head) {
    fkv::row_index const row{step.layer, slot, head};
    int const place = step.cache.length(row), from = (index * shape.num_kv_heads + head) * dim;
    for (int d = 0; d < dim; ++d) {
      step.cache.key(row, place)[d] = step.keys[from + d];
      step.cache.value(row, place)[d] = step.values[from + d];
    }
  }
}

/// Softmax attention of one query over the first `tokens` slots of a row, wherever an eviction has put them: a query
/// sees everything that is cached, so that the order of slots does not matter.
inline void attend(pages const& cache, fkv::row_index row, int tokens, float const* query, float* output) {
  int const dim = cache.shape().key_head_dim;
  float const scale = 1.0f / std::sqrt(static_cast<float>(dim));
  std::vector<float> logits(static_cast<std::size_t>(tokens));
  float largest = -std::numeric_limits<float>::infinity();
  for (int slot = 0; slot < tokens; ++slot) {
    float const* const key = cache.key(row, slot);
    float product = 0.0f;
    for (int d = 0; d < dim; ++d) product += query[d] * key[d];
    logits[static_cast<std::size_t>(slot)] = product * scale;
    largest = std::max(largest, product * scale);
  }
  for (int d = 0; d < dim; ++d) output[d] = 0.0f;
  float total = 0.0f;
  for (int slot = 0; slot < tokens; ++slot) {
    float const weight = std::exp(logits[static_cast<std::size_t>(slot)] - largest);
    float const* const value = cache.value(row, slot);
    for (int d = 0; d < dim; ++d) output[d] += weight * value[d];
    total += weight;
  }
  for (int d = 0; d < dim; ++d) output[d] /= total;
}

inline void host_attention(attention_step const& step) {
  fkv::cache_shape const shape = step.cache.shape();
  int const heads = shape.num_kv_heads * shape.group;
  for (int i = 0; i < step.count; ++i) {
    append_token(step, i);
    for (int head = 0; head < heads; ++head) {
      fkv::row_index const row{step.layer, step.slots[i], head / shape.group};
      std::ptrdiff_t const place = (std::ptrdiff_t{i} * heads + head) * shape.key_head_dim;
      attend(step.cache, row, step.cache.length(row) + 1, step.queries + place, step.outputs + place);
    }
  }
}

}  // namespace paged_engine
