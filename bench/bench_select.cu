// SPDX-License-Identifier: Apache-2.0
#include "support/device_setting.cuh"

namespace {

using namespace benchmarks;

/// Rows of scores alone. Axes: rows, tokens, evicted.
void rows_axis(benchmark::internal::Benchmark* run) {
  run->ArgNames({"rows", "tokens", "evicted"});
  for (int tokens : {256, 1152, 4096, 16384, 65536, 131072}) run->Args({288, tokens, 128});
  for (int rows : {8, 4608}) run->Args({rows, 1152, 128});
  run->Args({288, 1152, 576});
  run->Unit(benchmark::kMicrosecond)->UseManualTime();
}

struct scored_rows {
  fkv::cache_shape shape;
  fkv::sequence_list list;
  device_buffer<float> values, scores;
  device_buffer<std::int32_t> lengths, kept, evicted, evicted_count;
  device_buffer<std::byte> state_bytes, scratch;

  template <class Policy>
  scored_rows(int rows, int tokens, Policy const&)
      : shape{.num_kv_heads = rows, .key_head_dim = 1, .value_head_dim = 1, .capacity = tokens},
        list{nullptr, nullptr, 1, tokens},
        values(1),
        scores(cells()),
        lengths(std::vector<std::int32_t>{tokens}),
        kept(cells()),
        evicted(cells()),
        evicted_count(static_cast<std::size_t>(rows)),
        state_bytes(fkv::state_bytes<Policy>(shape, tokens)),
        scratch(fkv::evict_bytes<Policy>(fkv::prepare(traits()), shape, list, 0)) {
    scores.fill_normal(static_cast<std::uint64_t>(rows));
  }
  [[nodiscard]] std::size_t cells() const {
    return static_cast<std::size_t>(shape.num_kv_heads) * static_cast<std::size_t>(shape.capacity);
  }
};

template <class Selector>
void select(benchmark::State& run) {
  auto const rows = static_cast<int>(run.range(0)), tokens = static_cast<int>(run.range(1));
  auto const evicted = static_cast<int>(run.range(2));
  auto const rule = fkv::compose({.budget = tokens - evicted, .interval = evicted, .recent_tokens = 0}, fkv::key_norm{}, Selector{},
                                 fkv::fill_holes{});
  using policy_type = std::remove_const_t<decltype(rule)>;
  std::vector<scored_rows> settings;
  settings.emplace_back(rows, tokens, rule);
  settings.emplace_back(rows, tokens, rule);
  replay(run, settings, [&](auto const& exec, scored_rows& at) {
    auto const state = fkv::make_state<policy_type>(at.shape, tokens, {at.state_bytes.data(), at.state_bytes.size()});
    auto const cache = fkv::dense_cache<float>::hnd(at.values.data(), at.values.data(), at.lengths.data(), at.shape);
    fkv::selection const lists{at.kept.data(), at.evicted.data(), at.evicted_count.data(), nullptr, tokens};
    return fkv::select(exec, rule, cache, at.list, fkv::score_view{at.scores.data(), tokens}, state, lists,
                       {at.scratch.data(), at.scratch.size()});
  });
  run.SetItemsProcessed(run.iterations() * rows * tokens);
}

}  // namespace

BENCHMARK(select<fkv::top_k>)->Name("cuda/select/top_k")->Apply(rows_axis);
BENCHMARK(select<fkv::sampled_top_k>)->Name("cuda/select/sampled_top_k")->Apply(rows_axis);
