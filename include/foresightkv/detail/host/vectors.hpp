// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/host/isa.hpp>
#include <utility>

namespace foresightkv::inline v0::detail::host {

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

}  // namespace foresightkv::inline v0::detail::host
