// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/kernels/block_context.hpp>
#include <foresightkv/detail/kernels/collectives.hpp>
#include <foresightkv/detail/kernels/tensor_tile.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// The lanes that share a token: a warp. Reductions have a fixed order and reach every lane with the same bits.
template <class Context>
struct warp_lanes {
  Context const& context;

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int lane() const { return context.rank() % warp_size; }

  template <class Term>
  FORESIGHTKV_HOST_DEVICE float sum(int count, Term const& term) const {
    float total = 0.0f;
    for (int i = lane(); i < count; i += warp_size) total += term(i);
    return warp_sum(context, total);
  }
  template <class Term>
  FORESIGHTKV_HOST_DEVICE float max(int count, Term const& term) const {
    float largest = count > 0 ? term(0) : 0.0f;
    for (int i = lane(); i < count; i += warp_size) {
      float const next = term(i);
      largest = next > largest ? next : largest;
    }
    return warp_max(context, largest);
  }
  FORESIGHTKV_HOST_DEVICE void store(float& target, float value) const {
    if (lane() == 0) target = value;
  }
};

/// The threads of a block as a scorer sees them: see detail::archetype::block. A block may own a part of a row's tokens
/// only; then for_each_token visits those, without a barrier, and no more can be asked of it.
template <class Context>
struct row_block {
  static constexpr int warps = Context::threads / warp_size;
  enum sync : int { visited = 32, visited_tokens, partial_written, partial_read };

  static constexpr int dims = 64;  // that the judge multiplies at a time

  struct shared {
    float partial[warps];
    tensor_memory<dims> common;
  };

  Context const& context;
  shared& memory;
  static constexpr int all = 0x7fffffff;
  int begin = 0;  // tokens that this block owns
  int end = all;

  template <class Body>
  FORESIGHTKV_HOST_DEVICE void for_each(int count, Body const& body) const {
    for (int i = context.rank(); i < count; i += Context::threads) body(i);
    context.sync(visited);
  }
  template <class Body>
  FORESIGHTKV_HOST_DEVICE void for_each_token(int count, Body const& body) const {
    warp_lanes<Context> const lanes{context};
    int const owned = end < count ? end : count;
    for (int i = begin + context.rank() / warp_size; i < owned; i += warps) body(lanes, i);
    if (end == all) context.sync(visited_tokens);
  }
  template <class Term>
  FORESIGHTKV_HOST_DEVICE float sum(int count, Term const& term) const {
    float total = 0.0f;
    for (int i = context.rank(); i < count; i += Context::threads) total += term(i);
    publish(warp_sum(context, total));
    total = 0.0f;
    for (int warp = 0; warp < warps; ++warp) total += memory.partial[warp];
    context.sync(partial_read);
    return total;
  }
  template <class Term>
  FORESIGHTKV_HOST_DEVICE float max(int count, Term const& term) const {
    float largest = count > 0 ? term(0) : 0.0f;
    for (int i = context.rank(); i < count; i += Context::threads) {
      float const next = term(i);
      largest = next > largest ? next : largest;
    }
    largest = warp_max(context, largest);
    publish(largest);
    for (int warp = 0; warp < warps; ++warp) largest = memory.partial[warp] > largest ? memory.partial[warp] : largest;
    context.sync(partial_read);
    return largest;
  }

 private:
  FORESIGHTKV_HOST_DEVICE void publish(float value) const {
    if (context.rank() % warp_size == 0) memory.partial[context.rank() / warp_size] = value;
    context.sync(partial_written);
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
