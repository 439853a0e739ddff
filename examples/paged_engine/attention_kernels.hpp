// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <foresightkv/detail/kernels/block_context.hpp>
#include <limits>
#include <stdexcept>
#include <string>

#include "paged_engine/attention.hpp"
#include "paged_engine/completed.hpp"

namespace paged_engine {

// The engine's own two kernels, as bodies over a block context: compiled for a device, and for emulated blocks.

inline constexpr float no_logit = -std::numeric_limits<float>::infinity();  // device code cannot ask for it

/// Keys and values join their rows. A block per sequence of the step.
struct append_kernel {
  static constexpr int threads = 64;

  attention_step step{};

  template <class Context>
  struct shared {};

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>&) const {
    fkv::cache_shape const shape = step.cache.shape();
    int const dim = shape.key_head_dim, elements = shape.num_kv_heads * dim;
    for (int i = c.rank(); i < elements; i += threads) {
      fkv::row_index const row{step.layer, step.slots[c.block()], i / dim};
      int const place = step.cache.length(row);
      step.cache.key(row, place)[i % dim] = step.keys[c.block() * elements + i];
      step.cache.value(row, place)[i % dim] = step.values[c.block() * elements + i];
    }
  }
};

/// One query over its row, tile by tile with a running maximum. A block per sequence of the step and query head; in a
/// tile a thread has a token's logit, then a dimension of the output.
struct attention_kernel {
  static constexpr int threads = 128;  ///< at least the head dimension
  enum sync : int { logits_written, logits_read };

  attention_step step{};

  template <class Context>
  struct shared {
    float logits[threads];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    fkv::cache_shape const shape = step.cache.shape();
    int const heads = shape.num_kv_heads * shape.group, dim = shape.key_head_dim, d = c.rank();
    fkv::row_index const row{step.layer, step.slots[c.block() / heads], c.block() % heads / shape.group};
    int const tokens = step.cache.length(row) + 1;
    float largest = no_logit, total = 0.0f, sum = 0.0f;
    for (int first = 0; first < tokens; first += threads) {
      int const count = tokens - first < threads ? tokens - first : threads;
      if (c.rank() < count) memory.logits[c.rank()] = logit(row, first + c.rank(), c.block() * dim);
      c.sync(logits_written);
      float const before = largest;
      for (int i = 0; i < count; ++i) largest = memory.logits[i] > largest ? memory.logits[i] : largest;
      float const kept = std::exp(before - largest);
      total *= kept;
      sum *= kept;
      for (int i = 0; d < dim && i < count; ++i) {
        float const weight = std::exp(memory.logits[i] - largest);
        total += weight;
        sum += weight * step.cache.value(row, first + i)[d];
      }
      c.sync(logits_read);
    }
    if (d < dim) step.outputs[c.block() * dim + d] = sum / total;
  }

 private:
  FORESIGHTKV_HOST_DEVICE float logit(fkv::row_index row, int slot, int query) const {
    int const dim = step.cache.shape().key_head_dim;
    float const* const key = step.cache.key(row, slot);
    float product = 0.0f;
    for (int d = 0; d < dim; ++d) product += step.queries[query + d] * key[d];
    return product / std::sqrt(static_cast<float>(dim));
  }
};

/// Attention by kernels. What a step points to is memory of that backend.
template <class Exec>
[[nodiscard]] attention kernel_attention(Exec exec) {
  return [exec](attention_step const& step) {
    fkv::cache_shape const shape = step.cache.shape();
    if (shape.key_head_dim > attention_kernel::threads) throw std::invalid_argument("the head dimension is too large");
    using launcher = fkv::detail::kernels::launcher<Exec>;
    int const queries = step.count * shape.num_kv_heads * shape.group;
    fkv::status done = launcher::run(exec, step.count, append_kernel{step});
    if (done.ok()) done = completed(exec, launcher::run(exec, queries, attention_kernel{step}));
    if (!done.ok()) throw std::runtime_error("a kernel of the engine: " + text(done));
  };
}

}  // namespace paged_engine
