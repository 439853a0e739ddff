// SPDX-License-Identifier: Apache-2.0
#pragma once

// The fp32 kernels under observe, score and golden_eviction. isa.hpp says how to call them.

#include <cstddef>
#include <foresightkv/detail/host/packed_keys.hpp>
#include <type_traits>

namespace foresightkv::inline v0::detail::host {

// --- logits

/// One register tile: Rows queries against one panel.
template <class Isa, int Rows>
[[gnu::always_inline]] inline void logits_of_panel(float const* const* queries, float* const* out, int dim,
                                                   float const* panel) {
  constexpr int vectors = logits_tile<Isa>::vectors;
  typename Isa::floats sums[Rows][vectors] = {};
  for (int d = 0; d < dim; ++d, panel += panel_tokens<Isa>) {
    typename Isa::floats keys[vectors];
    unrolled<vectors>([&](auto v) __attribute__((always_inline)) { load<Isa>(panel + v * Isa::lanes, keys[v]); });
    unrolled<Rows>([&](auto row) __attribute__((always_inline)) {
      float const query = queries[row][d];
      unrolled<vectors>([&](auto v) __attribute__((always_inline)) { sums[row][v] += query * keys[v]; });
    });
  }
  unrolled<Rows>([&](auto row) __attribute__((always_inline)) {
    unrolled<vectors>([&](auto v)
                          __attribute__((always_inline)) { store<Isa>(sums[row][v], out[row] + v * Isa::lanes); });
  });
}

/// out[r * out_stride + i] = dot(query r, key i) in fp32, for r < count and i < padded(n) (0 beyond n).
///
/// queries: [count][dim], contiguous; packed: of `pack_keys`; out_stride >= padded(n). Any count and n >= 0,
/// any dim >= 1. A panel (AVX-512: dim x 48 floats) stays in the first-level cache while all queries pass
/// over it.
template <class Isa>
[[gnu::always_inline]] inline void logits(float const* queries, int count, int dim, float const* packed, int n,
                                          float* out, std::size_t out_stride) {
  constexpr int rows = logits_tile<Isa>::rows;
  float const* tile_queries[rows];
  float* tile_out[rows];
  for (int first = 0; first < padded<Isa>(n); first += panel_tokens<Isa>) {
    float const* const panel = packed + static_cast<std::ptrdiff_t>(first) * dim;
    for (int row = 0; row < count; row += rows) {
      for (int r = 0; r < rows; ++r) {  // beyond the last query, that one again: its values are stored twice
        int const clamped = row + r < count ? row + r : count - 1;
        tile_queries[r] = queries + static_cast<std::ptrdiff_t>(clamped) * dim;
        tile_out[r] = out + static_cast<std::size_t>(clamped) * out_stride + first;
      }
      if (row + rows / 2 < count) {
        logits_of_panel<Isa, rows>(tile_queries, tile_out, dim, panel);
      } else {
        logits_of_panel<Isa, rows / 2>(tile_queries, tile_out, dim, panel);
      }
    }
  }
}

// --- rows

/// Largest of x[0, n), n >= 1. NaN is passed over unless it is x[0].
template <class Isa>
[[gnu::always_inline]] inline float row_maximum(float const* x, int n) {
  constexpr int vectors = 4;
  typename Isa::floats largest[vectors] = {}, values;
  for (int v = 0; v < vectors; ++v) largest[v] += x[0];
  int i = 0;
  for (; i + vectors * Isa::lanes <= n; i += vectors * Isa::lanes) {
    unrolled<vectors>([&](auto v) __attribute__((always_inline)) {
      load<Isa>(x + i + v * Isa::lanes, values);
      largest[v] = values > largest[v] ? values : largest[v];
    });
  }
  float all[vectors * Isa::lanes];
  for (int v = 0; v < vectors; ++v) store<Isa>(largest[v], all + v * Isa::lanes);
  float result = x[0];
  for (float const value : all) result = value > result ? value : result;
  for (; i < n; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

/// x[0, n) *= factor.
template <class Isa>
[[gnu::always_inline]] inline void scale_row(float* x, int n, float factor) {
  transform_row<Isa>(
      x, n, [factor](auto& values) __attribute__((always_inline)) { values *= factor; });
}

/// x = exp2(x): relative error below 1.2e-7 on [-126, 127.5); a denormal or 0 below, exactly 0 below -126.5;
/// infinity from 127.5 up; integers are exact; NaN gives NaN or infinity. Under -ffast-math infinity may be
/// NaN, and NaN anything.
///
/// 2^i * p(f), i the nearest integer, p the minimax polynomial on [-1/2, 1/2] of degree 6 with p(0) = 1. i
/// comes from a truncating conversion: -ffast-math would fold the usual addition of a magic number.
template <class Isa>
[[gnu::always_inline]] inline void exp2_lanes(typename Isa::floats& x) {
  using floats = typename Isa::floats;
  using ints = typename Isa::ints;
  using bits = typename Isa::bits;
  floats const lowest = floats{} - 127.0f, highest = floats{} + 128.0f;
  x = lowest > x ? lowest : x;
  // As integers, floats above zero are ordered, too: one instruction; GCC's float minimum takes two.
  ints const ordered = reinterpret_cast<ints>(x), top = reinterpret_cast<ints>(highest);
  x = reinterpret_cast<floats>(ordered > top ? top : ordered);
  bits const exponent = reinterpret_cast<bits>(__builtin_convertvector(x + 127.5f, ints));  // 0 to 255
  floats const f = x - __builtin_convertvector(reinterpret_cast<ints>(exponent - 127u), floats);
  floats const square = f * f;  // Horner's rule would cost a fifth of the throughput: six steps in a row
  floats const low = f * 2.40226479e-1f + 6.93147203e-1f;
  floats const middle = f * 9.61843735e-3f + 5.55033247e-2f;
  floats const high = f * 1.5353363e-4f + 1.33988744e-3f;
  floats const p = f * (square * (square * high + middle) + low) + 1.0f;
  x = p * reinterpret_cast<floats>(exponent << 23);
}

/// Whether an exponent is so far out that its rounding makes more than a percent of a probability.
inline bool is_far(float exponent) {
  constexpr float limit = 1 << 17;
  return exponent < -limit || exponent > limit;
}

/// x = exp2(x * multiply - subtract) for x[0, n), in place, to the accuracy of `exp2_lanes`; returns the sum.
template <class Isa>
[[gnu::always_inline]] inline float exp2_row(float* x, int n, float multiply, float subtract) {
  typename Isa::floats sums = {}, values;
  int i = 0;
  for (; i + Isa::lanes <= n; i += Isa::lanes) {
    load<Isa>(x + i, values);
    values = values * multiply - subtract;
    exp2_lanes<Isa>(values);
    store<Isa>(values, x + i);
    sums += values;
  }
  if (i < n) {
    load_some<Isa>(x + i, n - i, values);
    values = values * multiply - subtract;
    exp2_lanes<Isa>(values);
    store_some<Isa>(values, n - i, x + i);
    load_some<Isa>(x + i, n - i, values);
    sums += values;
  }
  return sum_of_lanes<Isa>(sums);
}

/// x = GELU(x) = x * Phi(x), the exact (erf) form, to 1.1e-7 * max(1, |x|).
///
/// Phi(-a) = 2^(-1 - a q(a)) for a = |x|, q the minimax polynomial of degree 9 on [0, 6], held at q(6)
/// beyond: there Phi(-a) is below 1e-9, and goes on to fall to 0. The lower tail keeps its relative accuracy.
template <class Isa>
[[gnu::always_inline]] inline void gelu_lanes(typename Isa::floats& x) {
  using floats = typename Isa::floats;
  floats const zero = {}, top = zero + 6.0f;
  floats const a = x < zero ? -x : x;
  floats const t = a > top ? top : a;
  floats q = t * 2.6993125896e-8f - 8.1465323127e-7f;
  q = q * t + 1.05163542796e-5f;
  q = q * t - 7.38968113452e-5f;
  q = q * t + 2.70847639600e-4f;
  q = q * t + 1.86587318875e-5f;
  q = q * t - 6.97028096358e-3f;
  q = q * t + 5.24572765799e-2f;
  q = q * t + 4.59215681538e-1f;
  q = q * t + 1.151104739172f;
  floats tail = -1.0f - a * q;
  exp2_lanes<Isa>(tail);
  x *= x < zero ? tail : 1.0f - tail;
}

/// x = GELU(x) for x[0, n), in place, to the accuracy of `gelu_lanes`.
template <class Isa>
[[gnu::always_inline]] inline void gelu_row(float* x, int n) {
  transform_row<Isa>(
      x, n, [](auto& values) __attribute__((always_inline)) { gelu_lanes<Isa>(values); });
}

// --- the judge's dense layer

/// Width of the judge's hidden layer.
inline constexpr int dense_width = 16;

/// Tokens in the register tile of `dense_accumulate`.
template <class Isa>
inline constexpr int dense_tokens = std::is_same_v<Isa, isa_avx512> ? 8
                                    : std::is_same_v<Isa, isa_avx2> ? 6
                                                                    : 2;

/// hidden[t][u] += sum over i of inputs[t][i] * weights[i][u], for t < tokens, i < count, u < dense_width.
///
/// inputs: one pointer per token to `count` contiguous floats; weights: [count][16]; hidden: [tokens][16],
/// both contiguous, at any alignment. Any tokens >= 0 and count >= 0; multiples of 8 are best.
template <class Isa>
[[gnu::always_inline]] inline void dense_accumulate(float const* const* inputs, int tokens, int count,
                                                    float const* weights, float* hidden) {
  constexpr int tile = dense_tokens<Isa>;
  constexpr int vectors = dense_width / Isa::lanes;
  using floats = typename Isa::floats;
  for (int first = 0; first < tokens; first += tile) {
    float const* rows[tile];
    float* out[tile];
    floats sums[tile][vectors];
    for (int t = 0; t < tile; ++t) {  // beyond the last token, that one again: its values are stored twice
      int const clamped = first + t < tokens ? first + t : tokens - 1;
      rows[t] = inputs[clamped];
      out[t] = hidden + static_cast<std::ptrdiff_t>(clamped) * dense_width;
    }
    unrolled<tile * vectors>([&](auto i) __attribute__((always_inline)) {
      load<Isa>(out[i / vectors] + i % vectors * Isa::lanes, sums[i / vectors][i % vectors]);
    });
    for (int i = 0; i < count; ++i) {
      floats unit_weights[vectors];
      unrolled<vectors>([&](auto v) __attribute__((always_inline)) {
        load<Isa>(weights + static_cast<std::ptrdiff_t>(i) * dense_width + v * Isa::lanes, unit_weights[v]);
      });
      unrolled<tile>([&](auto t) __attribute__((always_inline)) {
        float const value = rows[t][i];
        unrolled<vectors>([&](auto v) __attribute__((always_inline)) { sums[t][v] += value * unit_weights[v]; });
      });
    }
    unrolled<tile * vectors>([&](auto i) __attribute__((always_inline)) {
      store<Isa>(sums[i / vectors][i % vectors], out[i / vectors] + i % vectors * Isa::lanes);
    });
  }
}

}  // namespace foresightkv::inline v0::detail::host
