// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/kernels/block_context.hpp>
#include <foresightkv/element.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// x * y as a float, which no compiler fuses into what is added: of a huge exponent and the largest one, rounded alike,
/// the difference is then never above 0.
FORESIGHTKV_HOST_DEVICE inline float rounded_product(float x, float y) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(x, y);
#else
  return x * y;
#endif
}

/// Dot products of a block's own vectors, one per thread, with `width` vectors that all threads share: a thread's
/// products stay in its registers, so that what is made of them needs no atomics and no shared memory. fp32 whatever
/// the storage. Each product is one chain of additions in order of dimension: the same bits for any grid.
struct dot_tile {
  static constexpr int width = 32;
  static constexpr int chunk = 32;  // dimensions that are in shared memory at a time
  enum sync : int { consumed = 8, staged };

  template <int Threads>
  struct shared {
    // Padded so that rows are written and columns read without bank conflicts (of `common`: 4 lanes share a bank).
    float own[chunk][Threads + 1];
    alignas(16) float common[chunk][width + 4];
  };

  /// products[i] = own_at(rank) . common_at(i) for i < count; 0 beyond. A null pointer stands for a vector of zeros.
  template <class Context, class OwnAt, class CommonAt>
  FORESIGHTKV_HOST_DEVICE static void multiply(Context const& c, shared<Context::threads>& memory, int dims,
                                               OwnAt const& own_at, int count, CommonAt const& common_at,
                                               float (&products)[width]) {
    for (float& product : products) product = 0.0f;
    for (int from = 0; from < dims; from += chunk) {
      int const here = dims - from < chunk ? dims - from : chunk;
      c.sync(consumed);
      stage(c, Context::threads, Context::threads, from, here, own_at,
            [&](int d, int i) -> float& { return memory.own[d][i]; });
      stage(c, width, count, from, here, common_at, [&](int d, int i) -> float& { return memory.common[d][i]; });
      c.sync(staged);
      for (int d = 0; d < here; ++d) {
        float const own = memory.own[d][c.rank()];
        for (int i = 0; i < width; ++i) products[i] += own * memory.common[d][i];
      }
    }
  }

 private:
  /// A warp per vector, a lane per dimension.
  template <class Context, class VectorAt, class Place>
  FORESIGHTKV_HOST_DEVICE static void stage(Context const& c, int vectors, int count, int from, int dims,
                                            VectorAt const& vector_at, Place const& place) {
    static_assert(chunk == warp_size);
    int const lane = c.rank() % warp_size;
    for (int i = c.rank() / warp_size; i < vectors; i += Context::threads / warp_size) {
      auto const* const vector = i < count ? vector_at(i) : nullptr;
      place(lane, i) = vector != nullptr && lane < dims ? to_float(vector[from + lane]) : 0.0f;
    }
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
