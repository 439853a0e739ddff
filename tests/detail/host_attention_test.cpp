// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <type_traits>
#include <vector>

#include <foresightkv/detail/host/attention.hpp>

// Every kernel, on every instruction set of this processor, against plain loops in double. This file also
// runs in a program built and linked with -ffast-math: what is infinite or NaN is looked at by its bits.

namespace fkv = foresightkv;
namespace host = foresightkv::detail::host;

namespace {

// A user's storage types: one read through its traits alone, one that names a known layout.
struct quarters {
  std::int8_t count;
};
struct foreign_half {
  std::uint16_t pattern;
};

}  // namespace

namespace foresightkv {
template <>
struct element_traits<quarters> {
  static constexpr float load(quarters value) { return static_cast<float>(value.count) * 0.25f; }
  static constexpr quarters store(float value) { return {static_cast<std::int8_t>(value * 4.0f)}; }
};
template <>
struct element_traits<foreign_half> {
  using layout = half;
  static constexpr float load(foreign_half value) { return to_float(half{value.pattern}); }
  static constexpr foreign_half store(float value) { return {element_traits<half>::store(value).bits}; }
};
}  // namespace foresightkv

namespace {

std::size_t at(int index) { return static_cast<std::size_t>(index); }
std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }
float from_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }

/// n floats, off any vector boundary, between two zones that must stay as they are.
class guarded {
 public:
  explicit guarded(std::size_t n) : size(n), words(n + 2 * zone, poison) {}

  float* data() { return words.data() + zone; }
  bool untouched(std::size_t from, std::size_t to) const {
    for (std::size_t i = zone + from; i < zone + to; ++i)
      if (bits_of(words[i]) != bits_of(poison)) return false;
    return true;
  }
  bool intact() const {
    for (std::size_t i = 0; i < zone; ++i)
      if (bits_of(words[i]) != bits_of(poison) || bits_of(words[zone + size + i]) != bits_of(poison)) return false;
    return true;
  }

 private:
  static constexpr std::size_t zone = 67;
  static constexpr float poison = -7.0e11f;
  std::size_t size;
  std::vector<float> words;
};

std::vector<float> random_floats(std::size_t count, float low, float high, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = low + (high - low) * static_cast<float>(random() >> 8) * 0x1p-24f;
  return values;
}

template <class Element>
std::vector<Element> random_elements(std::size_t count, unsigned seed) {
  std::vector<Element> values;
  for (float const value : random_floats(count, -2.0f, 2.0f, seed))
    values.push_back(fkv::element_traits<Element>::store(value));
  return values;
}

template <class Isa>
bool cannot_run() {
  if (host::supports<Isa>()) return false;
  MESSAGE("this processor lacks the instructions: nothing checked");
  return true;
}

// The kernels as ordinary functions.
template <class Isa, class Element>
void pack(Element const* keys, int stride, int n, int dim, float* packed) {
  host::with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
    auto const key_at = [&](int i) __attribute__((always_inline)) { return keys + at(i) * at(stride); };
    host::pack_keys<decltype(isa)>(key_at, n, dim, packed);
  });
}

template <class Isa, class Element>
void widen(Element const* from, int count, float* out) {
  host::with_isa<Isa>([&](auto isa) __attribute__((always_inline)) { host::widen<decltype(isa)>(from, count, out); });
}

template <class Isa>
void logits(float const* queries, int count, int dim, float const* packed, int n, float* out, int stride) {
  host::with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
    host::logits<decltype(isa)>(queries, count, dim, packed, n, out, at(stride));
  });
}

template <class Isa>
float maximum(float const* x, int n) {
  return host::with_isa<Isa>([&](auto isa)
                                 __attribute__((always_inline)) { return host::row_maximum<decltype(isa)>(x, n); });
}

template <class Isa>
float exp2_row(float* x, int n, float multiply, float subtract) {
  return host::with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
    return host::exp2_row<decltype(isa)>(x, n, multiply, subtract);
  });
}

/// exp2 of one value, in the first place of a row.
template <class Isa>
float exp2_of(float value) {
  float volatile hidden = value;  // from the optimiser: a folded conversion of NaN may give anything
  float x = hidden;
  exp2_row<Isa>(&x, 1, 1.0f, 0.0f);
  return x;
}

template <class Isa>
void gelu(float* x, int n) {
  host::with_isa<Isa>([&](auto isa) __attribute__((always_inline)) { host::gelu_row<decltype(isa)>(x, n); });
}

double exact_gelu(double x) { return 0.5 * x * std::erfc(-x * std::sqrt(0.5)); }

/// One shape of `logits`: rows between red zones, and the packed keys looked at one by one.
template <class Isa, class Element>
int count_wrong_logits(int count, int dim, int n, unsigned seed) {
  int const key_stride = dim + 3;
  auto const keys = random_elements<Element>(at(n) * at(key_stride) + 1, seed);
  auto const queries = random_floats(at(count) * at(dim) + 1, -1.0f, 1.0f, seed + 1);
  int const padded = host::padded<Isa>(n);
  int const stride = padded + 5;
  guarded packed(host::packed_floats<Isa>(n, dim));
  guarded out(at(count) * at(stride));
  pack<Isa>(keys.data() + 1, key_stride, n, dim, packed.data());
  logits<Isa>(queries.data() + 1, count, dim, packed.data(), n, out.data(), stride);

  int wrong = packed.intact() && out.intact() ? 0 : 1;
  auto const key = [&](int i, int d) { return i < n ? fkv::to_float(keys[1 + at(i) * at(key_stride) + at(d)]) : 0.0f; };
  int const panel = host::panel_tokens<Isa>;
  for (int i = 0; i < padded; ++i)
    for (int d = 0; d < dim; ++d)
      wrong += packed.data()[(at(i / panel) * at(dim) + at(d)) * at(panel) + at(i % panel)] == key(i, d) ? 0 : 1;
  for (int r = 0; r < count; ++r) {
    for (int i = 0; i < padded; ++i) {
      double sum = 0.0;
      double magnitude = 0.0;
      for (int d = 0; d < dim; ++d) {
        double const product = static_cast<double>(queries[1 + at(r) * at(dim) + at(d)]) * key(i, d);
        sum += product;
        magnitude += std::fabs(product);
      }
      double const error = std::fabs(static_cast<double>(out.data()[at(r) * at(stride) + at(i)]) - sum);
      wrong += error <= magnitude * dim * 0x1p-24 ? 0 : 1;
    }
    wrong += out.untouched(at(r) * at(stride) + at(padded), at(r + 1) * at(stride)) ? 0 : 1;
  }
  return wrong;
}

}  // namespace

TEST_CASE("the best instruction set is the widest that the processor supports") {
  int lanes = 0;
  int const returned = host::with_best_isa([&](auto isa) __attribute__((always_inline)) {
    lanes = decltype(isa)::lanes;
    return lanes + 1;
  });
  CHECK(returned == lanes + 1);
  int widest = 4;
  if (host::supports<host::isa_avx2>()) widest = 8;
  if (host::supports<host::isa_avx512>()) widest = 16;
  CHECK(lanes == widest);
  CHECK(host::supports<host::isa_baseline>());
  CHECK((!host::supports<host::isa_avx512>() || host::supports<host::isa_avx2>()));
}

TEST_CASE("padding goes by whole panels") {
  int const panel = host::panel_tokens<host::isa_avx512>;
  CHECK(panel % 16 == 0);
  CHECK(host::panel_tokens<host::isa_avx2> % 8 == 0);
  CHECK(host::panel_tokens<host::isa_baseline> % 4 == 0);
  CHECK(host::padded<host::isa_avx512>(0) == 0);
  CHECK(host::padded<host::isa_avx512>(1) == panel);
  CHECK(host::padded<host::isa_avx512>(panel) == panel);
  CHECK(host::padded<host::isa_avx512>(panel + 1) == 2 * panel);
  CHECK(host::packed_floats<host::isa_avx512>(100000, 100000) >= std::size_t{10000000000});
}

TEST_CASE_TEMPLATE("logits are the products of queries and keys", Isa, host::isa_baseline, host::isa_avx2,
                   host::isa_avx512) {
  if (cannot_run<Isa>()) return;
  unsigned seed = 1;
  for (int const dim : {1, 3, 4, 7, 64, 65, 130})
    for (int const n : {1, 5, 24, 47, 48, 49, 101})
      for (int const count : {1, 2, 4, 5, 8, 9, 13}) {
        CAPTURE(dim);
        CAPTURE(n);
        CAPTURE(count);
        CHECK(count_wrong_logits<Isa, float>(count, dim, n, seed += 2) == 0);
      }
  CHECK(count_wrong_logits<Isa, float>(64, 128, 1152, 7) == 0);
}

TEST_CASE_TEMPLATE("keys of every storage type are packed", Isa, host::isa_baseline, host::isa_avx2, host::isa_avx512) {
  if (cannot_run<Isa>()) return;
  for (int const dim : {1, 5, 64, 70, 128})
    for (int const n : {1, 31, 50}) {
      CAPTURE(dim);
      CAPTURE(n);
      CHECK(count_wrong_logits<Isa, fkv::half>(3, dim, n, 11) == 0);
      CHECK(count_wrong_logits<Isa, fkv::bfloat16>(3, dim, n, 12) == 0);
      CHECK(count_wrong_logits<Isa, fkv::float8_e4m3>(3, dim, n, 13) == 0);
      CHECK(count_wrong_logits<Isa, fkv::float8_e5m2>(3, dim, n, 14) == 0);
      CHECK(count_wrong_logits<Isa, quarters>(3, dim, n, 15) == 0);
      CHECK(count_wrong_logits<Isa, foreign_half>(3, dim, n, 16) == 0);
    }
}

TEST_CASE_TEMPLATE("no keys and no queries write nothing", Isa, host::isa_baseline, host::isa_avx2, host::isa_avx512) {
  if (cannot_run<Isa>()) return;
  guarded packed(host::packed_floats<Isa>(3, 8));
  guarded out(64);
  std::vector<float> const keys(24, 1.0f);
  pack<Isa>(keys.data(), 8, 0, 8, packed.data());
  CHECK(packed.untouched(0, host::packed_floats<Isa>(3, 8)));
  pack<Isa>(keys.data(), 8, 3, 8, packed.data());
  logits<Isa>(keys.data(), 0, 8, packed.data(), 3, out.data(), 64);
  logits<Isa>(keys.data(), 1, 8, packed.data(), 0, out.data(), 64);
  CHECK(out.untouched(0, 64));
}

TEST_CASE_TEMPLATE("vectors widen every pattern as scalars do", Isa, host::isa_baseline, host::isa_avx2,
                   host::isa_avx512) {
  if (cannot_run<Isa>()) return;
  auto const count_wrong = []<class Element>(Element, int patterns) {
    int const n = patterns + 5;  // the last five through the scalar tail
    std::vector<Element> from;
    for (int i = 0; i <= n; ++i)
      from.push_back(std::bit_cast<Element>(static_cast<decltype(Element::bits)>((i + patterns - 1) % patterns)));
    guarded out(at(n));
    widen<Isa>(from.data() + 1, n, out.data());
    int wrong = out.intact() ? 0 : 1;
    for (int i = 0; i < n; ++i) wrong += bits_of(out.data()[i]) == bits_of(fkv::to_float(from[at(i) + 1])) ? 0 : 1;
    return wrong;
  };
  CHECK(count_wrong(fkv::half{}, 65536) == 0);
  CHECK(count_wrong(fkv::bfloat16{}, 65536) == 0);
  CHECK(count_wrong(fkv::float8_e4m3{}, 256) == 0);
  CHECK(count_wrong(fkv::float8_e5m2{}, 256) == 0);
}

TEST_CASE_TEMPLATE("the maximum is found in every place", Isa, host::isa_baseline, host::isa_avx2, host::isa_avx512) {
  if (cannot_run<Isa>()) return;
  int wrong = 0;
  for (int n = 1; n <= 150; ++n) {
    guarded row(at(n));
    for (int best = 0; best < n; ++best) {
      for (int i = 0; i < n; ++i) row.data()[i] = -3.0f - static_cast<float>((i * 7) % 11);
      row.data()[best] = -2.5f;
      wrong += maximum<Isa>(row.data(), n) == -2.5f ? 0 : 1;
    }
    for (int i = 0; i < n; ++i) row.data()[i] = from_bits(0xff800000u);
    wrong += bits_of(maximum<Isa>(row.data(), n)) == 0xff800000u ? 0 : 1;
    wrong += row.intact() ? 0 : 1;
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("scaling is exact and stays inside the row", Isa, host::isa_baseline, host::isa_avx2,
                   host::isa_avx512) {
  if (cannot_run<Isa>()) return;
  int wrong = 0;
  for (int n = 0; n <= 70; ++n) {
    auto const values = random_floats(at(n), -9.0f, 9.0f, static_cast<unsigned>(n));
    guarded row(at(n));
    for (int i = 0; i < n; ++i) row.data()[i] = values[at(i)];
    host::with_isa<Isa>([&](auto isa)
                            __attribute__((always_inline)) { host::scale_row<decltype(isa)>(row.data(), n, 1.3f); });
    for (int i = 0; i < n; ++i) wrong += row.data()[i] == values[at(i)] * 1.3f ? 0 : 1;
    wrong += row.intact() ? 0 : 1;
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("exp2 is right to 1.5 ulp over its whole range", Isa, host::isa_baseline, host::isa_avx2,
                   host::isa_avx512) {
  if (cannot_run<Isa>()) return;
  constexpr int n = 4093;
  std::vector<float> x;
  for (double value = -126.0; value < 127.5; value += 0x1.9p-14) x.push_back(static_cast<float>(value));
  for (std::uint32_t bits = 0x2f000000u; bits < 0x40000000u; bits += 4099u) {  // 1e-10 to 2 by mantissas
    x.push_back(from_bits(bits));
    x.push_back(from_bits(bits | 0x80000000u));
  }
  while (x.size() % n != 0) x.push_back(0.0f);
  double worst = 0.0;
  double worst_relative = 0.0;
  for (std::size_t first = 0; first < x.size(); first += n) {
    std::vector<float> y(x.begin() + static_cast<std::ptrdiff_t>(first),
                         x.begin() + static_cast<std::ptrdiff_t>(first + n));
    exp2_row<Isa>(y.data(), n, 1.0f, 0.0f);
    for (std::size_t i = 0; i < n; ++i) {
      double const right = std::exp2(static_cast<double>(x[first + i]));
      double const error = std::fabs(static_cast<double>(y[i]) - right);
      worst = std::fmax(worst, error / std::ldexp(1.0, std::ilogb(right) - 23));
      worst_relative = std::fmax(worst_relative, error / right);
    }
  }
  CHECK(worst < 1.5);
  CHECK(worst_relative < 1.2e-7);
}

TEST_CASE_TEMPLATE("exp2 is exact for integers and clean beyond its range", Isa, host::isa_baseline, host::isa_avx2,
                   host::isa_avx512) {
  if (cannot_run<Isa>()) return;
  for (int i = -126; i <= 127; ++i)
    CHECK(bits_of(exp2_of<Isa>(static_cast<float>(i))) == static_cast<std::uint32_t>(i + 127) << 23);
  for (float const x : {-126.50001f, -127.0f, -127.3f, -149.0f, -1000.0f, -1e9f, -4e9f, -1e30f, -3.4e38f})
    CHECK(bits_of(exp2_of<Isa>(x)) == 0u);
  CHECK(bits_of(exp2_of<Isa>(from_bits(0xff800000u))) == 0u);
#if defined(__FAST_MATH__)
  std::uint32_t const compared = 0x7f800000u;  // infinity or NaN: callers look for that exponent
#else
  std::uint32_t const compared = 0xffffffffu;
#endif
  for (float const x : {127.5f, 128.0f, 129.0f, 300.0f, 1e9f, 4e9f, 1e30f, 3.4e38f, from_bits(0x7f800000u)})
    CHECK((bits_of(exp2_of<Isa>(x)) & compared) == 0x7f800000u);
  for (float const x : {-126.001f, -126.2f, -126.49f}) {  // denormals, unless they are flushed
    std::uint32_t const bits = bits_of(exp2_of<Isa>(x));
    double const denormal = std::ldexp(static_cast<double>(bits), -149);
    bool const right = std::fabs(denormal / std::exp2(static_cast<double>(x)) - 1.0) < 2.4e-7;
    CHECK((right || bits == 0u));
  }
#if !defined(__FAST_MATH__)
  for (std::uint32_t const nan : {0x7fc00000u, 0xffc00000u})
    CHECK((bits_of(exp2_of<Isa>(from_bits(nan))) & 0x7f800000u) == 0x7f800000u);
#endif
}

TEST_CASE_TEMPLATE("a row of exp2 scales, shifts, sums and stops at its end", Isa, host::isa_baseline, host::isa_avx2,
                   host::isa_avx512) {
  if (cannot_run<Isa>()) return;
  float const multiply = 0.1803369f;
  float const subtract = 3.75f;
  for (int n = 0; n <= 70; ++n) {
    auto const values = random_floats(at(n), -40.0f, 20.0f, 100u + static_cast<unsigned>(n));
    guarded row(at(n));
    for (int i = 0; i < n; ++i) row.data()[i] = values[at(i)];
    float const sum = exp2_row<Isa>(row.data(), n, multiply, subtract);
    double total = 0.0;
    double worst = 0.0;
    for (int i = 0; i < n; ++i) {
      double const exponent = static_cast<double>(values[at(i)]) * multiply - subtract;
      double const right = std::exp2(exponent);
      worst = std::fmax(worst, std::fabs(static_cast<double>(row.data()[i]) / right - 1.0));
      total += static_cast<double>(row.data()[i]);
    }
    CAPTURE(n);
    CHECK(worst < 2e-6);  // the exponent is rounded at a magnitude of up to 11
    CHECK(static_cast<double>(sum) == doctest::Approx(total).epsilon(1e-6));
    CHECK(row.intact());
  }
}

TEST_CASE_TEMPLATE("gelu is the exact form", Isa, host::isa_baseline, host::isa_avx2, host::isa_avx512) {
  if (cannot_run<Isa>()) return;
  constexpr int n = 99;
  double worst = 0.0;
  for (double first = -15.0; first < 15.0; first += n * 0x1p-12) {
    guarded row(n);
    std::vector<float> x;
    for (int i = 0; i < n; ++i) x.push_back(static_cast<float>(first + i * 0x1p-12 * 1.0003));
    for (int i = 0; i < n; ++i) row.data()[i] = x[at(i)];
    gelu<Isa>(row.data(), n);
    REQUIRE(row.intact());
    for (int i = 0; i < n; ++i) {
      double const value = static_cast<double>(x[at(i)]);
      double const error = std::fabs(static_cast<double>(row.data()[i]) - exact_gelu(value));
      worst = std::fmax(worst, error / std::fmax(1.0, std::fabs(value)));
    }
  }
  CHECK(worst < 1.2e-7);
}

TEST_CASE_TEMPLATE("gelu far out", Isa, host::isa_baseline, host::isa_avx2, host::isa_avx512) {
  if (cannot_run<Isa>()) return;
  auto const gelu_of = [](float x) {
    gelu<Isa>(&x, 1);
    return x;
  };
  CHECK(gelu_of(0.0f) == 0.0f);
  for (float const x : {8.0f, 20.0f, 1e6f, 1e30f, 3.4e38f}) {
    CHECK(gelu_of(x) == x);
    CHECK(std::fabs(gelu_of(-x)) < 1e-11f);
  }
  CHECK(bits_of(gelu_of(from_bits(0x7f800000u))) == 0x7f800000u);
  for (float const x : {1e-3f, 1e-10f, 1e-30f}) {  // half of x
    CHECK(gelu_of(x) == doctest::Approx(exact_gelu(x)).epsilon(2e-7));
    CHECK(gelu_of(-x) == doctest::Approx(exact_gelu(-x)).epsilon(2e-7));
  }
}

TEST_CASE_TEMPLATE("the dense layer adds its products to what was there", Isa, host::isa_baseline, host::isa_avx2,
                   host::isa_avx512) {
  if (cannot_run<Isa>()) return;
  constexpr int width = host::dense_width;
  for (int const count : {0, 1, 5, 128})
    for (int tokens = 0; tokens <= 19; ++tokens) {
      auto const weights = random_floats(at(count * width) + 1, -1.0f, 1.0f, 5);
      auto const inputs = random_floats(at(tokens) * at(count + 1) + 1, -1.0f, 1.0f, 6);
      auto const before = random_floats(at(tokens * width), -1.0f, 1.0f, 7);
      std::vector<float const*> rows;  // in no order, and one of them twice
      for (int t = 0; t < tokens; ++t) rows.push_back(inputs.data() + 1 + at((t * 5 + 3) % tokens) * at(count + 1));
      if (tokens > 2) rows[0] = rows[2];
      guarded hidden(at(tokens * width));
      for (int i = 0; i < tokens * width; ++i) hidden.data()[i] = before[at(i)];
      host::with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
        host::dense_accumulate<decltype(isa)>(rows.data(), tokens, count, weights.data() + 1, hidden.data());
      });
      int wrong = hidden.intact() ? 0 : 1;
      for (int t = 0; t < tokens; ++t)
        for (int unit = 0; unit < width; ++unit) {
          double sum = before[at(t * width + unit)];
          for (int i = 0; i < count; ++i)
            sum += static_cast<double>(rows[at(t)][i]) * weights[1 + at(i * width + unit)];
          double const error = std::fabs(static_cast<double>(hidden.data()[t * width + unit]) - sum);
          wrong += error <= (count + 1) * (count + 1) * 0x1p-25 ? 0 : 1;
        }
      CAPTURE(count);
      CAPTURE(tokens);
      CHECK(wrong == 0);
    }
}
