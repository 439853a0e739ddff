// SPDX-License-Identifier: Apache-2.0
#pragma once

// Forward and backward of the judge over rows of candidates that are gathered by index: one token's keys,
// values and statistics lie apart and are read where they lie. isa.hpp says how to call the kernels.

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <foresightkv/detail/host/attention.hpp>
#include <foresightkv/detail/host/judge.hpp>
#include <foresightkv/detail/host/kernels.hpp>
#include <foresightkv/judge.hpp>
#include <numbers>
#include <type_traits>

namespace foresightkv::inline v0::detail::host {

/// The inputs of one row of candidates.
template <class Key, class Value>
struct judge_row {
  Key const* keys;
  Value const* values;
  std::int64_t key_stride, value_stride;  // elements from one token to the next
  std::int32_t const* positions;          // [candidates]; null: candidate i is token i
  float const* statistics;                // [candidates][8 * group]
  int candidates;

  [[nodiscard]] std::int64_t token(int candidate) const {
    return positions == nullptr ? candidate : positions[candidate];
  }
  [[nodiscard]] Key const* key(int candidate) const { return keys + token(candidate) * key_stride; }
  [[nodiscard]] Value const* value(int candidate) const { return values + token(candidate) * value_stride; }

  /// Asks for the keys and values of `count` candidates from `first` on: the next tile's, while this one is
  /// worked on. Their tokens lie apart, which no hardware prefetcher foresees.
  [[gnu::always_inline]] void prefetch(judge_shape const& shape, int first, int count) const {
    for (int c = first; c < std::min(first + count, candidates); ++c) {
      prefetch_line(key(c), shape.key_head_dim);
      prefetch_line(value(c), shape.value_head_dim);
    }
  }

 private:
  template <class Element>
  [[gnu::always_inline]] static void prefetch_line(Element const* from, int dim) {
    constexpr int line = static_cast<int>(64 / sizeof(Element));
    for (int d = 0; d < dim; d += line) __builtin_prefetch(from + d);
  }
};

/// Places in one head's packed weights (judge_shape::head_floats).
template <class Real>
struct packed_head {
  Real* input;   // [inputs][16]
  Real* bias;    // [16]
  Real* output;  // [16], and the output's bias behind it

  packed_head(Real* weights, judge_shape const& shape)
      : input(weights), bias(weights + std::ptrdiff_t{shape.inputs()} * dense_width), output(bias + dense_width) {}
};

// --- GELU and its derivative
// -----------------------------------------------------------------------------------------

/// gelu = z * Phi(z) and slope = Phi(z) + z * phi(z), the exact (erf) form; Phi as in gelu_lanes. Both to
/// 3e-7 * max(1, |z|).
template <class Isa>
[[gnu::always_inline]] inline void gelu_slope_lanes(typename Isa::floats const& z, typename Isa::floats& gelu,
                                                    typename Isa::floats& slope) {
  using floats = typename Isa::floats;
  constexpr float half_log2e = 0.5f * std::numbers::log2e_v<float>;
  constexpr float density = 0.3989422804f;  // 1 / sqrt(2 pi)
  floats bell = z * z * -half_log2e;
  exp2_lanes<Isa>(bell);
  // gelu_lanes multiplies Phi by what it is given: Phi(z) is what it makes of z divided by z, but z may be 0.
  floats const zero = {}, one = zero + 1.0f;
  gelu = z;
  gelu_lanes<Isa>(gelu);
  floats const nonzero = z == zero ? one : z;
  floats const phi = z == zero ? zero + 0.5f : gelu / nonzero;
  slope = phi + z * bell * density;
}

inline double gelu(double z) { return 0.5 * z * std::erfc(-z * (0.5 * std::numbers::sqrt2)); }
inline double gelu_slope(double z) {
  return 0.5 * std::erfc(-z * (0.5 * std::numbers::sqrt2)) +
         z * std::exp(-0.5 * z * z) * (0.5 * std::numbers::inv_sqrtpi * std::numbers::sqrt2);
}

// --- forward
// ---------------------------------------------------------------------------------------------------------

/// scores[t] = output . gelu(hidden[t]) + output[16] for at most judge_tile tokens.
template <class Isa>
[[gnu::always_inline]] inline void score_tile(float const* output, float const* hidden, int tokens, float* scores) {
  float active[judge_tile * dense_width];
  std::copy_n(hidden, tokens * dense_width, active);
  gelu_row<Isa>(active, tokens * dense_width);
  for (int t = 0; t < tokens; ++t) {
    float score = output[dense_width];
    for (int unit = 0; unit < dense_width; ++unit) score += active[t * dense_width + unit] * output[unit];
    scores[t] = score;
  }
}

// --- backward
// --------------------------------------------------------------------------------------------------------

inline constexpr int backward_tokens = 32;  // candidates that share a pass over the gradient; their inputs stay in L1

/// Inputs in the register tile of `outer_accumulate`.
template <class Isa>
inline constexpr int outer_inputs = std::is_same_v<Isa, isa_avx512> ? 16
                                    : std::is_same_v<Isa, isa_avx2> ? 6
                                                                    : 2;

/// gradient[i][u] += sum over t of inputs[t][i] * slopes[t][u], for t < tokens in ascending order, i < count,
/// u < dense_width.
template <class Isa>
[[gnu::always_inline]] inline void outer_accumulate(float const* const* inputs, int tokens, int count,
                                                    float const* slopes, float* gradient) {
  constexpr int tile = outer_inputs<Isa>;
  constexpr int vectors = dense_width / Isa::lanes;
  using floats = typename Isa::floats;
  for (int first = 0; first < count; first += tile) {
    std::ptrdiff_t place[tile];
    floats sums[tile][vectors];
    // Beyond the last input, that one again: its sums are stored twice.
    for (int i = 0; i < tile; ++i) place[i] = std::min(first + i, count - 1);
    bool const whole = first + tile <= count;
    unrolled<tile * vectors>([&](auto k) __attribute__((always_inline)) {
      load<Isa>(gradient + place[k / vectors] * dense_width + k % vectors * Isa::lanes, sums[k / vectors][k % vectors]);
    });
    auto const pass = [&](auto at) __attribute__((always_inline)) {
      for (int t = 0; t < tokens; ++t) {
        floats slope[vectors];
        unrolled<vectors>([&](auto v) __attribute__((always_inline)) {
          load<Isa>(slopes + std::ptrdiff_t{t} * dense_width + v * Isa::lanes, slope[v]);
        });
        float const* const from = inputs[t];
        unrolled<tile>([&](auto i) __attribute__((always_inline)) {
          float const value = from[at(i)];
          unrolled<vectors>([&](auto v) __attribute__((always_inline)) { sums[i][v] += value * slope[v]; });
        });
      }
    };
    if (whole)
      pass([&](auto i) __attribute__((always_inline)) { return std::ptrdiff_t{first} + i; });
    else
      pass([&](auto i) __attribute__((always_inline)) { return place[i]; });
    unrolled<tile * vectors>([&](auto k) __attribute__((always_inline)) {
      store<Isa>(sums[k / vectors][k % vectors],
                 gradient + place[k / vectors] * dense_width + k % vectors * Isa::lanes);
    });
  }
}

/// slopes[t][u] = dloss / dhidden[t][u] from dloss / dscore[t]; adds to the gradients of the biases and of
/// the output.
template <class Isa>
[[gnu::always_inline]] inline void backward_units(packed_head<float const> const& packed, float const* hidden,
                                                  float const* score_gradient, int tokens, float* slopes,
                                                  packed_head<float> const& gradient) {
  constexpr int vectors = dense_width / Isa::lanes;
  using floats = typename Isa::floats;
  unrolled<vectors>([&](auto v) __attribute__((always_inline)) {
    constexpr int from = v * Isa::lanes;
    floats output, bias_sum, output_sum;
    load<Isa>(packed.output + from, output);
    load<Isa>(gradient.bias + from, bias_sum);
    load<Isa>(gradient.output + from, output_sum);
    for (int t = 0; t < tokens; ++t) {
      floats z, active, slope;
      load<Isa>(hidden + std::ptrdiff_t{t} * dense_width + from, z);
      gelu_slope_lanes<Isa>(z, active, slope);
      slope = slope * output * score_gradient[t];
      store<Isa>(slope, slopes + std::ptrdiff_t{t} * dense_width + from);
      bias_sum += slope;
      output_sum += active * score_gradient[t];
    }
    store<Isa>(bias_sum, gradient.bias + from);
    store<Isa>(output_sum, gradient.output + from);
  });
}

// --- rows
// ------------------------------------------------------------------------------------------------------------

/// The kernels above behind calls, each compiled once per instruction set and translation unit, whatever the
/// elements.
template <class Isa>
struct judge_kernels {
  [[gnu::noinline]] static void score(float const* output, float const* hidden, int tokens, float* scores) {
    with_isa<Isa>([&](auto isa)
                      __attribute__((always_inline)) { score_tile<decltype(isa)>(output, hidden, tokens, scores); });
  }
  [[gnu::noinline]] static void outer(float const* const* inputs, int tokens, int count, float const* slopes,
                                      float* gradient) {
    with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
      outer_accumulate<decltype(isa)>(inputs, tokens, count, slopes, gradient);
    });
  }
  [[gnu::noinline]] static void units(packed_head<float const> const& packed, float const* hidden,
                                      float const* score_gradient, int tokens, float* slopes,
                                      packed_head<float> const& gradient) {
    with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
      backward_units<decltype(isa)>(packed, hidden, score_gradient, tokens, slopes, gradient);
    });
  }
};

/// hidden[candidate][16] = the input of the activation, scores[candidate] = the judge's output. Token by
/// token the same operations as `bulk_score`, so that a judge is trained with the numbers that it will be run
/// with.
template <class Isa, class Key, class Value>
[[gnu::noinline]] void forward_row(judge_shape const& shape, float const* weights, judge_row<Key, Value> const& row,
                                   float* hidden, float* scores) {
  packed_head<float const> const packed(weights, shape);
  auto const value_weights = packed.input + std::ptrdiff_t{shape.key_head_dim} * dense_width;
  auto const feature_weights = value_weights + std::ptrdiff_t{shape.value_head_dim} * dense_width;
  int const features = judge_shape::features * shape.group;
  for (int first = 0; first < row.candidates; first += judge_tile) {
    int const tokens = std::min(judge_tile, row.candidates - first);
    float* const units = hidden + std::ptrdiff_t{first} * dense_width;
    row.prefetch(shape, first + judge_tile, judge_tile);
    for (int t = 0; t < tokens; ++t) std::copy_n(packed.bias, dense_width, units + t * dense_width);
    accumulate_part<Isa>([&](int t) { return row.key(first + t); }, tokens, shape.key_head_dim, packed.input, units);
    accumulate_part<Isa>([&](int t) { return row.value(first + t); }, tokens, shape.value_head_dim, value_weights,
                         units);
    accumulate_part<Isa>([&](int t) { return row.statistics + std::ptrdiff_t{first + t} * features; }, tokens, features,
                         feature_weights, units);
    judge_kernels<Isa>::score(packed.output, units, tokens, scores + first);
  }
}

/// The same for elements that need widening first; fp32 is read where it lies.
template <class Isa, class ElementAt>
void outer_part(ElementAt const& element_at, int tokens, int dim, float const* slopes, float* gradient) {
  using element = std::remove_cvref_t<decltype(*element_at(0))>;
  float const* inputs[backward_tokens];
  if constexpr (std::same_as<element, float>) {
    for (int t = 0; t < tokens; ++t) inputs[t] = element_at(t);
    judge_kernels<Isa>::outer(inputs, tokens, dim, slopes, gradient);
  } else {
    float wide[backward_tokens][judge_chunk];
    for (int t = 0; t < tokens; ++t) inputs[t] = wide[t];
    for (int from = 0; from < dim; from += judge_chunk) {
      int const count = std::min(judge_chunk, dim - from);
      for (int t = 0; t < tokens; ++t) kernels<Isa>::widen(element_at(t) + from, count, wide[t]);
      judge_kernels<Isa>::outer(inputs, tokens, count, slopes, gradient + std::ptrdiff_t{from} * dense_width);
    }
  }
}

/// Adds one row's part to a head's gradient.
template <class Isa, class Key, class Value>
[[gnu::noinline]] void backward_row(judge_shape const& shape, float const* weights, judge_row<Key, Value> const& row,
                                    float const* hidden, float const* score_gradient, float* gradient) {
  packed_head<float const> const packed(weights, shape);
  packed_head<float> const out(gradient, shape);
  auto const value_gradient = out.input + std::ptrdiff_t{shape.key_head_dim} * dense_width;
  auto const feature_gradient = value_gradient + std::ptrdiff_t{shape.value_head_dim} * dense_width;
  int const features = judge_shape::features * shape.group;
  for (int first = 0; first < row.candidates; first += backward_tokens) {
    int const tokens = std::min(backward_tokens, row.candidates - first);
    float slopes[backward_tokens * dense_width];
    row.prefetch(shape, first + backward_tokens, backward_tokens);
    judge_kernels<Isa>::units(packed, hidden + std::ptrdiff_t{first} * dense_width, score_gradient + first, tokens,
                              slopes, out);
    outer_part<Isa>([&](int t) { return row.key(first + t); }, tokens, shape.key_head_dim, slopes, out.input);
    outer_part<Isa>([&](int t) { return row.value(first + t); }, tokens, shape.value_head_dim, slopes, value_gradient);
    outer_part<Isa>([&](int t) { return row.statistics + std::ptrdiff_t{first + t} * features; }, tokens, features,
                    slopes, feature_gradient);
  }
}

// --- the same in plain double precision, for checks by finite differences
// ---------------------------------------------

/// Calls visit(input, value) for every input of one candidate.
template <class Key, class Value, class Visit>
void visit_inputs(judge_shape const& shape, judge_row<Key, Value> const& row, int candidate, Visit const& visit) {
  int input = 0;
  Key const* const key = row.key(candidate);
  Value const* const value = row.value(candidate);
  int const features = judge_shape::features * shape.group;
  float const* const statistics = row.statistics + std::ptrdiff_t{candidate} * features;
  for (int d = 0; d < shape.key_head_dim; ++d) visit(input++, static_cast<double>(element_traits<Key>::load(key[d])));
  for (int d = 0; d < shape.value_head_dim; ++d)
    visit(input++, static_cast<double>(element_traits<Value>::load(value[d])));
  for (int f = 0; f < features; ++f) visit(input++, static_cast<double>(statistics[f]));
}

template <class Isa, class Key, class Value>
void forward_row(judge_shape const& shape, double const* weights, judge_row<Key, Value> const& row, double* hidden,
                 double* scores) {
  packed_head<double const> const packed(weights, shape);
  for (int c = 0; c < row.candidates; ++c) {
    double* const units = hidden + std::ptrdiff_t{c} * dense_width;
    std::copy_n(packed.bias, dense_width, units);
    visit_inputs(shape, row, c, [&](int input, double value) {
      for (int u = 0; u < dense_width; ++u) units[u] += value * packed.input[std::ptrdiff_t{input} * dense_width + u];
    });
    scores[c] = packed.output[dense_width];
    for (int u = 0; u < dense_width; ++u) scores[c] += gelu(units[u]) * packed.output[u];
  }
}

template <class Isa, class Key, class Value>
void backward_row(judge_shape const& shape, double const* weights, judge_row<Key, Value> const& row,
                  double const* hidden, double const* score_gradient, double* gradient) {
  packed_head<double const> const packed(weights, shape);
  packed_head<double> const out(gradient, shape);
  for (int c = 0; c < row.candidates; ++c) {
    double slopes[dense_width];
    for (int u = 0; u < dense_width; ++u) {
      double const z = hidden[std::ptrdiff_t{c} * dense_width + u];
      slopes[u] = score_gradient[c] * packed.output[u] * gelu_slope(z);
      out.bias[u] += slopes[u];
      out.output[u] += score_gradient[c] * gelu(z);
    }
    visit_inputs(shape, row, c, [&](int input, double value) {
      for (int u = 0; u < dense_width; ++u) out.input[std::ptrdiff_t{input} * dense_width + u] += value * slopes[u];
    });
  }
}

}  // namespace foresightkv::inline v0::detail::host
