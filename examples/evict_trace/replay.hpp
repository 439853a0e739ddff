// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <foresightkv/foresightkv.hpp>
#include <foresightkv/io/trace.hpp>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "backend.hpp"
#include "golden_table.hpp"

namespace evict_trace {

/// What every policy is given: when and how far a layer is cut.
struct setting {
  int budget = 0;
  int interval = 0;
  int recent = 0;     ///< newest tokens that are never evicted
  int start = 0;      ///< tokens cached when the first eviction comes
  int end = 0;        ///< tokens to replay
  int page_size = 0;  ///< tokens; 0: a page is as large as a row
  std::uint64_t seed = 0;
  backend where{};

  [[nodiscard]] fkv::eviction_config config() const {
    return {.budget = budget, .interval = interval, .recent_tokens = recent};
  }
  [[nodiscard]] int evictions() const { return (end - start - 1) / interval + 1; }
  /// First token that arrives after an eviction; the queries of one block see the same evictions.
  [[nodiscard]] int block_begin(int eviction) const { return start + eviction * interval; }
};

/// What a policy did to one layer: enough to know what was cached at any time.
struct record {
  static constexpr std::int32_t never = std::numeric_limits<std::int32_t>::max();

  int tokens = 0;
  std::vector<std::int32_t> evicted_at;  ///< [kv_heads][tokens] the eviction in which a token went, or never
  std::size_t cache_bytes = 0;           ///< largest keys and values of the layer
  std::size_t bytes_moved = 0;           ///< by all evictions
  double golden_overlap = 0.0;           ///< summed over rows and evictions
  std::vector<double> microseconds;      ///< of each eviction

  record(int kv_heads, int length) : tokens(length), evicted_at(as_size(kv_heads) * as_size(length), never) {}

  [[nodiscard]] std::int32_t* of_head(int kv_head) { return evicted_at.data() + std::int64_t{kv_head} * tokens; }
  [[nodiscard]] std::int32_t const* of_head(int kv_head) const {
    return evicted_at.data() + std::int64_t{kv_head} * tokens;
  }
};

inline std::size_t token_bytes(fkv::io::trace_shape const& shape) {
  return as_size(shape.key_head_dim + shape.value_head_dim) * sizeof(float);
}

/// The full cache: nothing is ever evicted.
inline record keep_everything(fkv::io::trace_layer const& layer, setting const& given) {
  record kept(layer.shape.kv_heads, given.end);
  kept.cache_bytes = as_size(given.end) * as_size(layer.shape.kv_heads) * token_bytes(layer.shape);
  return kept;
}

/// Share of the tokens in `evicted` that Golden Eviction would have evicted from the same row.
inline double golden_share(setting const& given, int eviction, std::int32_t const* evicted_at,
                           golden_scores const& scores, int kv_head, int num_evicted) {
  struct candidate {
    float score;
    std::int32_t position;
    bool evicted;
  };
  std::vector<candidate> row;
  for (int position = 0; position < given.block_begin(eviction) - given.recent; ++position)
    if (evicted_at[position] >= eviction)
      row.push_back({scores.at(kv_head, position), position, evicted_at[position] == eviction});
  auto const golden_end = row.begin() + num_evicted;
  std::ranges::nth_element(row, golden_end - 1, [](candidate const& a, candidate const& b) {
    return a.score != b.score ? a.score < b.score : a.position < b.position;
  });
  auto const shared = std::count_if(row.begin(), golden_end, [](candidate const& token) { return token.evicted; });
  return static_cast<double>(shared) / num_evicted;
}

/// Compaction of a policy: the cheap one, unless its scorer needs neighbouring slots to be neighbours in
/// time.
template <class Scorer>
constexpr auto compaction_for() {
  if constexpr (requires { requires Scorer::needs_time_order; })
    return fkv::ordered{};
  else
    return fkv::fill_holes{};
}

/// One layer of a trace under one policy: the loop that an inference engine runs, on recorded tokens.
template <class Scorer>
class replay {
  using compaction = decltype(compaction_for<Scorer>());
  using policy = fkv::policy<fkv::eviction_config, Scorer, fkv::top_k, compaction>;

 public:
  replay(fkv::io::trace_layer const& layer, golden_table const& golden, setting const& given,
         fkv::eviction_config const& config, Scorer scorer)
      : layer_(layer),
        golden_(golden),
        setting_(given),
        policy_(fkv::compose(config, scorer, fkv::top_k{}, compaction{})),
        shape_(shape_of(layer, given)),
        page_size_(given.page_size == 0 ? std::min(shape_.capacity, 65536) : given.page_size),
        table_(as_size(divide_up(shape_.capacity, page_size_)), given.where.memory),
        numbers_(1, given.where.memory),
        queries_(given.where.memory),
        keys_(rows() * pool_slots() * as_size(shape_.key_head_dim), given.where.memory),
        values_(rows() * pool_slots() * as_size(shape_.value_head_dim), given.where.memory),
        state_memory_(fkv::state_bytes(policy{}, shape_, shape_.capacity), given.where.memory),
        state_(fkv::make_state(policy{}, shape_, shape_.capacity, state_memory_)),
        scratch_(scratch_bytes(), given.where.memory),
        evicted_(rows() * slots(), given.where.memory),
        evicted_positions_(rows() * slots(), given.where.memory),
        evicted_count_(rows(), given.where.memory),
        record_(shape_.num_kv_heads, given.end) {
    for (std::size_t i = 0; i < table_.size(); ++i)  // pages stand in another order than tokens
      table_[i] = static_cast<std::int32_t>(table_.size() - 1 - i);
    numbers_[0] = {0, 0, layer.number, given.seed};
    shape_.layers = &numbers().layer;  // the judge has weights for every layer of the model
    if (given.where.on_device) queries_.assign(layer.query.begin(), layer.query.end());
  }
  replay(replay const&) = delete;
  replay& operator=(replay const&) = delete;

  [[nodiscard]] record run() {
    run("reset", [&](auto const& exec) { return fkv::reset(exec, state_, visit_, nullptr, &numbers().seed); });
    int const prompt = setting_.start - setting_.interval;
    append(0, prompt);
    run("carry", [&](auto const& exec) {
      return fkv::carry(exec, fkv::batch{policy_, cache(), visit_, state_, scratch()}, window(0, prompt));
    });
    append(prompt, setting_.start);
    for (int eviction = 0; eviction < setting_.evictions(); ++eviction) {
      int const next = setting_.block_begin(eviction);
      evict(eviction, next);
      append(next, std::min(next + setting_.interval, setting_.end));
    }
    return std::move(record_);
  }

 private:
  static fkv::cache_shape shape_of(fkv::io::trace_layer const& layer, setting const& given) {
    fkv::cache_shape shape;
    shape.num_kv_heads = layer.shape.kv_heads;
    shape.group = layer.shape.group();
    shape.key_head_dim = layer.shape.key_head_dim;
    shape.value_head_dim = layer.shape.value_head_dim;
    shape.capacity = std::max(given.start, given.budget + given.interval);
    return shape;
  }
  [[nodiscard]] std::size_t rows() const { return as_size(shape_.num_kv_heads); }
  [[nodiscard]] std::size_t slots() const { return as_size(shape_.capacity); }
  [[nodiscard]] std::size_t pool_slots() const { return table_.size() * as_size(page_size_); }
  static constexpr int divide_up(int tokens, int page) { return tokens / page + (tokens % page > 0 ? 1 : 0); }

  /// What the verbs read that is no array.
  struct number_block {
    std::int32_t length, new_length;
    int layer;
    std::uint64_t seed;
  };
  [[nodiscard]] number_block& numbers() { return numbers_[0]; }

  template <class Call>
  void run(char const* what, Call const& call) {
    require(setting_.where.run(call), what);
  }
  [[nodiscard]] std::size_t scratch_bytes() const {
    std::size_t bytes = 0;
    require(setting_.where.run([&](auto const& exec) {
      bytes = fkv::evict_bytes(exec, policy{}, shape_, visit_, std::max(setting_.start, setting_.interval));
      return fkv::status{};
    }),
            "evict_bytes");
    return bytes;
  }

  /// Rows in one piece are pages of their own: one type of cache for both halves what is compiled.
  [[nodiscard]] auto cache() {
    int const pages = static_cast<int>(table_.size());
    return fkv::paged_cache<float>::hnd(keys_.data(), values_.data(), {pages, page_size_},
                                        fkv::page_table::per_sequence(table_.data(), pages, pages), &numbers().length,
                                        shape_);
  }
  [[nodiscard]] fkv::workspace scratch() { return {scratch_.data(), scratch_.size()}; }

  /// The recorded queries [first, last), read where they lie in the trace, unless a device has to.
  [[nodiscard]] fkv::observation<float> window(int first, int last) const {
    auto const* const all = queries_.empty() ? layer_.query.data() : queries_.data();
    auto const* const queries = all + std::int64_t{first} * shape_.key_head_dim;
    auto seen = fkv::observation<float>::hnd(queries, shape_, last - first);
    seen.strides.head = std::int64_t{layer_.shape.tokens} * shape_.key_head_dim;
    return seen;
  }

  /// The tokens [first, last) of the trace join the cache.
  void append(int first, int last) {
    auto const tokens = cache();
    for (int head = 0; head < shape_.num_kv_heads; ++head) {
      fkv::row_index const row{0, 0, head};
      for (int token = first; token < last; ++token) {
        auto const from = std::int64_t{head} * layer_.shape.tokens + token;
        int const slot = numbers().length + token - first;
        std::copy_n(layer_.key.data() + from * shape_.key_head_dim, shape_.key_head_dim, tokens.key(row, slot));
        std::copy_n(layer_.value.data() + from * shape_.value_head_dim, shape_.value_head_dim, tokens.value(row, slot));
      }
    }
    numbers().length += last - first;
    int const page = std::max(setting_.page_size, 1);
    int const held = divide_up(numbers().length, page) * page;
    record_.cache_bytes = std::max(record_.cache_bytes, as_size(held) * rows() * token_bytes(layer_.shape));
  }

  void evict(int eviction, int next) {
    auto const scores = golden_.before(next);
    if constexpr (std::same_as<Scorer, oracle>) policy_.scorer.scores = scores;
    fkv::eviction_output output{.new_lengths = &numbers().new_length};
    output.lists = {.evicted = evicted_.data(),
                    .evicted_count = evicted_count_.data(),
                    .evicted_positions = evicted_positions_.data(),
                    .capacity = shape_.capacity};
    auto const began = std::chrono::steady_clock::now();
    run("evict", [&](auto const& exec) {
      return fkv::evict(exec, fkv::batch{policy_, cache(), visit_, state_, scratch()},
                        window(next - setting_.interval, next), output);
    });
    std::chrono::duration<double, std::micro> const took = std::chrono::steady_clock::now() - began;
    if (std::uint32_t const flags = state_.flags[0]; flags != 0)
      throw std::runtime_error(std::string("evict: ") + fkv::message(fkv::sequence_flag{flags & (0u - flags)}));
    record_.microseconds.push_back(took.count());
    numbers().length = numbers().new_length;
    for (int head = 0; head < shape_.num_kv_heads; ++head) note(head, eviction, scores);
  }

  /// Takes down what the eviction did to one row.
  void note(int head, int eviction, golden_scores const& scores) {
    auto const row = std::int64_t{head} * shape_.capacity;
    auto const count = evicted_count_[as_size(head)];
    if (count == 0) return;
    std::int32_t* const evicted_at = record_.of_head(head);
    for (int i = 0; i < count; ++i) evicted_at[evicted_positions_[as_size(row + i)]] = eviction;
    record_.golden_overlap += golden_share(setting_, eviction, evicted_at, scores, head, count);

    auto const* const slots = evicted_.data() + row;
    auto const moved = compaction::keeps_time_order ? numbers().length - slots[0]
                                                    : std::lower_bound(slots, slots + count, numbers().length) - slots;
    auto const columns = sizeof(std::int32_t) + as_size(state_.num_carried * state_.group) * sizeof(float);
    record_.bytes_moved += as_size(moved) * (token_bytes(layer_.shape) + columns);
  }

  fkv::io::trace_layer const& layer_;
  golden_table const& golden_;
  setting const& setting_;
  policy policy_;
  fkv::cache_shape shape_;
  fkv::sequence_list visit_{nullptr, nullptr, 1, shape_.capacity};
  int page_size_;
  std::pmr::vector<std::int32_t> table_;    // pages, all heads together
  std::pmr::vector<number_block> numbers_;  // one
  std::pmr::vector<float> queries_;         // the layer's, where a device reads them; else empty
  std::pmr::vector<float> keys_;            // [page][kv_heads][page size][key_head_dim]
  std::pmr::vector<float> values_;          // [page][kv_heads][page size][value_head_dim]
  std::pmr::vector<std::byte> state_memory_;
  fkv::eviction_state<policy> state_;
  std::pmr::vector<std::byte> scratch_;
  std::pmr::vector<std::int32_t> evicted_;            // [kv_heads][capacity] slots, ascending
  std::pmr::vector<std::int32_t> evicted_positions_;  // [kv_heads][capacity]
  std::pmr::vector<std::int32_t> evicted_count_;      // [kv_heads]
  record record_;
};

/// Replays one layer under a policy of this scorer.
template <class Scorer>
record replay_with(fkv::io::trace_layer const& layer, golden_table const& golden, setting const& given,
                   fkv::eviction_config const& config, Scorer scorer) {
  return replay<Scorer>(layer, golden, given, config, scorer).run();
}

}  // namespace evict_trace
