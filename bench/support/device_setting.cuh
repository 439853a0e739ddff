// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "support/device_tokens.cuh"

namespace benchmarks {

/// A model at the moment of an eviction. Axes: batch, budget, interval; Qwen3-4B otherwise, if its tokens are no latent
/// rows: 36 layers, 8 KV heads, group 4, head dimension 128.
struct model_axes {
  static constexpr int head_dim = 128;
  int batch, budget, interval;

  explicit model_axes(benchmark::State const& state)
      : batch(static_cast<int>(state.range(0))),
        budget(static_cast<int>(state.range(1))),
        interval(static_cast<int>(state.range(2))) {}

  [[nodiscard]] int tokens() const { return budget + interval; }
  /// As it is where its tokens stand.
  template <class Tokens = in_rows<fkv::bfloat16>>
  [[nodiscard]] fkv::cache_shape shape() const {
    return described<Tokens>().first;
  }
  template <class Tokens = in_rows<fkv::bfloat16>>
  [[nodiscard]] row_extents row() const {
    return described<Tokens>().second;
  }
  [[nodiscard]] fkv::eviction_config config() const { return {.budget = budget, .interval = interval}; }

 private:
  template <class Tokens>
  [[nodiscard]] std::pair<fkv::cache_shape, row_extents> described() const {
    std::pair<fkv::cache_shape, row_extents> made{
        {.num_layers = 36,
         .num_sequences = batch,
         .num_kv_heads = 8,
         .group = 4,
         .key_head_dim = head_dim,
         .value_head_dim = head_dim,
         .capacity = tokens()},
        {.rows = 288.0 * batch, .tokens = 1.0 * tokens(), .budget = 1.0 * budget, .interval = 1.0 * interval}};
    Tokens::describe(made.first, made.second);
    return made;
  }
};

/// Every shape.
inline void model_sweep(benchmark::internal::Benchmark* run) {
  run->ArgNames({"batch", "budget", "interval"});
  for (int batch : {1, 16, 64})
    for (int budget : {1024, 2048, 4096})
      for (int interval : {128, 256}) run->Args({batch, budget, interval});
  one_measurement(run);
}

/// One axis at a time.
inline void model_corner(benchmark::internal::Benchmark* run) {
  run->ArgNames({"batch", "budget", "interval"});
  for (int batch : {1, 16, 64}) run->Args({batch, 1024, 128});
  for (int budget : {2048, 4096}) run->Args({1, budget, 128});
  run->Args({1, 1024, 256});
  one_measurement(run);
}

/// Caches full of tokens, their windows, state and every buffer of a call.
template <class Tokens, class Policy>
class device_setting {
  using Query = fkv::bfloat16;

 public:
  device_setting(model_axes const& extents, Policy const& policy)
      : shape(extents.template shape<Tokens>()),
        rule(policy),
        list{nullptr, nullptr, extents.batch, extents.tokens()},
        budget_(extents.budget),
        interval_(extents.interval),
        tokens_(shape),
        queries_(queries() * static_cast<std::size_t>(shape.key_head_dim)),
        lse_(std::vector<float>(queries(), 8.0f)),
        lengths_(std::vector<std::int32_t>(static_cast<std::size_t>(extents.batch), extents.tokens())),
        new_lengths_(static_cast<std::size_t>(extents.batch)),
        scores_(slots()),
        kept_(slots()),
        evicted_(slots()),
        evicted_count_(static_cast<std::size_t>(shape.num_rows())),
        state_bytes_(fkv::state_bytes(policy, shape, extents.tokens())),
        scratch_(fkv::evict_bytes(fkv::prepare(traits()), policy, shape, list, extents.interval)),
        state(fkv::make_state(policy, shape, extents.tokens(), {state_bytes_.data(), state_bytes_.size()})) {
    queries_.fill_normal();
    scores_.fill_normal();
    require(fkv::reset(fkv::on(cudaStreamPerThread, traits()), state, list));
    require(cudaStreamSynchronize(cudaStreamPerThread));
  }

  [[nodiscard]] auto cache() const { return tokens_.cache(lengths_.data(), shape); }
  [[nodiscard]] auto window() const { return fkv::observation<Query>::hnd(queries_.data(), shape, interval_); }
  [[nodiscard]] auto window_with_lse() const { return window().with_lse(lse_.data()); }
  [[nodiscard]] auto rows() const { return fkv::batch{rule, cache(), list, state, scratch()}; }
  [[nodiscard]] fkv::workspace scratch() const { return {scratch_.data(), scratch_.size()}; }
  [[nodiscard]] fkv::score_view score_rows() const { return {scores_.data(), shape.capacity}; }
  [[nodiscard]] fkv::selection lists() const {
    return {kept_.data(), evicted_.data(), evicted_count_.data(), nullptr, shape.capacity};
  }
  [[nodiscard]] std::int32_t* new_lengths() const { return new_lengths_.data(); }

  /// A call that left its sequences alone would be a quick one.
  void check() const {
    std::vector<std::uint32_t> flags(static_cast<std::size_t>(shape.num_sequences));
    require(cudaMemcpy(flags.data(), state.flags, flags.size() * sizeof(flags[0]), cudaMemcpyDeviceToHost));
    require(std::ranges::all_of(flags, [](auto bits) { return bits == 0; }), "a sequence was flagged");
    require(std::ranges::all_of(new_lengths_.read(new_lengths_.size()), [&](auto length) { return length == budget_; }),
            "a sequence was not cut");
  }

 private:
  [[nodiscard]] std::size_t slots() const {
    return static_cast<std::size_t>(shape.num_rows()) * static_cast<std::size_t>(shape.capacity);
  }
  [[nodiscard]] std::size_t queries() const {
    return static_cast<std::size_t>(shape.num_rows() * shape.group) * static_cast<std::size_t>(interval_);
  }

 public:
  fkv::cache_shape shape;
  Policy rule;
  fkv::sequence_list list;

 private:
  int budget_, interval_;
  Tokens tokens_;
  device_buffer<Query> queries_;
  device_buffer<float> lse_;
  device_buffer<std::int32_t> lengths_, new_lengths_;
  device_buffer<float> scores_;
  device_buffer<std::int32_t> kept_, evicted_, evicted_count_;
  device_buffer<std::byte> state_bytes_, scratch_;

 public:
  fkv::eviction_state<Policy> state;
};

/// Settings enough for cold caches.
template <class Tokens = in_rows<fkv::bfloat16>, class Policy>
auto cold_models(model_axes const& extents, Policy const& policy) {
  std::vector<device_setting<Tokens, Policy>> all;
  row_extents const row = extents.template row<Tokens>();
  std::size_t const count = cold_settings(row.vectors * row.rows * row.keys());
  for (std::size_t i = 0; i < count; ++i) all.emplace_back(extents, policy);
  return all;
}

/// Times a verb that cuts every setting: `call(exec, setting)` returns its status.
template <class Setting, class Call>
call_time time_verb(std::vector<Setting>& settings, Call const& call) {
  require(call(fkv::prepare(traits()), settings.front()));
  return time_replays(settings,
                      [&](cudaStream_t stream, Setting& at) { require(call(fkv::on(stream, traits()), at)); });
}

}  // namespace benchmarks
