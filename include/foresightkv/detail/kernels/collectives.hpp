// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/kernels/block_context.hpp>

namespace foresightkv::inline v0::detail::kernels {

// What a warp or a block finds out together; every thread gets the answer.

template <class Context, class Value>
FORESIGHTKV_HOST_DEVICE Value warp_sum(Context const& c, Value value) {
  for (int mask = warp_size / 2; mask > 0; mask /= 2) value += c.shuffle_xor(value, mask);
  return value;
}

template <class Context, class Value>
FORESIGHTKV_HOST_DEVICE Value warp_max(Context const& c, Value value) {
  for (int mask = warp_size / 2; mask > 0; mask /= 2) {
    Value const other = c.shuffle_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

template <class Context, class Value>
FORESIGHTKV_HOST_DEVICE Value warp_min(Context const& c, Value value) {
  for (int mask = warp_size / 2; mask > 0; mask /= 2) {
    Value const other = c.shuffle_xor(value, mask);
    value = other < value ? other : value;
  }
  return value;
}

/// Bits that some lane has.
template <class Context>
FORESIGHTKV_HOST_DEVICE int warp_or(Context const& c, int bits) {
  for (int mask = warp_size / 2; mask > 0; mask /= 2) bits |= c.shuffle_xor(bits, mask);
  return bits;
}

/// Sum of `value` over lower lanes; `all` becomes the warp's sum.
template <class Context>
FORESIGHTKV_HOST_DEVICE int warp_exclusive_sum(Context const& c, int value, int& all) {
  int before = 0;
  all = value;
  for (int mask = 1; mask < warp_size; mask *= 2) {
    int const neighbours = c.shuffle_xor(all, mask);
    if ((c.rank() & mask) != 0) before += neighbours;
    all += neighbours;
  }
  return before;
}

/// Whether any thread of the block says so. `said` is free again after the block's next sync.
template <class Context>
FORESIGHTKV_HOST_DEVICE bool block_any(Context const& c, int (&said)[Context::threads / warp_size], bool mine,
                                       int number) {
  int const warp = warp_or(c, mine ? 1 : 0);
  if (c.rank() % warp_size == 0) said[c.rank() / warp_size] = warp;
  c.sync(number);
  int all = 0;
  for (int other : said) all |= other;
  return all != 0;
}

}  // namespace foresightkv::inline v0::detail::kernels
