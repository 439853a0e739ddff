// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/detail/kernels/collectives.hpp>
#include <foresightkv/detail/order_key.hpp>
#include <type_traits>

namespace foresightkv::inline v0::detail::kernels {

/// Keys of one row, spread over the threads of a block: a chunk of Threads * Items slots at a time, Items neighbouring
/// slots to a thread. A thread sees no other's keys, so none of this needs a barrier.
///
/// In registers a block has one chunk, at `begin`: the row's only one, or that of its block of a cluster. In memory a
/// row may have any number.
template <int Threads, int Items, bool InRegisters>
struct row_keys {
  static constexpr int chunk = Threads * Items;
  static constexpr bool in_registers = InRegisters;

  std::uint32_t registers[InRegisters ? Items : 1];
  std::uint32_t* memory = nullptr;  // [length]
  int length = 0;                   // of the row
  int begin = 0;                    // first slot of the block
  int rank = 0;

  /// body(slot, key) for every slot of one chunk that is this thread's, ascending.
  template <class Body>
  FORESIGHTKV_HOST_DEVICE void in_chunk(int first, Body const& body) {
    int const mine = first + rank * Items;
    int const left = length - mine;
    if constexpr (InRegisters) {
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
      for (int item = 0; item < Items; ++item)  // to the end: the loop must unroll for the keys to stay in registers
        if (item < left) body(mine + item, registers[item]);
    } else {
      for (int item = 0; item < Items && item < left; ++item) body(mine + item, memory[mine + item]);
    }
  }
  /// Keys of this thread's slots of one chunk; those behind the row are left out.
  FORESIGHTKV_HOST_DEVICE void set(int first, std::uint32_t const (&values)[Items]) {
    for (int item = 0; item < Items; ++item) {
      if constexpr (InRegisters)
        registers[item] = values[item];
      else if (first + rank * Items + item < length)
        memory[first + rank * Items + item] = values[item];
    }
  }
  /// body(first) for the first slot of every chunk.
  template <class Body>
  FORESIGHTKV_HOST_DEVICE void each_chunk(Body const& body) const {
    if constexpr (InRegisters)
      body(begin);
    else
      for (int first = 0; first < length; first += chunk) body(first);
  }
  template <class Body>
  FORESIGHTKV_HOST_DEVICE void each(Body const& body) {
    each_chunk([&](int first) { in_chunk(first, body); });
  }
};

/// What the radix search over a row's keys keeps in shared memory: histograms of digits.
struct radix_memory {
  static constexpr int bins = 256;
  static constexpr int turns = 3;

  alignas(16) std::uint32_t histogram[turns][bins];
};

/// A cluster adds up its histograms.
struct cluster_radix_memory : radix_memory {
  std::uint32_t sum[bins];
};

template <class Context>
using radix_memory_of = std::conditional_t<(Context::cluster > 1), cluster_radix_memory, radix_memory>;

enum radix_sync : int { histograms_cleared = 48, keys_counted, cluster_counted, cluster_summed };

/// Exact radix search over a row's keys, eight bits at a time from the top, with one barrier per pass: behind it every
/// warp finds the digit for itself. Histograms take turns. While one is filled and the next one is clear, the third may
/// still be read by a warp that is late; after the barrier it is read no more, and cleared.
///
/// Where a row's keys are those of a cluster, so is the barrier, and each block adds up all histograms for itself. They
/// are read by the other blocks until the next barrier of the cluster.
template <class Context, class Keys>
class radix_search {
 public:
  using memory_type = radix_memory_of<Context>;

  FORESIGHTKV_HOST_DEVICE radix_search(Context const& context, memory_type& memory, Keys& keys)
      : context_(context), memory_(memory), keys_(keys) {
    clear(0);
    clear(1);
    context.sync(histograms_cleared);
  }

  /// The first pass, before it is known how many keys are wanted. Ends in a barrier.
  FORESIGHTKV_HOST_DEVICE void count_ahead() {
    count(0, 0, top);
    counted_ahead_ = true;
  }
  /// What was counted ahead are no longer the keys.
  FORESIGHTKV_HOST_DEVICE void keys_change() { counted_ahead_ = false; }

  /// Finds the `wanted` lowest keys, 0 < wanted <= length. A bin that is wanted as a whole ends the search. The answer
  /// is the same in every thread.
  FORESIGHTKV_HOST_DEVICE lowest_keys find_lowest(int wanted) {
    ties_before_ = 0;
    std::uint32_t prefix = 0;
    std::uint32_t known = 0;  // bits of the prefix that are decided
    for (int shift = top;; shift -= digit_bits) {
      if (!counted_ahead_) count(prefix, known, shift);
      counted_ahead_ = false;
      found_digit const found = digit_of(wanted);
      prefix |= found.digit << shift;
      known |= (bins - 1u) << shift;
      wanted -= found.below;
      if (shift == 0) {
        ties_before_ = counted_before(found.digit);
        return {prefix, wanted};
      }
      if (found.whole) return {prefix | ~known, wanted};
    }
  }

  /// Of the ties found last, those that go to blocks of lower rank. May be more than there are.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int ties_before() const { return ties_before_; }

 private:
  static constexpr bool in_cluster = Context::cluster > 1;
  static constexpr int bins = radix_memory::bins;
  static constexpr int digit_bits = 8;
  static constexpr int top = 32 - digit_bits;
  static constexpr int per_lane = bins / warp_size;

  struct found_digit {
    std::uint32_t digit;
    int below;   // keys with a lower digit
    bool whole;  // all keys with this digit are wanted
  };

  FORESIGHTKV_HOST_DEVICE void clear(int turn) const {
    for (int first = 0; first < bins; first += Context::threads)
      if (first + context_.rank() < bins) memory_.histogram[turn][first + context_.rank()] = 0;
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static int after(int turn) {
    return turn + 1 < radix_memory::turns ? turn + 1 : 0;
  }

  FORESIGHTKV_HOST_DEVICE void count(std::uint32_t prefix, std::uint32_t known, int shift) {
    turn_ = after(turn_);
    std::uint32_t* const histogram = memory_.histogram[turn_];
    keys_.each([&](int, std::uint32_t key) {
      if ((key & known) == prefix) context_.count(&histogram[key >> shift & (bins - 1)]);
    });
    if constexpr (in_cluster)
      context_.sync_cluster(cluster_counted);
    else
      context_.sync(keys_counted);
    clear(after(after(turn_)));
    if constexpr (in_cluster) add_up();
  }

  /// The last sums are read no more: everyone has passed a barrier of the cluster since.
  FORESIGHTKV_HOST_DEVICE void add_up() const {
    for (int bin = context_.rank(); bin < bins; bin += Context::threads) {
      std::uint32_t sum = 0;
      for (int rank = 0; rank < Context::cluster; ++rank) sum += of_block(rank, bin);
      memory_.sum[bin] = sum;
    }
    context_.sync(cluster_summed);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::uint32_t of_block(int rank, int bin) const {
    return context_.of_cluster(memory_.histogram[turn_][bin], rank);
  }
  /// Among the keys counted last, those of blocks of lower rank with this digit.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int counted_before(std::uint32_t digit) const {
    std::uint32_t sum = 0;
    if constexpr (in_cluster)
      for (int rank = 0; rank < context_.cluster_rank(); ++rank) sum += of_block(rank, static_cast<int>(digit));
    return static_cast<int>(sum);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::uint32_t const* counts() const {
    if constexpr (in_cluster)
      return memory_.sum;
    else
      return memory_.histogram[turn_];
  }

  /// The digit of the wanted-th key among those counted last, by each warp: a lane looks at neighbouring bins.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE found_digit digit_of(int wanted) const {
    int const lane = context_.rank() % warp_size;
    std::uint32_t const* const mine = counts() + lane * per_lane;
    int counted[per_lane];
    int sum = 0;
    for (int i = 0; i < per_lane; ++i) sum += counted[i] = static_cast<int>(mine[i]);
    int all = 0;
    int below = warp_exclusive_sum(context_, sum, all);
    int const holder = first_lane(context_.vote(below < wanted && wanted <= below + sum));
    int digit = 0;
    bool whole = false;
    for (int i = 0; i < per_lane; ++i) {
      if (digit < i) continue;  // found already
      whole = below + counted[i] == wanted;
      if (below + counted[i] >= wanted) continue;
      below += counted[i];
      ++digit;
    }
    int const packed = context_.shuffle((lane * per_lane + digit) * 2 + (whole ? 1 : 0), holder);
    return {static_cast<std::uint32_t>(packed / 2), context_.shuffle(below, holder), packed % 2 != 0};
  }

  Context const& context_;
  memory_type& memory_;
  Keys& keys_;
  int turn_ = radix_memory::turns - 1;
  int ties_before_ = 0;
  bool counted_ahead_ = false;
};

}  // namespace foresightkv::inline v0::detail::kernels
