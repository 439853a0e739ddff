// SPDX-License-Identifier: Apache-2.0
// Evictions of tokens that stand elsewhere than in rows of bf16, and into another cache.
#include "support/evictions.cuh"

namespace {

using namespace benchmarks;

using int8 = fkv::scaled_by_token<std::int8_t>;

template <class Tokens, class Compaction>
void judge(benchmark::State& run) {
  random_judges const weights;
  time_evict<fkv::foresight<>, Compaction, true, Tokens>(run, weights.scorer());
}
template <class Tokens, class Scorer, class Compaction>
void free_scorer(benchmark::State& run) {
  time_evict<Scorer, Compaction, true, Tokens>(run, {});
}

/// An axis more says that this is another model, which nothing of the others' shape is put beside.
void latent_corner(benchmark::internal::Benchmark* run) {
  run->ArgNames({"batch", "budget", "interval", "layers"});
  for (int batch : {1, 16, 64}) run->Args({batch, 1024, 128, latent_rows::layers});
  run->Args({1, 4096, 128, latent_rows::layers});
  one_measurement(run);
}

/// A cache with room for the budget alone.
template <class Tokens>
class target_setting {
 public:
  explicit target_setting(model_axes const& extents)
      : shape_(target_shape(extents)),
        tokens_(shape_),
        rooms_(std::vector<std::int32_t>(static_cast<std::size_t>(extents.batch), extents.budget)) {}
  [[nodiscard]] auto cache() const { return tokens_.cache(rooms_.data(), shape_); }

 private:
  static fkv::cache_shape target_shape(model_axes const& extents) {
    fkv::cache_shape shape = extents.template shape<Tokens>();
    shape.capacity = extents.budget;
    return shape;
  }
  fkv::cache_shape shape_;
  Tokens tokens_;
  device_buffer<std::int32_t> rooms_;
};

/// What stays is read from one cache and written to the other.
template <class Target>
work copy_work(model_axes const& extents) {
  row_extents const from = extents.row(), to = extents.template row<Target>();
  return {from.rows * from.budget * from.vectors * from.head_dim * (from.element_bytes + to.element_bytes), 0.0};
}

template <class Target>
void judge_into(benchmark::State& run) {
  model_axes const extents(run);
  random_judges const weights;
  auto settings =
      cold_models(extents, fkv::compose(extents.config(), weights.scorer(), fkv::top_k{}, fkv::fill_holes{}));
  std::vector<target_setting<Target>> targets;
  for (std::size_t i = 0; i < settings.size(); ++i) targets.emplace_back(extents);
  call_time const time = time_verb(settings, [&](auto const& exec, auto& at) {
    auto const& target = targets[static_cast<std::size_t>(&at - settings.data())];
    return fkv::evict(exec, at.rows().into(target.cache()), at.window_with_lse(), {at.new_lengths()});
  });
  for (auto const& setting : settings) setting.check();
  row_extents const row = extents.row();
  report(run, time,
         {score_work(row, reads_of<fkv::foresight<>>(extents)),
          select_work(row.rows, extents.tokens()) + copy_work<Target>(extents)});
}

}  // namespace

BENCHMARK(on_device<judge<in_pages<fkv::bfloat16>, fkv::fill_holes>>)
    ->Name("evict/ours/pages/foresight/fill_holes/lse")
    ->Apply(model_corner);
BENCHMARK(on_device<judge<in_pages<fkv::bfloat16>, fkv::ordered>>)
    ->Name("evict/ours/pages/foresight/ordered/lse")
    ->Apply(model_corner);
BENCHMARK(on_device<judge<in_rows<int8>, fkv::fill_holes>>)
    ->Name("evict/ours/int8/foresight/fill_holes/lse")
    ->Apply(model_corner);
BENCHMARK(on_device<judge<in_pages<int8>, fkv::fill_holes>>)
    ->Name("evict/ours/int8_pages/foresight/fill_holes/lse")
    ->Apply(model_corner);
BENCHMARK(on_device<free_scorer<latent_rows, fkv::key_norm, fkv::fill_holes>>)
    ->Name("evict/ours/latent/key_norm/fill_holes")
    ->Apply(latent_corner);
BENCHMARK(on_device<free_scorer<latent_rows, fkv::key_norm, fkv::ordered>>)
    ->Name("evict/ours/latent/key_norm/ordered")
    ->Apply(latent_corner);
BENCHMARK(on_device<judge_into<in_rows<fkv::bfloat16>>>)
    ->Name("evict/ours/into_rows/foresight/lse")
    ->Apply(model_corner);
BENCHMARK(on_device<judge_into<in_pages<int8>>>)->Name("evict/ours/into_int8_pages/foresight/lse")->Apply(model_corner);
