// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <foresightkv/element.hpp>
#include <foresightkv/status.hpp>

namespace foresightkv::inline v0::detail::kernels {

// A kernel is a body: a trivially copyable struct of its arguments,
//   threads                       threads per block, a multiple of the warp
//   cluster                      blocks per cluster, 1 if it is left out: blocks [cluster * k, cluster * k + cluster)
//                                of a grid run at the same time and see each other's shared memory
//   template <class C> shared     its shared memory, uninitialised when a block starts
//   operator()(context, shared)   what every thread of every block does
// The context is all that a body knows of where it runs: detail/cuda has one for a device, tests/emulation two for a
// CPU, on which every body is run with hostile schedules. Hence the rules:
//   - threads of a block meet only in calls of the context, and all of them make the same calls in the same order
//     (of shuffles, votes, copies and sync_warp: all threads of a warp);
//   - a shuffle, a vote, a counter and a scan order no memory: what one thread wrote and another reads has a sync
//     between;
//   - every sync has a number of its own, so that a test can take it away and see something fail;
//   - a block of a cluster ends when the others have read its shared memory for the last time.

/// Threads that shuffle among themselves.
inline constexpr int warp_size = 32;

/// Most blocks of a cluster that every device with clusters can run.
inline constexpr int largest_cluster = 8;

/// Blocks of a body's cluster.
template <class Body>
constexpr int cluster_of() {
  if constexpr (requires { Body::cluster; })
    return Body::cluster;
  else
    return 1;
}

/// What a body may ask of its block.
///
///   rank(), block()              thread in its block, block in the grid
///   cluster_rank()               block in its cluster: block() % cluster
///   sync(n), sync_warp(n)        barriers, numbered; memory before is visible after
///   sync_cluster(n)              the same for all threads of a cluster
///   of_cluster(object, rank)     the same object in the shared memory of that block of the cluster, after a
///                                sync_cluster
///   exclusive_sum(scan, x, all)  sum of x over lower ranks; `all` becomes the block's sum. No overflow check. The
///                                scratch may be used again after a sync
///   shuffle_xor(x, mask)         x of the lane whose number differs in these bits
///   shuffle(x, lane)             x of that lane; every lane may name another one
///   vote(said)                   bit i: what lane i said
///   count(counter)               adds 1 to a counter in shared memory
///   raise(flags, bits)           sets bits of a word in global memory
///   copy_async<Bytes>(to, from)  global to shared memory, 4, 8 or 16 aligned bytes; lands when this thread waits for
///                                it
///   commit(), wait<Pending>()    closes a group of copies; waits until at most Pending groups of this thread are open
///   mma<Element>(acc, a, b)      acc[16][8] += a[16][16] b[16][8] of a warp, Element half or bfloat16, fp32 sums, in
///                                the register layout of PTX's mma.m16n8k16
///   pack<Element>(low, high)     two floats rounded to nearest even, in the halves of a word
///   exp2(x)                      2^x to a few units in the last place; 0 where that is denormal
template <class Context>
concept block_context = requires(Context const context, typename Context::template scan<std::uint64_t>& scan,
                                 std::uint64_t wide, float real, std::uint32_t* word, void* to, void const* from,
                                 float (&sums)[4], std::uint32_t const (&a)[4], std::uint32_t const (&b)[2]) {
  { Context::threads } -> std::convertible_to<int>;
  { Context::cluster } -> std::convertible_to<int>;
  { context.rank() } -> std::same_as<int>;
  { context.block() } -> std::same_as<int>;
  { context.cluster_rank() } -> std::same_as<int>;
  context.sync(0);
  context.sync_warp(0);
  context.sync_cluster(0);
  { context.of_cluster(wide, 0) } -> std::same_as<std::uint64_t&>;
  { context.exclusive_sum(scan, wide, wide) } -> std::same_as<std::uint64_t>;
  { context.shuffle_xor(real, 1) } -> std::same_as<float>;
  { context.shuffle_xor(1, 1) } -> std::same_as<int>;
  { context.shuffle(real, 1) } -> std::same_as<float>;
  { context.vote(true) } -> std::same_as<std::uint32_t>;
  context.count(word);
  context.raise(word, 1u);
  context.template copy_async<16>(to, from);
  context.commit();
  context.template wait<0>();
  context.template mma<half>(sums, a, b);
  { context.template pack<half>(real, real) } -> std::same_as<std::uint32_t>;
  { context.exp2(real) } -> std::same_as<float>;
};

/// Starts bodies: `static status run(Exec const&, int blocks, Body const&)`. Specialised for every execution tag whose
/// backend is made of kernel bodies. No blocks, no launch. Launches of one tag run in order. A body with a cluster is
/// started only where `static bool clusters(Exec const&)` says so.
template <class Exec>
struct launcher;

}  // namespace foresightkv::inline v0::detail::kernels
