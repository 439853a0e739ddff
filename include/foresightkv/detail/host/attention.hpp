// SPDX-License-Identifier: Apache-2.0
#pragma once

// The fp32 kernels under observe, score and golden_eviction. isa.hpp says how to call them.

#include <cstddef>
#include <type_traits>
#include <utility>

#include <foresightkv/detail/host/isa.hpp>
#include <foresightkv/element.hpp>

namespace foresightkv::inline v0::detail::host {

// --- vectors
// -------------------------------------------------------------------------------------------------

template <class Isa>
[[gnu::always_inline]] inline void load(float const* from, typename Isa::floats& to) {
  to = reinterpret_cast<unaligned<typename Isa::floats> const*>(from)->value;
}

template <class Isa>
[[gnu::always_inline]] inline void store(typename Isa::floats const& from, float* to) {
  reinterpret_cast<unaligned<typename Isa::floats>*>(to)->value = from;
}

/// The first count < lanes values, zero behind them.
template <class Isa>
[[gnu::always_inline]] inline void load_some(float const* from, int count, typename Isa::floats& to) {
  float all[Isa::lanes] = {};
  for (int i = 0; i < count; ++i) all[i] = from[i];
  load<Isa>(all, to);
}

template <class Isa>
[[gnu::always_inline]] inline void store_some(typename Isa::floats const& from, int count, float* to) {
  float all[Isa::lanes];
  store<Isa>(from, all);
  for (int i = 0; i < count; ++i) to[i] = all[i];
}

template <class Isa>
[[gnu::always_inline]] inline float sum_of_lanes(typename Isa::floats const& x) {
  float all[Isa::lanes];
  store<Isa>(x, all);
  for (int width = Isa::lanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) all[i] += all[i + width];
  return all[0];
}

/// Calls f(integral_constant<int, 0>), ..., f(<Count - 1>): a tile of accumulators lives in registers only if
/// every index is a constant, and a loop is not sure to be unrolled.
template <int Count, class Function>
[[gnu::always_inline]] inline void unrolled(Function&& function) {
  [&]<int... Index>(std::integer_sequence<int, Index...>) __attribute__((always_inline)) {
    (function(std::integral_constant<int, Index>{}), ...);
  }
  (std::make_integer_sequence<int, Count>{});
}

/// x[0, n) = f(x), vector by vector; what lies at n and beyond is neither read nor written.
template <class Isa, class Function>
[[gnu::always_inline]] inline void transform_row(float* x, int n, Function const& function) {
  typename Isa::floats values;
  int i = 0;
  for (; i + Isa::lanes <= n; i += Isa::lanes) {
    load<Isa>(x + i, values);
    function(values);
    store<Isa>(values, x + i);
  }
  if (i == n) return;
  load_some<Isa>(x + i, n - i, values);
  function(values);
  store_some<Isa>(values, n - i, x + i);
}

// --- packed keys
// ---------------------------------------------------------------------------------------------

/// Register tile of `logits`: `rows` queries times `vectors` vectors of keys (AVX-512: 24 of 32 registers are
/// sums, AVX2: 12 of 16). Measured on Zen 5 against an FMA loop in registers: more than 95 % of its peak.
template <class Isa>
struct logits_tile {
  static constexpr int rows = std::is_same_v<Isa, isa_avx512> ? 8 : 4;
  static constexpr int vectors = std::is_same_v<Isa, isa_baseline> ? 2 : 3;
};

template <class Isa>
inline constexpr int panel_tokens = logits_tile<Isa>::vectors* Isa::lanes;

/// n rounded up to whole panels.
template <class Isa>
constexpr int padded(int n) {
  return (n + panel_tokens<Isa> - 1) / panel_tokens<Isa> * panel_tokens<Isa>;
}

/// Floats that `pack_keys` writes.
template <class Isa>
constexpr std::size_t packed_floats(int n, int dim) {
  return static_cast<std::size_t>(padded<Isa>(n)) * static_cast<std::size_t>(dim);
}

/// The fp32 bits of `lanes` binary16, e4m3 or e5m2 numbers: element_traits::load, on vectors.
template <class Isa, class Format, int FirstSpecial>
[[gnu::always_inline]] inline void widen_narrow(typename Isa::bits const& narrow, typename Isa::floats& out) {
  using bits = typename Isa::bits;
  constexpr float unit = Format::smallest_denormal;
  bits const magnitude = narrow & Format::magnitude_mask;
  auto const comparable = reinterpret_cast<typename Isa::ints>(magnitude);  // signed: SSE and AVX2 have only that
  auto const denormal = reinterpret_cast<bits>(__builtin_convertvector(comparable, typename Isa::floats) * unit);
  bits const shifted = magnitude << Format::dropped;
  bits const finite = comparable < (1 << Format::mantissa) ? denormal : shifted + Format::rebias;
  bits const wide = comparable >= FirstSpecial ? shifted | float_infinity_bits : finite;
  bits const sign = (narrow & (Format::magnitude_mask + 1u)) << Format::sign_shift;
  out = reinterpret_cast<typename Isa::floats>(sign | wide);
}

/// out = float(from[0, lanes)).
template <class Isa, element Element>
[[gnu::always_inline]] inline void widen_lanes(Element const* from, typename Isa::floats& out) {
  using layout = typename layout_of<Element>::type;
  using bits = typename Isa::bits;
  if constexpr (std::is_same_v<layout, float>) {
    load<Isa>(reinterpret_cast<float const*>(from), out);
  } else if constexpr (std::is_same_v<layout, bfloat16> || std::is_same_v<layout, half>) {
    using shorts = typename Isa::shorts;
    auto const narrow = __builtin_convertvector(reinterpret_cast<unaligned<shorts> const*>(from)->value, bits);
    if constexpr (std::is_same_v<layout, bfloat16>) {
      out = reinterpret_cast<typename Isa::floats>(narrow << 16);
    } else {
      widen_narrow<Isa, narrow_format<5, 10>, 0x7c00>(narrow, out);
    }
  } else if constexpr (std::is_same_v<layout, float8_e4m3> || std::is_same_v<layout, float8_e5m2>) {
    using bytes = typename Isa::bytes;
    auto const narrow = __builtin_convertvector(reinterpret_cast<unaligned<bytes> const*>(from)->value, bits);
    if constexpr (std::is_same_v<layout, float8_e4m3>) {
      widen_narrow<Isa, narrow_format<4, 3>, 0x7f>(narrow, out);
    } else {
      widen_narrow<Isa, narrow_format<5, 2>, 0x7c>(narrow, out);
    }
  } else if constexpr (std::is_same_v<layout, std::int8_t>) {
    using bytes = typename Isa::bytes;
    auto const narrow = __builtin_convertvector(reinterpret_cast<unaligned<bytes> const*>(from)->value, bits);
    auto const number = reinterpret_cast<typename Isa::ints>((narrow ^ 0x80u) - 0x80u);
    out = __builtin_convertvector(number, typename Isa::floats);
  } else {
    float wide[Isa::lanes];
    for (int i = 0; i < Isa::lanes; ++i) wide[i] = element_traits<Element>::load(from[i]);
    load<Isa>(wide, out);
  }
}

/// out[i] = float(from[i]) for i < count. The two must not overlap.
template <class Isa, element Element>
[[gnu::always_inline]] inline void widen(Element const* from, int count, float* out) {
  int i = 0;
  for (; i + Isa::lanes <= count; i += Isa::lanes) {
    typename Isa::floats values;
    widen_lanes<Isa>(from + i, values);
    store<Isa>(values, out + i);
  }
  for (; i < count; ++i) out[i] = element_traits<Element>::load(from[i]);
}

// Transposes the 4 x 4 block in each 16-byte lane of four vectors.
[[gnu::always_inline]] inline void transpose_blocks(isa_baseline::floats (&x)[4]) {
  auto const a = __builtin_shufflevector(x[0], x[1], 0, 4, 1, 5);
  auto const b = __builtin_shufflevector(x[0], x[1], 2, 6, 3, 7);
  auto const c = __builtin_shufflevector(x[2], x[3], 0, 4, 1, 5);
  auto const d = __builtin_shufflevector(x[2], x[3], 2, 6, 3, 7);
  x[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
  x[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
  x[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
  x[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}

[[gnu::always_inline]] inline void transpose_blocks(isa_avx2::floats (&x)[4]) {
  auto const a = __builtin_shufflevector(x[0], x[1], 0, 8, 1, 9, 4, 12, 5, 13);
  auto const b = __builtin_shufflevector(x[0], x[1], 2, 10, 3, 11, 6, 14, 7, 15);
  auto const c = __builtin_shufflevector(x[2], x[3], 0, 8, 1, 9, 4, 12, 5, 13);
  auto const d = __builtin_shufflevector(x[2], x[3], 2, 10, 3, 11, 6, 14, 7, 15);
  x[0] = __builtin_shufflevector(a, c, 0, 1, 8, 9, 4, 5, 12, 13);
  x[1] = __builtin_shufflevector(a, c, 2, 3, 10, 11, 6, 7, 14, 15);
  x[2] = __builtin_shufflevector(b, d, 0, 1, 8, 9, 4, 5, 12, 13);
  x[3] = __builtin_shufflevector(b, d, 2, 3, 10, 11, 6, 7, 14, 15);
}

[[gnu::always_inline]] inline void transpose_blocks(isa_avx512::floats (&x)[4]) {
  auto const a = __builtin_shufflevector(x[0], x[1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
  auto const b = __builtin_shufflevector(x[0], x[1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  auto const c = __builtin_shufflevector(x[2], x[3], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
  auto const d = __builtin_shufflevector(x[2], x[3], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  x[0] = __builtin_shufflevector(a, c, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
  x[1] = __builtin_shufflevector(a, c, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  x[2] = __builtin_shufflevector(b, d, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
  x[3] = __builtin_shufflevector(b, d, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
}

// Four floats of rows[0], rows[4], rows[8], ... side by side.
[[gnu::always_inline]] inline void load_blocks(float const* const* rows, int d, isa_baseline::floats& x) {
  load<isa_baseline>(rows[0] + d, x);
}

[[gnu::always_inline]] inline void load_blocks(float const* const* rows, int d, isa_avx2::floats& x) {
  isa_baseline::floats low, high;
  load<isa_baseline>(rows[0] + d, low);
  load<isa_baseline>(rows[4] + d, high);
  x = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
}

[[gnu::always_inline]] inline void load_blocks(float const* const* rows, int d, isa_avx512::floats& x) {
  isa_avx2::floats low, high;
  load_blocks(rows, d, low);
  load_blocks(rows + 8, d, high);
  x = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

/// column[d][0, lanes) = rows[0, lanes)[d] for d < dims; consecutive d lie panel_tokens floats apart.
template <class Isa>
[[gnu::always_inline]] inline void transpose_rows(float const* const* rows, int dims, float* column) {
  int d = 0;
  for (; d + 4 <= dims; d += 4, column += 4 * panel_tokens<Isa>) {
    typename Isa::floats x[4];
    unrolled<4>([&](auto i) __attribute__((always_inline)) { load_blocks(rows + i, d, x[i]); });
    transpose_blocks(x);
    unrolled<4>([&](auto i) __attribute__((always_inline)) { store<Isa>(x[i], column + i * panel_tokens<Isa>); });
  }
  for (; d < dims; ++d, column += panel_tokens<Isa>)
    for (int lane = 0; lane < Isa::lanes; ++lane) column[lane] = rows[lane][d];
}

/// Packs keys for `logits`: packed[panel][d][token of the panel], zero beyond n.
///
/// key_at(i), 0 <= i < n, points to the `dim` contiguous elements of token i, at any alignment.
template <class Isa, class KeyAt>
[[gnu::always_inline]] inline void pack_keys(KeyAt const& key_at, int n, int dim, float* packed) {
  using stored = std::remove_cvref_t<decltype(*key_at(0))>;
  constexpr int chunk = 64;
  float wide[Isa::lanes][chunk];
  float const* rows[Isa::lanes];
  for (int first = 0; first < padded<Isa>(n); first += Isa::lanes) {
    float* const column = packed + static_cast<std::ptrdiff_t>(first / panel_tokens<Isa>) * dim * panel_tokens<Isa> +
                          first % panel_tokens<Isa>;
    if constexpr (std::is_same_v<stored, float>) {
      if (first + Isa::lanes <= n) {
        for (int lane = 0; lane < Isa::lanes; ++lane) rows[lane] = key_at(first + lane);
        transpose_rows<Isa>(rows, dim, column);
        continue;
      }
    }
    for (int d = 0; d < dim; d += chunk) {
      int const dims = dim - d < chunk ? dim - d : chunk;
      for (int lane = 0; lane < Isa::lanes; ++lane) {
        rows[lane] = wide[lane];
        if (first + lane < n) {
          widen<Isa>(key_at(first + lane) + d, dims, wide[lane]);
        } else {
          for (int i = 0; i < dims; ++i) wide[lane][i] = 0.0f;
        }
      }
      transpose_rows<Isa>(rows, dims, column + static_cast<std::ptrdiff_t>(d) * panel_tokens<Isa>);
    }
  }
}

/// Multiplies packed keys by a scale for each token, [n].
template <class Isa>
[[gnu::always_inline]] inline void scale_packed_keys(float const* scales, int n, int dim, float* packed) {
  constexpr int vectors = logits_tile<Isa>::vectors;
  std::ptrdiff_t const panel = std::ptrdiff_t{panel_tokens<Isa>} * dim;
  for (int first = 0; first < n; first += panel_tokens<Isa>, packed += panel) {
    typename Isa::floats scale[vectors];
    unrolled<vectors>([&](auto v) __attribute__((always_inline)) {
      int const from = first + v * Isa::lanes;
      load_some<Isa>(scales + from, n - from < Isa::lanes ? n - from : Isa::lanes, scale[v]);
    });
    for (int d = 0; d < dim; ++d)
      unrolled<vectors>([&](auto v) __attribute__((always_inline)) {
        float* const at = packed + d * panel_tokens<Isa> + v * Isa::lanes;
        typename Isa::floats values;
        load<Isa>(at, values);
        store<Isa>(values * scale[v], at);
      });
  }
}

// --- logits
// --------------------------------------------------------------------------------------------------

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
// ----------------------------------------------------------------------------------------------------

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
// ---------------------------------------------------------------------------------

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
