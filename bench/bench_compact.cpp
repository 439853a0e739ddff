// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "support/setting.hpp"

namespace {

using namespace benchmarks;

// Selects once; every iteration moves the same lists again, on rows that look as before.
template <class Element, class Compaction>
void compact(benchmark::State& run) {
  axes const extents(run);
  auto const rule = fkv::compose(extents.config(), fkv::window_sum{}, fkv::top_k{}, Compaction{});
  auto made = make_setting<Element>(extents, rule);
  if (!fkv::select(fkv::host, made.rows(), made.score_rows(), made.lists()).ok()) run.SkipWithError("select failed");
  for (auto _ : run) {
    run.PauseTiming();
    made.restart();
    run.ResumeTiming();
    if (!fkv::compact(fkv::host, made.rows(), made.lists(), made.new_lengths.data()).ok())
      run.SkipWithError("compact failed");
    benchmark::ClobberMemory();
  }
  double const moved = std::is_same_v<Compaction, fkv::ordered>
                           ? static_cast<double>(made.cache_bytes()) * extents.budget / extents.tokens()
                           : static_cast<double>(made.cache_bytes()) * extents.interval / extents.tokens();
  count_bytes(run, moved);
}

// A copy of as many bytes as ordered compaction moves at most.
template <class Element>
void same_bytes_memcpy(benchmark::State& run) {
  axes const extents(run);
  auto const cells = static_cast<std::size_t>(extents.rows()) * static_cast<std::size_t>(extents.budget) *
                     static_cast<std::size_t>(extents.head_dim) * 2;
  std::vector<Element> from(cells), to(cells);
  for (auto _ : run) {
    std::memcpy(to.data(), from.data(), cells * sizeof(Element));
    benchmark::ClobberMemory();
  }
  count_bytes(run, static_cast<double>(cells * sizeof(Element)));
}

}  // namespace

BENCHMARK(compact<float, fkv::ordered>)->Name("compact/ordered/float")->Apply(sweep);
BENCHMARK(compact<fkv::bfloat16, fkv::ordered>)->Name("compact/ordered/bfloat16")->Apply(sweep);
BENCHMARK(compact<float, fkv::fill_holes>)->Name("compact/fill_holes/float")->Apply(sweep);
BENCHMARK(same_bytes_memcpy<float>)->Name("compact/memcpy/float")->Apply(sweep);
BENCHMARK(same_bytes_memcpy<fkv::bfloat16>)->Name("compact/memcpy/bfloat16")->Apply(sweep);
