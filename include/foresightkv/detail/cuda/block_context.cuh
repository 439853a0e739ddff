// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cub/block/block_scan.cuh>
#include <foresightkv/detail/cuda/instructions.cuh>
#include <foresightkv/detail/kernels/block_context.hpp>

namespace foresightkv::inline v0::detail::cuda {

/// The block context of a device, of architecture sm_80 and later. Its members exist on the device alone, though bodies
/// are host and device functions: nvcc checks an instantiation where it is called from, and only kernels call these.
template <int Threads, int Cluster = 1>
struct cuda_block {
  static_assert(Threads > 0 && Threads <= 1024 && Threads % kernels::warp_size == 0,
                "foresightkv: a block must be 1 to 32 whole warps");
  static_assert(Cluster > 0 && Cluster <= kernels::largest_cluster, "foresightkv: a cluster has 1 to 8 blocks");
  static constexpr int threads = Threads;
  static constexpr int cluster = Cluster;

  template <class Value>
  using block_scan = cub::BlockScan<Value, Threads, cub::BLOCK_SCAN_WARP_SCANS>;
  template <class Value>
  using scan = typename block_scan<Value>::TempStorage;

  __device__ int rank() const { return static_cast<int>(threadIdx.x); }
  __device__ int block() const { return static_cast<int>(blockIdx.x); }
  __device__ int cluster_rank() const { return block() % Cluster; }

  __device__ void sync(int) const { __syncthreads(); }
  __device__ void sync_warp(int) const { __syncwarp(); }
  __device__ void sync_cluster(int number) const {
    if constexpr (Cluster > 1)
      cuda::sync_cluster();
    else
      sync(number);
  }
  template <class Object>
  __device__ Object& of_cluster(Object& object, int rank) const {
    if constexpr (Cluster > 1)
      return *shared_of_cluster(&object, rank);
    else
      return object;
  }

  template <class Value>
  __device__ Value exclusive_sum(scan<Value>& scratch, Value value, Value& all) const {
    Value before;
    block_scan<Value>(scratch).ExclusiveSum(value, before, all);
    return before;
  }

  template <class Value>
  __device__ Value shuffle_xor(Value value, int mask) const {
    return __shfl_xor_sync(0xffffffffu, value, mask);
  }
  template <class Value>
  __device__ Value shuffle(Value value, int lane) const {
    return __shfl_sync(0xffffffffu, value, lane);
  }
  __device__ std::uint32_t vote(bool said) const { return __ballot_sync(0xffffffffu, said); }

  // Without use of the result, the hardware adds equal addresses of a warp in one step.
  __device__ void count(std::uint32_t* counter) const { atomicAdd(counter, 1u); }
  __device__ void raise(std::uint32_t* flags, std::uint32_t bits) const { atomicOr(flags, bits); }

  template <int Bytes>
  __device__ void copy_async(void* to, void const* from) const {
    cuda::copy_async<Bytes>(to, from);
  }
  __device__ void commit() const { commit_copies(); }
  template <int Pending>
  __device__ void wait() const {
    wait_copies<Pending>();
  }

  template <class Element>
  __device__ void mma(float (&sums)[4], std::uint32_t const (&a)[4], std::uint32_t const (&b)[2]) const {
    mma_m16n8k16<Element>(sums, a, b);
  }
  template <class Element>
  __device__ std::uint32_t pack(float low, float high) const {
    return pack_halves<Element>(low, high);
  }
  __device__ float exp2(float x) const { return exp2_approximate(x); }
};

static_assert(kernels::block_context<cuda_block<kernels::warp_size>>);

}  // namespace foresightkv::inline v0::detail::cuda
