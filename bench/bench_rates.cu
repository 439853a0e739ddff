// SPDX-License-Identifier: Apache-2.0
#include "support/device_timing.cuh"

// What the floors of all other benchmarks are made of.
namespace {

using namespace benchmarks;

void copy(benchmark::State& run) { report(run, time_large_copy(), {{large_copy_bytes, 0.0}}); }
void mma(benchmark::State& run) { report(run, time_mma(), {{0.0, mma_flops()}}); }
void cublas(benchmark::State& run) { report(run, time_matrix_product(), {{0.0, matrix_product_flops}}); }

}  // namespace

BENCHMARK(on_device<copy>)->Name("rates/copy")->Apply(one_measurement);
BENCHMARK(on_device<mma>)->Name("rates/mma_sync")->Apply(one_measurement);
BENCHMARK(on_device<cublas>)->Name("rates/cublas")->Apply(one_measurement);
