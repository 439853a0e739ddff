// SPDX-License-Identifier: Apache-2.0
// Whether ThreadSanitizer sees through the context of OS threads: `race_probe correct` is a body with all its
// barriers, the other variants lack one each or let blocks collide, and their races have to be reported. The
// exit status is 2 where nothing was run to its end, else ThreadSanitizer's.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string_view>
#include <vector>

#include "emulation/thread_block.hpp"

namespace {

/// Every barrier stands alone between a write and a read of another thread, beside a collective that must not
/// order them.
struct probe_body {
  static constexpr int threads = 64;
  template <class Context>
  struct shared {
    typename Context::template scan<std::uint64_t> scan;
    alignas(16) std::uint32_t copied[threads][4];
    std::uint32_t scanned[threads], shuffled[threads], multiplied[threads];
    std::uint32_t counter;
  };
  std::uint32_t const* from;  // [threads][4]
  std::uint32_t* to;          // [block][threads]
  std::uint32_t* flags;
  bool blocks_collide;

  template <class Context>
  void operator()(Context const& context, shared<Context>& memory) const {
    int const rank = context.rank();
    int const far = (rank + threads / 2) % threads;
    int const near = rank ^ 1;
    std::uint64_t all = 0;
    if (rank == 0) memory.counter = 0;
    context.sync(0);
    context.count(&memory.counter);

    memory.scanned[rank] = 1;
    std::uint64_t sum = context.exclusive_sum(memory.scan, std::uint64_t{1}, all);
    context.sync(1);
    sum += memory.scanned[far] + memory.counter;

    context.template copy_async<16>(memory.copied[rank], from + 4 * rank);
    context.commit();
    context.template wait<0>();
    context.sync(2);
    sum += memory.copied[far][0];

    memory.shuffled[rank] = 2;
    sum += static_cast<std::uint64_t>(context.shuffle_xor(rank, 1));
    context.sync_warp(0);
    sum += memory.shuffled[near];

    memory.multiplied[rank] = 3;
    float sums[4] = {};
    context.template mma<foresightkv::half>(sums, {1u, 2u, 3u, 4u}, {5u, 6u});
    context.sync_warp(1);
    sum += memory.multiplied[near];

    context.raise(flags, 1u);
    to[(blocks_collide ? 0 : context.block() * threads) + rank] = static_cast<std::uint32_t>(sum + all);
  }
};

/// The same for barriers of a cluster: a write, a barrier, a read by another block, a barrier, and the next write.
struct cluster_body {
  static constexpr int threads = 64;
  static constexpr int cluster = 2;
  template <class Context>
  struct shared {
    std::uint32_t value[threads];
  };
  std::uint32_t* to;  // [block][threads]

  template <class Context>
  void operator()(Context const& context, shared<Context>& memory) const {
    int const rank = context.rank();
    int const other = 1 - context.cluster_rank();
    context.sync_cluster(4);  // now the other one has begun
    std::uint32_t const& near = context.of_cluster(memory.value[(rank + 1) % threads], other);
    std::uint32_t const& same = context.of_cluster(memory.value[rank], other);
    std::uint32_t sum = 0;
    for (int round = 0; round < 2; ++round) {
      memory.value[rank] = 1;
      context.sync_cluster(0);
      sum += near;
      context.sync_cluster(1);
    }
    memory.value[rank] = sum;
    context.sync_cluster(2);
    to[context.block() * threads + rank] = same;
    context.sync_cluster(3);
  }
};

struct variant {
  std::string_view name;
  testing::block_faults faults;
  bool blocks_collide;
};

constexpr variant variants[] = {
    {"correct", {}, false},
    {"broken", {.skipped_sync = 1}, false},
    {"sync0", {.skipped_sync = 0}, false},
    {"sync1", {.skipped_sync = 1}, false},
    {"sync2", {.skipped_sync = 2}, false},
    {"warp0", {.skipped_warp_sync = 0}, false},
    {"warp1", {.skipped_warp_sync = 1}, false},
    {"cluster0", {.skipped_cluster_sync = 0}, false},
    {"cluster1", {.skipped_cluster_sync = 1}, false},
    {"cluster2", {.skipped_cluster_sync = 2}, false},
    {"cluster3", {.skipped_cluster_sync = 3}, false},
    {"blocks", {}, true},
};

void run(variant const& chosen) {
  std::vector<std::uint32_t> from(4 * probe_body::threads, 1u), to(6 * probe_body::threads);
  std::uint32_t flags = 0;
  (void)testing::thread_grid::run({.faults = chosen.faults}, 6,
                                  probe_body{from.data(), to.data(), &flags, chosen.blocks_collide});
  (void)testing::thread_grid::run({.faults = chosen.faults}, 6, cluster_body{to.data()});
}

}  // namespace

int main(int count, char** arguments) {
  try {
    std::string_view const wanted = count == 2 ? arguments[1] : "";
    for (variant const& each : variants) {
      if (each.name != wanted) continue;
      run(each);
      std::puts("done");
      return 0;
    }
    std::fputs("race_probe correct|broken|sync0|sync1|sync2|warp0|warp1|cluster0|cluster1|cluster2|cluster3|blocks\n",
               stderr);
  } catch (std::exception const& problem) {
    std::fprintf(stderr, "%s\n", problem.what());
  }
  return 2;
}
