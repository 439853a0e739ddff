// SPDX-License-Identifier: Apache-2.0
#include "support/device_setting.cuh"

namespace {

using namespace benchmarks;

/// Kernels of `compact` alone, on lists that stay as they are; and a copy of the bytes that it moves.
template <class Compaction>
void compact(benchmark::State& run) {
  model_axes const extents(run);
  auto const rule = fkv::compose(extents.config(), fkv::key_norm{}, fkv::top_k{}, Compaction{});
  using setting = device_setting<fkv::bfloat16, std::remove_const_t<decltype(rule)>>;
  auto settings = rotation<setting>(extents, rule);
  for (setting& at : settings)
    require(fkv::select(fkv::on(cudaStreamPerThread, traits()), rule, at.cache(), at.list, at.score_rows(), at.state, at.lists(),
                        at.scratch()));
  require(cudaStreamSynchronize(cudaStreamPerThread));
  replay(run, settings, [](auto const& exec, setting& at) {
    return fkv::compact(exec, at.rule, at.cache(), at.list, at.lists(), at.state, at.new_lengths(), at.scratch());
  });
  bool const moves_all = std::is_same_v<Compaction, fkv::ordered>;
  count_bytes(run, extents.rows() * (moves_all ? extents.budget : extents.interval) * 512.0 * 2.0);
}

/// Read and written bytes count, as above.
void device_copy(benchmark::State& run) {
  model_axes const extents(run);
  auto const bytes = static_cast<std::size_t>(extents.rows() * extents.budget * 512.0);
  std::vector<std::pair<device_buffer<std::byte>, device_buffer<std::byte>>> settings;
  for (int i = 0; i < 2; ++i) settings.emplace_back(bytes, bytes);
  cudaStream_t const stream = cudaStreamPerThread;
  cudaEvent_t begin = nullptr, end = nullptr;
  require(cudaEventCreate(&begin));
  require(cudaEventCreate(&end));
  for (auto _ : run) {
    require(cudaEventRecord(begin, stream));
    for (auto& [from, to] : settings) require(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, stream));
    require(cudaEventRecord(end, stream));
    require(cudaEventSynchronize(end));
    float milliseconds = 0.0f;
    require(cudaEventElapsedTime(&milliseconds, begin, end));
    run.SetIterationTime(0.5e-3 * static_cast<double>(milliseconds));
  }
  require(cudaEventDestroy(begin));
  require(cudaEventDestroy(end));
  count_bytes(run, 2.0 * static_cast<double>(bytes));
}

}  // namespace

BENCHMARK(compact<fkv::ordered>)->Name("cuda/compact/ordered")->Apply(model_sweep);
BENCHMARK(compact<fkv::fill_holes>)->Name("cuda/compact/fill_holes")->Apply(model_sweep);
BENCHMARK(device_copy)->Name("cuda/compact/device_copy")->Apply(model_sweep);
