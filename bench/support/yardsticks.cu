// SPDX-License-Identifier: Apache-2.0
#include <exception>

#include "support/device_timing.cuh"

namespace benchmarks {
namespace {

constexpr int mma_threads = 256, mma_chains = 8, mma_steps = 1 << 13;

/// bf16 pairs of both signs between 1 and 2: the power that a product draws depends on its operands.
__device__ std::uint32_t operand(std::uint32_t seed) {
  seed = seed * 0x9E3779B9u + 0x7F4A7C15u;
  seed = (seed ^ (seed >> 15)) * 0x85EBCA6Bu;
  return 0x3F803F80u | (seed & 0x807F807Fu);
}

/// Independent chains of products per warp, more than their latency takes.
__global__ void __launch_bounds__(mma_threads) mma_loop(float* out) {
  std::uint32_t const lane = blockIdx.x * blockDim.x + threadIdx.x;
  std::uint32_t a[4], b[mma_chains][2];
  float sums[mma_chains][4] = {};
  for (std::uint32_t i = 0; i < 4; ++i) a[i] = operand(64 * lane + i);
  for (std::uint32_t i = 0; i < 2 * mma_chains; ++i) b[i / 2][i % 2] = operand(64 * lane + 4 + i);
  for (int step = 0; step < mma_steps; ++step) {
#pragma unroll
    for (int chain = 0; chain < mma_chains; ++chain)
      fkv::detail::cuda::mma_m16n8k16<fkv::bfloat16>(sums[chain], a, b[chain]);
  }
  float total = 0.0f;
  for (auto const& chain : sums)
    for (float const sum : chain) total += sum;
  out[lane] = total;
}

int mma_blocks() { return 4 * traits().num_multiprocessors; }

}  // namespace

double mma_flops() {
  return 2.0 * 16 * 8 * 16 * mma_chains * mma_steps * (mma_threads / 32) * static_cast<double>(mma_blocks());
}

call_time time_mma() {
  std::vector<device_buffer<float>> settings;
  settings.emplace_back(static_cast<std::size_t>(mma_blocks() * mma_threads));
  return time_replays(settings, [](cudaStream_t stream, device_buffer<float> const& out) {
    mma_loop<<<static_cast<unsigned>(mma_blocks()), mma_threads, 0, stream>>>(out.data());
    require(cudaGetLastError());
  });
}

call_time time_large_copy() { return time_copy({{large_copy_bytes, 0.0}}); }

device_rates const& measured_rates() {
  static device_rates const rates = [] {
    device_rates found;
    found.copied_bytes = large_copy_bytes / time_large_copy().median;
    found.flops = found.mma_flops = mma_flops() / time_mma().median;
    try {
      found.flops = std::max(found.flops, matrix_product_flops / time_matrix_product().median);
    } catch (std::exception const&) {
      // no cuBLAS here: rates/cublas says so
    }
    return found;
  }();
  return rates;
}

}  // namespace benchmarks
