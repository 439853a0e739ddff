// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/host/isa.hpp>
#include <foresightkv/detail/row_view.hpp>

namespace foresightkv::inline v0::detail::host {

/// One lane that owns a token. Sixteen partial sums, so that a plain loop vectorises without fast-math.
template <class Isa>
struct host_lanes {
  static constexpr int width = 16;

  template <class Term>
  [[gnu::always_inline]] FORESIGHTKV_HOST_DEVICE float sum(int count, Term const& term) const {
    float part[width] = {};
    int i = 0;
    for (; i + width <= count; i += width)
      for (int lane = 0; lane < width; ++lane) part[lane] += term(i + lane);
    for (; i < count; ++i) part[i % width] += term(i);
    for (int half = width / 2; half > 0; half /= 2)
      for (int lane = 0; lane < half; ++lane) part[lane] += part[lane + half];
    return part[0];
  }
  template <class Term>
  [[gnu::always_inline]] FORESIGHTKV_HOST_DEVICE float max(int count, Term const& term) const {
    float largest = count > 0 ? term(0) : 0.0f;
    for (int i = 1; i < count; ++i) {
      float const next = term(i);
      largest = next > largest ? next : largest;
    }
    return largest;
  }
  [[gnu::always_inline]] FORESIGHTKV_HOST_DEVICE void store(float& target, float value) const { target = value; }
};

/// The threads of a row: one.
template <class Isa>
struct host_block {
  using isa = Isa;

  template <class Body>
  [[gnu::always_inline]] FORESIGHTKV_HOST_DEVICE void for_each(int count, Body const& body) const {
    for (int i = 0; i < count; ++i) body(i);
  }
  template <class Body>
  [[gnu::always_inline]] FORESIGHTKV_HOST_DEVICE void for_each_token(int count, Body const& body) const {
    for (int i = 0; i < count; ++i) body(host_lanes<Isa>{}, i);
  }
  template <class Term>
  [[gnu::always_inline]] FORESIGHTKV_HOST_DEVICE float sum(int count, Term const& term) const {
    return host_lanes<Isa>{}.sum(count, term);
  }
  template <class Term>
  [[gnu::always_inline]] FORESIGHTKV_HOST_DEVICE float max(int count, Term const& term) const {
    return host_lanes<Isa>{}.max(count, term);
  }
};

}  // namespace foresightkv::inline v0::detail::host
