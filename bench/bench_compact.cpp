// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "support/setting.hpp"

namespace {

using namespace benchmarks;

// Selects once; every iteration moves the same lists again, on rows that look as before.
template <class Tokens, class Compaction>
void compact(benchmark::State& run) {
  axes const extents(run);
  auto const rule = fkv::compose(extents.config(), fkv::window_sum{}, fkv::top_k{}, Compaction{});
  setting<Tokens, std::remove_const_t<decltype(rule)>> made(extents, rule);
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

using int8_rows = in_rows<fkv::scaled_by_token<std::int8_t>>;
using int8_pages = in_pages<fkv::scaled_by_token<std::int8_t>, 16>;

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

BENCHMARK(compact<in_rows<float>, fkv::ordered>)->Name("compact/ordered/float")->Apply(sweep);
BENCHMARK(compact<in_rows<fkv::bfloat16>, fkv::ordered>)->Name("compact/ordered/bfloat16")->Apply(sweep);
BENCHMARK(compact<in_rows<float>, fkv::fill_holes>)->Name("compact/fill_holes/float")->Apply(sweep);
BENCHMARK(compact<in_pages<float, 16>, fkv::ordered>)->Name("compact/ordered/float/pages")->Apply(sweep);
BENCHMARK(compact<in_pages<fkv::bfloat16, 16>, fkv::ordered>)->Name("compact/ordered/bfloat16/pages")->Apply(sweep);
BENCHMARK(compact<in_pages<float, 16>, fkv::fill_holes>)->Name("compact/fill_holes/float/pages")->Apply(sweep);
BENCHMARK(compact<int8_rows, fkv::ordered>)->Name("compact/ordered/int8")->Apply(sweep);
BENCHMARK(compact<int8_pages, fkv::ordered>)->Name("compact/ordered/int8/pages")->Apply(sweep);
BENCHMARK(same_bytes_memcpy<float>)->Name("compact/memcpy/float")->Apply(sweep);
BENCHMARK(same_bytes_memcpy<fkv::bfloat16>)->Name("compact/memcpy/bfloat16")->Apply(sweep);
