// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/host/attention.hpp>

namespace foresightkv::inline v0::detail::host {

/// The kernels of attention.hpp behind calls. Each enters its instruction set by itself and is compiled once per
/// instruction set and translation unit; inlined, the compiler would optimise the same loops again in every policy.
template <class Isa>
struct kernels {
  /// As pack_keys, from pointers to the tokens' elements.
  template <class Element>
  [[gnu::noinline]] static void pack(Element const* const* keys, int n, int dim, float* packed) {
    with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
      pack_keys<decltype(isa)>(
          [&](int i) __attribute__((always_inline)) { return keys[i]; }, n, dim, packed);
    });
  }
  [[gnu::noinline]] static void scale_packed(float const* scales, int n, int dim, float* packed) {
    with_isa<Isa>([&](auto isa)
                      __attribute__((always_inline)) { scale_packed_keys<decltype(isa)>(scales, n, dim, packed); });
  }
  template <class Element>
  [[gnu::noinline]] static void widen(Element const* from, int count, float* out) {
    with_isa<Isa>([&](auto isa) __attribute__((always_inline)) { host::widen<decltype(isa)>(from, count, out); });
  }
  [[gnu::noinline]] static void logits(float const* queries, int count, int dim, float const* packed, int n, float* out,
                                       std::size_t out_stride) {
    with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
      host::logits<decltype(isa)>(queries, count, dim, packed, n, out, out_stride);
    });
  }
  [[gnu::noinline]] static float maximum(float const* x, int n) {
    return with_isa<Isa>([&](auto isa) __attribute__((always_inline)) { return row_maximum<decltype(isa)>(x, n); });
  }
  [[gnu::noinline]] static float exp2(float* x, int n, float multiply, float subtract) {
    return with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
      return exp2_row<decltype(isa)>(x, n, multiply, subtract);
    });
  }
  [[gnu::noinline]] static void scale(float* x, int n, float factor) {
    with_isa<Isa>([&](auto isa) __attribute__((always_inline)) { scale_row<decltype(isa)>(x, n, factor); });
  }
  [[gnu::noinline]] static void gelu(float* x, int n) {
    with_isa<Isa>([&](auto isa) __attribute__((always_inline)) { gelu_row<decltype(isa)>(x, n); });
  }
  [[gnu::noinline]] static void dense(float const* const* inputs, int tokens, int count, float const* weights,
                                      float* hidden) {
    with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
      dense_accumulate<decltype(isa)>(inputs, tokens, count, weights, hidden);
    });
  }
};

}  // namespace foresightkv::inline v0::detail::host
