// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include <foresightkv/detail/kernels/block_context.hpp>
#include <foresightkv/element.hpp>

namespace testing::bodies {

namespace fkv = foresightkv;
using fkv::detail::kernels::warp_size;

// Small kernel bodies, each of which needs all that it asks of its context.

/// Every round adds three times the right neighbour's value of the round before. Without sync(0) a thread
/// reads what is not yet written, without sync(1) what is written too early.
struct neighbours {
  static constexpr int threads = 64;
  template <class Context>
  struct shared {
    std::uint32_t value[threads];
  };
  std::uint32_t* values;  // [block][thread]
  int rounds;

  template <class Context>
  void operator()(Context const& context, shared<Context>& memory) const {
    std::uint32_t& own = values[context.block() * threads + context.rank()];
    for (int round = 0; round < rounds; ++round) {
      memory.value[context.rank()] = own;
      context.sync(0);
      own += 3 * memory.value[(context.rank() + 1) % threads];
      context.sync(1);
    }
  }

  /// What becomes of the values of one block.
  static void expect(std::uint32_t* block, int rounds) {
    for (int round = 0; round < rounds; ++round) {
      std::vector<std::uint32_t> const before(block, block + threads);
      for (int i = 0; i < threads; ++i) block[i] += 3 * before[static_cast<std::size_t>((i + 1) % threads)];
    }
  }
};

/// The same among the lanes of each warp, with sync_warp.
struct lane_neighbours {
  static constexpr int threads = 64;
  template <class Context>
  struct shared {
    std::uint32_t value[threads];
  };
  std::uint32_t* values;
  int rounds;

  template <class Context>
  void operator()(Context const& context, shared<Context>& memory) const {
    std::uint32_t& own = values[context.block() * threads + context.rank()];
    int const right = context.rank() / warp_size * warp_size + (context.rank() + 1) % warp_size;
    for (int round = 0; round < rounds; ++round) {
      memory.value[context.rank()] = own;
      context.sync_warp(0);
      own += 3 * memory.value[right];
      context.sync_warp(1);
    }
  }
};

/// The same among the blocks of a cluster: a thread reads what the next block's thread of its rank has.
struct block_neighbours {
  static constexpr int threads = 64;
  static constexpr int cluster = 4;
  template <class Context>
  struct shared {
    std::uint32_t value[threads];
  };
  std::uint32_t* values;  // [block][thread]
  int rounds;

  template <class Context>
  void operator()(Context const& context, shared<Context>& memory) const {
    std::uint32_t& own = values[context.block() * threads + context.rank()];
    context.sync_cluster(2);  // here and at the end: in case that one of the others is taken away
    std::uint32_t const& next =
        context.of_cluster(memory.value[context.rank()], (context.cluster_rank() + 1) % cluster);
    for (int round = 0; round < rounds; ++round) {
      memory.value[context.rank()] = own;
      context.sync_cluster(0);
      own += 3 * next;
      context.sync_cluster(1);
    }
    context.sync_cluster(2);
  }
};

/// Sums over lower ranks of the first three powers of each value, and the block's sums. Scratch may serve
/// again after a sync; another one needs none.
struct scans {
  static constexpr int threads = 96;
  template <class Context>
  struct shared {
    typename Context::template scan<std::uint64_t> scan, other_scan;
  };
  std::uint64_t const* values;
  std::uint64_t* sums;    // [block][thread][3]
  std::uint64_t* totals;  // [block][3], thread 7's

  template <class Context>
  void operator()(Context const& context, shared<Context>& memory) const {
    int const place = context.block() * threads + context.rank();
    std::uint64_t const value = values[place];
    std::uint64_t all[3];
    sums[3 * place] = context.exclusive_sum(memory.scan, value, all[0]);
    context.sync(0);
    sums[3 * place + 1] = context.exclusive_sum(memory.scan, value * value, all[1]);
    sums[3 * place + 2] = context.exclusive_sum(memory.other_scan, value * value * value, all[2]);
    if (context.rank() == 7)
      for (int i = 0; i < 3; ++i) totals[3 * context.block() + i] = all[i];
  }
};

/// Every lane's value seen from every other one, as an int and as a float, with both shuffles.
struct shuffles {
  static constexpr int threads = 64;
  template <class Context>
  struct shared {};
  int* values;  // [thread][mask]

  template <class Context>
  void operator()(Context const& context, shared<Context>&) const {
    for (int mask = 0; mask < warp_size; ++mask) {
      int const number = context.shuffle_xor(1000 * mask + context.rank(), mask);
      float const real = context.shuffle_xor(0.5f * static_cast<float>(context.rank()), mask);
      int const turned = context.shuffle(context.rank(), (context.rank() + mask) % warp_size);
      values[context.rank() * warp_size + mask] = number + static_cast<int>(2.0f * real) + 10000 * turned;
    }
  }
};

/// What each warp says to questions that its lanes answer differently.
struct votes {
  static constexpr int threads = 64;
  template <class Context>
  struct shared {};
  std::uint32_t* said;  // [thread][question]

  template <class Context>
  void operator()(Context const& context, shared<Context>&) const {
    for (int question = 0; question < warp_size; ++question)
      said[context.rank() * warp_size + question] = context.vote(answer(context.rank(), question));
  }
  static bool answer(int rank, int question) { return (rank * 7 + question) % 5 < 2; }
};

/// Sums of stages of 4 words per thread, through a ring of two stages: thread i adds what thread i + 1 has
/// copied.
struct copy_ring {
  static constexpr int threads = 64;
  template <class Context>
  struct shared {
    alignas(16) std::uint32_t stage[2][threads][4];
  };
  std::uint32_t const* words;  // [stage][thread][4]
  std::uint32_t* sums;         // [thread]
  int stages;

  template <class Context>
  void operator()(Context const& context, shared<Context>& memory) const {
    std::uint32_t sum = 0;
    copy(context, memory, 0);
    for (int stage = 0; stage < stages; ++stage) {
      copy(context, memory, stage + 1);
      context.template wait<1>();
      context.sync(0);
      std::uint32_t const* const from = memory.stage[stage % 2][(context.rank() + 1) % threads];
      for (int word = 0; word < 4; ++word) sum = 31 * sum + from[word];
      context.sync(1);
    }
    sums[context.rank()] = sum;
  }
  template <class Context>
  void copy(Context const& context, shared<Context>& memory, int stage) const {
    std::uint32_t const* const from = words + (stage * threads + context.rank()) * 4;
    std::uint32_t* const to = memory.stage[stage % 2][context.rank()];
    if (stage < stages) {
      context.template copy_async<8>(to, from);
      context.template copy_async<4>(to + 2, from + 2);
      context.template copy_async<4>(to + 3, from + 3);
    }
    context.commit();
  }

  void expect(std::vector<std::uint32_t>& wanted) const {
    wanted.assign(threads, 0u);
    for (int stage = 0; stage < stages; ++stage)
      for (int i = 0; i < threads; ++i)
        for (int word = 0; word < 4; ++word) {
          std::uint32_t& sum = wanted[static_cast<std::size_t>(i)];
          sum = 31 * sum + words[(stage * threads + (i + 1) % threads) * 4 + word];
        }
  }
};

/// c += a b per warp, registers filled as the PTX manual's figures show them.
template <class Element>
struct products {
  static constexpr int threads = 64;
  template <class Context>
  struct shared {};
  Element const* a;  // [warp][16][16]
  Element const* b;  // [warp][16][8]
  float* c;          // [warp][16][8]

  template <class Context>
  void operator()(Context const& context, shared<Context>&) const {
    int const warp = context.rank() / warp_size;
    int const group = context.rank() % warp_size >> 2;
    int const quad = context.rank() & 3;
    Element const* const rows = a + warp * 256;
    Element const* const columns = b + warp * 128;
    float* const sums = c + warp * 128;
    int const first = group * 16 + quad * 2;
    std::uint32_t const of_a[4] = {pair(rows[first], rows[first + 1]), pair(rows[first + 128], rows[first + 129]),
                                   pair(rows[first + 8], rows[first + 9]), pair(rows[first + 136], rows[first + 137])};
    int const top = quad * 16 + group;
    std::uint32_t const of_b[2] = {pair(columns[top], columns[top + 8]), pair(columns[top + 64], columns[top + 72])};
    int const out = group * 8 + quad * 2;
    float of_c[4] = {sums[out], sums[out + 1], sums[out + 64], sums[out + 65]};
    context.template mma<Element>(of_c, of_a, of_b);
    sums[out] = of_c[0];
    sums[out + 1] = of_c[1];
    sums[out + 64] = of_c[2];
    sums[out + 65] = of_c[3];
  }
  static std::uint32_t pair(Element low, Element high) { return std::uint32_t{high.bits} << 16 | low.bits; }
};

/// Counts the odd ranks, raises a flag per warp, and shows what shared memory held at first.
struct counters {
  static constexpr int threads = 128;
  template <class Context>
  struct shared {
    std::uint32_t odd;
    std::uint32_t untouched;
  };
  std::uint32_t* odd;        // [block]
  std::uint32_t* untouched;  // [block]
  std::uint32_t* flags;

  template <class Context>
  void operator()(Context const& context, shared<Context>& memory) const {
    if (context.rank() == 0) memory.odd = 0;
    context.sync(0);
    if (context.rank() % 2 == 1) context.count(&memory.odd);
    context.raise(flags, 1u << context.rank() / warp_size);
    context.sync(1);
    if (context.rank() != 5) return;
    odd[context.block()] = memory.odd;
    untouched[context.block()] = memory.untouched;
  }
};

/// A body that is a function of its context, for what has no arguments to speak of.
template <int Threads, class Function, int Cluster = 1>
struct function_body {
  static constexpr int threads = Threads;
  static constexpr int cluster = Cluster;
  template <class Context>
  struct shared {
    typename Context::template scan<int> scan;
    alignas(16) std::uint32_t words[8];
  };
  Function function;

  template <class Context>
  void operator()(Context const& context, shared<Context>& memory) const {
    function(context, memory);
  }
};

template <int Threads, int Cluster = 1, class Function>
function_body<Threads, Function, Cluster> body(Function function) {
  return {function};
}

}  // namespace testing::bodies
