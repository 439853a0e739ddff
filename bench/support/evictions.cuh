// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "support/device_setting.cuh"

namespace benchmarks {

/// Judges of 36 layers.
class random_judges {
 public:
  random_judges() : packed_(fkv::packed_judge_floats(shape)) { packed_.fill_normal(); }
  [[nodiscard]] fkv::foresight<> scorer() const { return {{packed_.data(), shape}}; }

 private:
  static constexpr fkv::judge_shape shape{36, 8, 4, 128, 128};
  device_buffer<float> packed_;
};

/// What a scorer cannot do without, for its floor.
template <class Scorer>
scorer_reads reads_of(model_axes const& extents) {
  double const carried = fkv::carried_statistics<typename Scorer::reads>::size;
  if constexpr (std::is_same_v<Scorer, fkv::foresight<>>)
    return {.queries = 1.0 * extents.interval, .values = true, .carried = carried, .judge = true};
  else if constexpr (std::is_same_v<Scorer, fkv::snap_kv<>>)
    return {.queries = 8};
  else
    return {.queries = Scorer::reads::size > 0 ? extents.interval : 0.0, .carried = carried};
}

template <class Scorer, class Compaction, class Tokens = in_rows<fkv::bfloat16>>
work removal(model_axes const& extents) {
  double const moved = std::is_same_v<Compaction, fkv::ordered> ? extents.budget : extents.interval;
  row_extents const row = extents.template row<Tokens>();
  return select_work(row.rows, extents.tokens()) +
         move_work(row, moved, fkv::carried_statistics<typename Scorer::reads>::size);
}

/// Times `evict`, and says what it has to do at least.
template <class Scorer, class Compaction, bool WithLse, class Tokens = in_rows<fkv::bfloat16>>
void time_evict(benchmark::State& run, Scorer const& scorer) {
  model_axes const extents(run);
  auto settings = cold_models<Tokens>(extents, fkv::compose(extents.config(), scorer, fkv::top_k{}, Compaction{}));
  call_time const time = time_verb(settings, [](auto const& exec, auto& at) {
    auto const window = WithLse ? at.window_with_lse() : at.window();
    return fkv::evict(exec, at.rows(), window, {at.new_lengths()});
  });
  for (auto const& setting : settings) setting.check();
  row_extents const row = extents.template row<Tokens>();
  bool const sums = !WithLse && reads_of<Scorer>(extents).queries > 0;
  report(run, time,
         {sums ? lse_work(row) : work{}, score_work(row, reads_of<Scorer>(extents)),
          removal<Scorer, Compaction, Tokens>(extents)});
}

}  // namespace benchmarks
