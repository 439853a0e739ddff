// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <foresightkv/foresightkv.hpp>
#include <vector>

#include "support/random.hpp"

namespace benchmarks {

namespace fkv = foresightkv;

/// One layer of a model at the moment of an eviction: sequences of budget + interval tokens, and their last queries.
/// Axes: sequences, kv_heads, group, budget, interval, head_dim.
struct axes {
  int sequences, kv_heads, group, budget, interval, head_dim;

  explicit axes(benchmark::State const& state)
      : sequences(static_cast<int>(state.range(0))),
        kv_heads(static_cast<int>(state.range(1))),
        group(static_cast<int>(state.range(2))),
        budget(static_cast<int>(state.range(3))),
        interval(static_cast<int>(state.range(4))),
        head_dim(static_cast<int>(state.range(5))) {}

  [[nodiscard]] int tokens() const { return budget + interval; }
  [[nodiscard]] int rows() const { return sequences * kv_heads; }
  [[nodiscard]] fkv::cache_shape shape() const {
    return {.num_layers = 1,
            .num_sequences = sequences,
            .num_kv_heads = kv_heads,
            .group = group,
            .key_head_dim = head_dim,
            .value_head_dim = head_dim,
            .capacity = tokens()};
  }
  [[nodiscard]] fkv::eviction_config config() const { return {.budget = budget, .interval = interval}; }
  /// Multiplications and additions of the window's logits, once.
  [[nodiscard]] double logit_flops() const {
    return 2.0 * rows() * group * interval * static_cast<double>(tokens()) * head_dim;
  }
};

/// Registers a benchmark over the axes: the Qwen3-4B layer first, then one axis at a time.
inline void sweep(benchmark::internal::Benchmark* run) {
  run->ArgNames({"sequences", "kv_heads", "group", "budget", "interval", "head_dim"});
  run->Args({1, 8, 4, 1024, 128, 128});
  for (int sequences : {4}) run->Args({sequences, 8, 4, 1024, 128, 128});
  for (int kv_heads : {2}) run->Args({1, kv_heads, 4, 1024, 128, 128});
  for (int group : {1, 7, 16}) run->Args({1, 8, group, 1024, 128, 128});
  for (int budget : {256, 4096}) run->Args({1, 8, 4, budget, 128, 128});
  for (int interval : {64, 256}) run->Args({1, 8, 4, 1024, interval, 128});
  for (int head_dim : {64, 256}) run->Args({1, 8, 4, 1024, 128, head_dim});
  run->Unit(benchmark::kMicrosecond)->UseRealTime();
}

/// Tokens in rows of their own, as a storage has them.
template <class Storage>
struct in_rows {
  using cache_type = fkv::dense_cache<Storage>;
  using element_type = typename cache_type::key_element;

  explicit in_rows(fkv::cache_shape const&) {}
  [[nodiscard]] cache_type cache(element_type* keys, element_type* values, std::int32_t const* lengths,
                                 fkv::cache_shape const& shape) const {
    return cache_type::hnd(keys, values, lengths, shape);
  }
};

/// The same memory in pages, in random order: of all heads, [page][kv_head][token][dim].
template <class Storage, int PageSize>
struct in_pages {
  using cache_type = fkv::paged_cache<Storage, PageSize>;
  using element_type = typename cache_type::key_element;
  int row_pages, num_pages;
  std::vector<std::int32_t> table;

  explicit in_pages(fkv::cache_shape const& shape)
      : row_pages(shape.capacity / PageSize),  // all capacities here are multiples of a page
        num_pages(shape.num_sequences * row_pages),
        table(static_cast<std::size_t>(num_pages)) {
    testing::random_source random(3);
    for (std::size_t i = 0; i < table.size(); ++i) {
      auto const other = static_cast<std::size_t>(random.integer(0, static_cast<int>(i)));
      table[i] = table[other];
      table[other] = static_cast<std::int32_t>(i);
    }
  }
  [[nodiscard]] cache_type cache(element_type* keys, element_type* values, std::int32_t const* lengths,
                                 fkv::cache_shape const& shape) const {
    return cache_type::hnd(keys, values, {num_pages}, fkv::page_table::per_sequence(table.data(), row_pages, num_pages),
                           lengths, shape);
  }
};

/// A cache full of tokens, its window, its policy's state and every buffer of a call.
template <class Tokens, class Policy, class Query = typename Tokens::element_type>
class setting {
  using Element = typename Tokens::element_type;
  static constexpr bool has_scales = Tokens::cache_type::key_storage::token_bytes > 0;

 public:
  explicit setting(axes const& extents, Policy policy)
      : shape(extents.shape()),
        rule(policy),
        tokens_(shape),
        keys_(cells(extents.tokens(), extents.head_dim)),
        values_(keys_.size()),
        key_scales_(has_scales ? cells(extents.tokens(), 1) : 0, 0.02f),
        value_scales_(key_scales_),
        queries_(static_cast<std::size_t>(extents.rows() * extents.group * extents.interval) *
                 static_cast<std::size_t>(extents.head_dim)),
        lse_(static_cast<std::size_t>(extents.rows() * extents.group * extents.interval), 8.0f),
        lengths_(static_cast<std::size_t>(extents.sequences), extents.tokens()),
        new_lengths(static_cast<std::size_t>(extents.sequences)),
        list{nullptr, nullptr, extents.sequences, extents.tokens()},
        scores(static_cast<std::size_t>(extents.rows()) * static_cast<std::size_t>(extents.tokens())),
        kept(scores.size()),
        evicted(scores.size()),
        evicted_count(static_cast<std::size_t>(extents.rows())),
        state_bytes_(fkv::state_bytes(policy, shape, extents.tokens())),
        scratch_(fkv::evict_bytes(fkv::host, policy, shape, list, extents.interval)),
        state(fkv::make_state(policy, shape, extents.tokens(), state_bytes_)) {
    testing::random_source random(1);
    float const scale = sizeof(Element) == 1 ? 50.0f : 1.0f;  // int8 counts in fiftieths
    random.fill_normal<Element>(keys_, scale);
    random.fill_normal<Element>(values_, scale);
    random.fill_normal<Query>(queries_);
    random.fill_normal<float>(scores);
    restart();
  }
  setting(setting const&) = delete;

  void restart() { (void)fkv::reset(fkv::host, state, list); }

  [[nodiscard]] auto cache() {
    auto made = tokens_.cache(keys_.data(), values_.data(), lengths_.data(), shape);
    if constexpr (has_scales) made = made.with_scales(key_scales_.data(), value_scales_.data());
    return made;
  }
  [[nodiscard]] auto window() const {
    return fkv::observation<Query>::hnd(
        queries_.data(), shape,
        static_cast<int>(lse_.size()) / (shape.num_sequences * shape.num_kv_heads * shape.group));
  }
  [[nodiscard]] auto window_with_lse() const { return window().with_lse(lse_.data()); }
  [[nodiscard]] auto rows() { return fkv::batch{rule, cache(), list, state, scratch()}; }
  [[nodiscard]] fkv::workspace scratch() { return {scratch_.data(), scratch_.size()}; }
  [[nodiscard]] fkv::score_view score_rows() { return {scores.data(), shape.capacity}; }
  [[nodiscard]] fkv::selection lists() {
    return {kept.data(), evicted.data(), evicted_count.data(), nullptr, shape.capacity};
  }
  [[nodiscard]] std::size_t cache_bytes() const { return 2 * keys_.size() * sizeof(Element); }

 private:
  [[nodiscard]] std::size_t cells(int tokens, int dim) const {
    return static_cast<std::size_t>(shape.num_rows()) * static_cast<std::size_t>(tokens) *
           static_cast<std::size_t>(dim);
  }

 public:
  fkv::cache_shape shape;
  Policy rule;

 private:
  Tokens tokens_;
  std::vector<Element> keys_, values_;
  std::vector<float> key_scales_, value_scales_;
  std::vector<Query> queries_;
  std::vector<float> lse_;
  std::vector<std::int32_t> lengths_;

 public:
  std::vector<std::int32_t> new_lengths;
  fkv::sequence_list list;
  std::vector<float> scores;
  std::vector<std::int32_t> kept, evicted, evicted_count;

 private:
  std::vector<std::byte> state_bytes_, scratch_;

 public:
  fkv::eviction_state<Policy> state;
};

template <class Element, class Policy>
[[nodiscard]] setting<in_rows<Element>, Policy> make_setting(axes const& extents, Policy const& rule) {
  return setting<in_rows<Element>, Policy>(extents, rule);
}

/// Random weights for the judges of one layer.
class random_judge {
 public:
  explicit random_judge(axes const& extents)
      : shape_{1, extents.kv_heads, extents.group, extents.head_dim, extents.head_dim},
        packed_(fkv::packed_judge_floats(shape_)) {
    testing::random_source random(2);
    random.fill_normal<float>(packed_, 0.1f);
  }
  [[nodiscard]] fkv::judge_weights weights() const { return {packed_.data(), shape_}; }

 private:
  fkv::judge_shape shape_;
  std::vector<float> packed_;
};

inline void count_bytes(benchmark::State& state, double bytes) {
  state.counters["bytes"] =
      benchmark::Counter(bytes, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
}
inline void count_flops(benchmark::State& state, double flops) {
  state.counters["FLOP"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
}

}  // namespace benchmarks
