// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/detail/kernels/block_context.hpp>
#include <foresightkv/detail/order_key.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// Keys of one row, spread over the threads of a block: a chunk of Threads * Items slots at a time, Items neighbouring
/// slots to a thread. A thread sees no other's keys, so none of this needs a barrier.
///
/// In registers a row has one chunk; in memory it may have any number.
template <int Threads, int Items, bool InRegisters>
struct row_keys {
  static constexpr int chunk = Threads * Items;

  std::uint32_t registers[InRegisters ? Items : 1];
  std::uint32_t* memory = nullptr;  // [length]
  int length = 0;
  int rank = 0;

  /// body(slot, key) for every slot of one chunk that is this thread's, ascending.
  template <class Body>
  FORESIGHTKV_HOST_DEVICE void in_chunk(int first, Body const& body) {
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
    for (int item = 0; item < Items; ++item) {
      int const slot = first + rank * Items + item;
      if (slot >= length) continue;  // not break: the loop must unroll for the keys to stay in registers
      if constexpr (InRegisters)
        body(slot, registers[item]);
      else
        body(slot, memory[slot]);
    }
  }
  template <class Body>
  FORESIGHTKV_HOST_DEVICE void each(Body const& body) {
    if constexpr (InRegisters)
      in_chunk(0, body);
    else
      for (int first = 0; first < length; first += chunk) in_chunk(first, body);
  }
};

/// What the radix search over a row's keys keeps in shared memory.
template <class Context>
struct radix_memory {
  static constexpr int bins = 256;

  std::uint32_t histogram[bins];
  typename Context::template scan<std::uint64_t> scan;
  std::uint32_t digit;
  int below;  // keys with a lower digit
  int found;  // keys with this digit
};

enum radix_sync : int { histogram_cleared = 48, histogram_filled, digit_found, ties_counted };

/// Finds the `count` lowest of a row's keys, 0 < count <= length: an exact radix search, eight bits at a time from the
/// top. A bin that is wanted as a whole ends it. The answer is the same in every thread.
template <class Context, class Keys>
FORESIGHTKV_HOST_DEVICE lowest_keys find_lowest(Context const& c, radix_memory<Context>& memory, Keys& keys, int count) {
  constexpr int bins = radix_memory<Context>::bins;
  static_assert(Context::threads >= bins);
  std::uint32_t prefix = 0;
  std::uint32_t known = 0;  // bits of the prefix that are decided
  int remaining = count;
  for (int shift = 24;; shift -= 8) {
    if (c.rank() < bins) memory.histogram[c.rank()] = 0;
    c.sync(histogram_cleared);
    keys.each([&](int, std::uint32_t key) {
      if ((key & known) == prefix) c.count(&memory.histogram[key >> shift & (bins - 1)]);
    });
    c.sync(histogram_filled);
    std::uint64_t all = 0;
    int const mine = c.rank() < bins ? static_cast<int>(memory.histogram[c.rank()]) : 0;
    auto const before = static_cast<int>(c.exclusive_sum(memory.scan, static_cast<std::uint64_t>(mine), all));
    if (before < remaining && remaining <= before + mine) {
      memory.digit = static_cast<std::uint32_t>(c.rank());
      memory.below = before;
      memory.found = mine;
    }
    c.sync(digit_found);
    prefix |= memory.digit << shift;
    known |= 0xffu << shift;
    remaining -= memory.below;
    if (shift == 0) return {prefix, remaining};
    if (memory.found == remaining) return {prefix | ~known, remaining};  // the whole bin
  }
}

/// body(slot, key, ties before it) for every slot of this thread that holds `tie`, and -1 ties for every other one.
template <class Context, class Keys, class Body>
FORESIGHTKV_HOST_DEVICE void rank_ties(Context const& c, radix_memory<Context>& memory, Keys& keys, std::uint32_t tie,
                                       Body const& body) {
  int earlier = 0;
  for (int first = 0; first < keys.length; first += Keys::chunk) {
    int mine = 0;
    keys.in_chunk(first, [&](int, std::uint32_t key) { mine += key == tie; });
    std::uint64_t all = 0;
    int before = earlier +
                 static_cast<int>(c.exclusive_sum(memory.scan, static_cast<std::uint64_t>(mine), all));
    c.sync(ties_counted);  // the scan's scratch serves again
    keys.in_chunk(first, [&](int slot, std::uint32_t& key) {
      bool const equal = key == tie;
      body(slot, key, equal ? before : -1);
      before += equal;
    });
    earlier += static_cast<int>(all);
  }
}

}  // namespace foresightkv::inline v0::detail::kernels
