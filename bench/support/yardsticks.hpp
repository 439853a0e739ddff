// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "support/floor.hpp"

namespace benchmarks {

/// Seconds of one call: median and least over the repeats.
struct call_time {
  double median = 0.0, least = 0.0;
};

/// A copy of 1 GiB on the device. Its bytes read and written are large_copy_bytes.
call_time time_large_copy();
inline constexpr double large_copy_bytes = 2.0 * (1 << 30);

/// mma.sync m16n8k16 in bf16 from registers, enough of them on every multiprocessor.
call_time time_mma();
double mma_flops();  ///< of the call that time_mma times

/// The product of two 8192 x 8192 matrices in bf16 with fp32 sums, by cuBLAS. Without cuBLAS it throws.
call_time time_matrix_product();
inline constexpr double matrix_product_flops = 2.0 * 8192 * 8192 * 8192;

/// The rates of this device, measured at the first call.
device_rates const& measured_rates();

}  // namespace benchmarks
