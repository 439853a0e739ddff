// SPDX-License-Identifier: Apache-2.0
#include "support/scored_rows.cuh"

namespace {

using namespace benchmarks;

/// A layer of `rows` KV heads, of which `select` sees scores alone.
template <class Selector>
class scored_layer {
 public:
  explicit scored_layer(score_axes const& extents)
      : extents_(extents),
        shape_{.num_kv_heads = extents.rows, .key_head_dim = 1, .value_head_dim = 1, .capacity = extents.tokens},
        list_{nullptr, nullptr, 1, extents.tokens},
        rule_(policy(extents)),
        scores_(extents),
        values_(1),
        lengths_(std::vector<std::int32_t>{extents.tokens}),
        kept_(extents.cells()),
        evicted_(extents.cells()),
        evicted_count_(static_cast<std::size_t>(extents.rows)),
        state_bytes_(fkv::state_bytes(policy_type{}, shape_, extents.tokens)),
        scratch_(fkv::evict_bytes(fkv::prepare(traits()), policy_type{}, shape_, list_, 0)) {}

  template <class Exec>
  fkv::status select(Exec const& exec) const {
    auto const state =
        fkv::make_state(policy_type{}, shape_, extents_.tokens, {state_bytes_.data(), state_bytes_.size()});
    auto const cache = fkv::dense_cache<float>::hnd(values_.data(), values_.data(), lengths_.data(), shape_);
    fkv::selection const lists{kept_.data(), evicted_.data(), evicted_count_.data(), nullptr, extents_.tokens};
    return fkv::select(exec, fkv::batch{rule_, cache, list_, state, {scratch_.data(), scratch_.size()}},
                       fkv::score_view{scores_.data(), extents_.tokens}, lists);
  }

  void check() const {
    require(std::ranges::all_of(evicted_count_.read(evicted_count_.size()),
                                [&](auto count) { return count == extents_.evicted; }),
            "a row was not cut");
  }

 private:
  static auto policy(score_axes const& extents) {
    return fkv::compose({.budget = extents.kept(), .interval = extents.evicted, .recent_tokens = 0}, fkv::key_norm{},
                        Selector{}, fkv::fill_holes{});
  }
  using policy_type = decltype(policy(std::declval<score_axes>()));

  score_axes extents_;
  fkv::cache_shape shape_;
  fkv::sequence_list list_;
  policy_type rule_;
  score_rows scores_;
  device_buffer<float> values_;
  device_buffer<std::int32_t> lengths_, kept_, evicted_, evicted_count_;
  device_buffer<std::byte> state_bytes_, scratch_;
};

template <class Selector>
void select(benchmark::State& run) {
  score_axes const extents(run);
  auto settings = cold_rows<scored_layer<Selector>>(extents);
  require(settings.front().select(fkv::prepare(traits())));
  call_time const time = time_replays(
      settings, [](cudaStream_t stream, auto const& at) { require(at.select(fkv::on(stream, traits()))); });
  for (auto const& setting : settings) setting.check();
  report_selection(run, extents, time);
}

}  // namespace

BENCHMARK(on_device<select<fkv::top_k>>)->Name("select/ours/top_k")->Apply(score_sweep);
BENCHMARK(on_device<select<fkv::sampled_top_k>>)->Name("select/ours/sampled_top_k")->Apply(score_corner);
