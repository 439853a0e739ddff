// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>
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

/// Lowest lane of a vote that some lane said yes to.
FORESIGHTKV_HOST_DEVICE inline int first_lane(std::uint32_t votes) {
#if defined(__CUDA_ARCH__)
  return __ffs(static_cast<int>(votes)) - 1;
#else
  return std::countr_zero(votes);
#endif
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
  bool const warp = c.vote(mine) != 0;
  if (c.rank() % warp_size == 0) said[c.rank() / warp_size] = warp;
  c.sync(number);
  int all = 0;
  for (int other : said) all |= other;
  return all != 0;
}

/// Bits that some thread of the block has set. As block_any.
template <class Context>
FORESIGHTKV_HOST_DEVICE int block_or(Context const& c, int (&said)[Context::threads / warp_size], int mine,
                                     int number) {
  for (int mask = warp_size / 2; mask > 0; mask /= 2) mine |= c.shuffle_xor(mine, mask);
  if (c.rank() % warp_size == 0) said[c.rank() / warp_size] = mine;
  c.sync(number);
  int all = 0;
  for (int other : said) all |= other;
  return all;
}

/// What a sum over a cluster is made of.
template <class Value>
struct cluster_sums {
  Value before{};  // of blocks of lower rank
  Value own{};     // of this block
  Value all{};
};

/// What every warp of the cluster has left in its cell, after a barrier of the cluster.
template <class Context, class Value>
FORESIGHTKV_HOST_DEVICE cluster_sums<Value> sum_cells(Context const& c, Value (&cells)[Context::threads / warp_size]) {
  constexpr int warps = Context::threads / warp_size;
  cluster_sums<Value> sums;
  for (int i = c.rank() % warp_size; i < Context::cluster * warps; i += warp_size) {
    int const rank = i / warps;
    Value const value = c.of_cluster(cells[i % warps], rank);
    sums.all += value;
    if (rank < c.cluster_rank()) sums.before += value;
    if (rank == c.cluster_rank()) sums.own += value;
  }
  return {warp_sum(c, sums.before), warp_sum(c, sums.own), warp_sum(c, sums.all)};
}

}  // namespace foresightkv::inline v0::detail::kernels
