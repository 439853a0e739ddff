// SPDX-License-Identifier: Apache-2.0
#include <foresightkv/golden/eviction.hpp>

#include "support/device_setting.cuh"

namespace {

using namespace benchmarks;

/// One layer of a whole sequence. Axes: tokens, budget, interval; 8 KV heads, group 4, head dimension 128.
void sequence_axis(benchmark::internal::Benchmark* run) {
  run->ArgNames({"tokens", "budget", "interval"});
  for (int tokens : {4096, 16384, 32768}) run->Args({tokens, 1024, 128});
  one_measurement(run);
}

struct recorded_layer {
  fkv::golden_config config;
  fkv::golden_shape shape;
  device_buffer<fkv::bfloat16> queries, keys;
  device_buffer<float> labels;
  device_buffer<std::int32_t> evicted;
  device_buffer<std::byte> scratch;

  recorded_layer(int tokens, fkv::golden_config const& given)
      : config(given),
        shape{8, 4, tokens, 128},
        queries(32 * static_cast<std::size_t>(tokens) * 128),
        keys(8 * static_cast<std::size_t>(tokens) * 128),
        labels(static_cast<std::size_t>(8 * given.steps(tokens)) * static_cast<std::size_t>(given.budget)),
        evicted(static_cast<std::size_t>(8 * given.steps(tokens)) * static_cast<std::size_t>(given.interval)),
        scratch(fkv::golden_eviction_bytes(fkv::prepare(traits()), given, shape)) {
    queries.fill_normal();
    keys.fill_normal();
  }
};

void golden_eviction(benchmark::State& run) {
  auto const tokens = static_cast<int>(run.range(0));
  fkv::golden_config const config{.budget = static_cast<int>(run.range(1)), .interval = static_cast<int>(run.range(2))};
  std::vector<recorded_layer> settings;
  settings.emplace_back(tokens, config);
  call_time const time = time_verb(settings, [](auto const& exec, recorded_layer& at) {
    fkv::golden_input<fkv::bfloat16> const input{
        .queries = at.queries.data(), .keys = at.keys.data(), .shape = at.shape};
    return fkv::golden_eviction(exec, at.config, input, {.labels = at.labels.data(), .evicted = at.evicted.data()},
                                {at.scratch.data(), at.scratch.size()});
  });
  // Two causal passes over queries and keys.
  double const bytes = 2.0 * 40.0 * tokens * 128.0 * 2.0;
  report(run, time, {{bytes, 2.0 * 2.0 * 32.0 * 128.0 * 0.5 * tokens * static_cast<double>(tokens)}});
}

}  // namespace

BENCHMARK(on_device<golden_eviction>)->Name("golden/ours")->Apply(sequence_axis);
