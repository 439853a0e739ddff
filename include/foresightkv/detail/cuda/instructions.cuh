// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>
#include <cstdint>
#include <foresightkv/element.hpp>

// What has no intrinsic with exactly these semantics, as PTX of sm_80; clusters, as PTX of sm_90.
namespace foresightkv::inline v0::detail::cuda {

/// Starts a copy of 4, 8 or 16 aligned bytes; 16 go past the L1 cache.
template <int Bytes>
__device__ inline void copy_async(void* shared, void const* global) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "foresightkv: an asynchronous copy moves 4, 8 or 16 bytes");
  auto const to = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  auto const from = __cvta_generic_to_global(global);
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(Bytes) : "memory");
}

__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int Pending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

/// Barrier of all threads of a cluster: memory before is visible after. Below sm_90 there are no clusters, nor launches
/// of kernels that call this.
__device__ inline void sync_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#else
  __trap();
#endif
}

/// The same object in the shared memory of that block of the cluster.
template <class Object>
__device__ inline Object* shared_of_cluster(Object* object, [[maybe_unused]] int rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  std::uint64_t address;
  asm("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(object), "r"(rank));
  return reinterpret_cast<Object*>(address);
#else
  __trap();
  return object;
#endif
}

/// sums[16][8] += a[16][16] b[16][8], fp32 sums; fragments as PTX lays them out over a warp. Volatile: all lanes have
/// to be there, so it must not move into a branch.
template <class Element>
__device__ inline void mma_m16n8k16(float (&sums)[4], std::uint32_t const (&a)[4], std::uint32_t const (&b)[2]) {
  static_assert(std::same_as<Element, half> || std::same_as<Element, bfloat16>,
                "foresightkv: a matrix product multiplies half or bfloat16");
  if constexpr (std::same_as<Element, half>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Two floats as 16-bit ones, rounded to nearest even: `low` in the lower half.
template <class Element>
__device__ inline std::uint32_t pack_halves(float low, float high) {
  std::uint32_t word;
  if constexpr (std::same_as<Element, half>)
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

/// 2^x to two units in the last place; denormal arguments and results are 0.
__device__ inline float exp2_approximate(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

}  // namespace foresightkv::inline v0::detail::cuda
