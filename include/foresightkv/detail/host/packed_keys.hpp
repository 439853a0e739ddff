// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/host/vectors.hpp>
#include <foresightkv/element.hpp>
#include <type_traits>

namespace foresightkv::inline v0::detail::host {

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

}  // namespace foresightkv::inline v0::detail::host
