// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <foresightkv/cache.hpp>
#include <foresightkv/compactions/ordered.hpp>
#include <foresightkv/config.hpp>
#include <foresightkv/detail/buffer.hpp>
#include <foresightkv/detail/observer.hpp>
#include <foresightkv/scorers/foresight.hpp>
#include <foresightkv/selectors/sampled_top_k.hpp>
#include <foresightkv/selectors/top_k.hpp>
#include <foresightkv/training/judge_gradient.hpp>
#include <foresightkv/training/replay_config.hpp>
#include <foresightkv/verbs/carry.hpp>
#include <foresightkv/verbs/evict.hpp>
#include <foresightkv/verbs/observe.hpp>
#include <foresightkv/verbs/reset.hpp>
#include <foresightkv/verbs/select.hpp>

namespace foresightkv::inline v0::detail::training {

using namespace foresightkv::training;

template <element Query, element Key>
status check_replay(replay_config const& config, recorded_layer<Query, Key> const& layer) {
  if (!config.valid()) return {errc::invalid_config, 0, argument::config};
  if (!layer.shape().valid() || layer.tokens < 0 || layer.tokens > 0x3fffffff) return {errc::invalid_shape};
  return layer.softmax_scale >= 0.0f && is_finite(layer.softmax_scale) ? status{} : status{errc::invalid_shape};
}

inline status check_future(replay_config const& config, future_scores const& future, int tokens) {
  int const interval = config.eviction.interval;
  bool const covers = future.tokens == tokens && future.first_block >= 0 &&
                      future.first_block <= config.first_length() / interval &&
                      (tokens - 1) / interval - future.first_block < future.rows;
  return covers ? check_buffer(future.data) : status{errc::invalid_shape};
}

/// Keys or values of a recorded head: a slot names a position.
template <element Element>
struct recorded_vectors {
  using element_type = Element;

  Element const* first = nullptr;
  std::int64_t stride = 0;
  std::int32_t const* positions = nullptr;  // [slot]

  // Caches can be written, recordings are not: of the verbs that take a cache, none that writes is used here.
  [[nodiscard]] Element* at(int slot) const { return const_cast<Element*>(first) + positions[slot] * stride; }
  static constexpr float scale(int) { return 1.0f; }
};

/// Tokens of a recorded layer as a cache: nothing is copied when a row changes.
template <element Element>
struct recorded_cache {
  static constexpr length_domain domain = length_domain::sequence;

  cache_shape extents{};
  Element const* first_key = nullptr;
  Element const* first_value = nullptr;
  token_strides key_strides{}, value_strides{};
  std::int32_t const* positions = nullptr;  // [kv_heads][capacity]
  std::int32_t const* all_lengths = nullptr;

  [[nodiscard]] cache_shape const& shape() const { return extents; }
  [[nodiscard]] int length(row_index at) const { return all_lengths[at.sequence]; }
  [[nodiscard]] recorded_vectors<Element> keys(row_index at) const { return vectors(first_key, key_strides, at); }
  [[nodiscard]] recorded_vectors<Element> values(row_index at) const { return vectors(first_value, value_strides, at); }
  [[nodiscard]] status check() const { return extents.valid() ? status{} : status{errc::invalid_shape}; }

 private:
  [[nodiscard]] recorded_vectors<Element> vectors(Element const* first, token_strides const& strides,
                                                  row_index at) const {
    return {first + at.kv_head * strides.head, strides.token,
            positions + std::ptrdiff_t{at.kv_head} * extents.capacity};
  }
};

inline token_strides strides_or(token_strides strides, int dim, int tokens) {
  if (strides.token == 0) strides.token = dim;
  if (strides.head == 0) strides.head = strides.token * tokens;
  return strides;
}

/// The verbs' view of a replay; its selector says how evictions are picked.
template <class Features, class Selector>
using replay_policy = policy<eviction_config, reader<typename Features::reads>, Selector, ordered>;

/// The arrays of one replay; the verb and its *_bytes function walk the same list.
template <class Features>
struct replay_memory {
  using policy_type = replay_policy<Features, top_k>;
  using window_list = window_statistics<typename Features::reads>;

  cache_shape shape{};
  std::int32_t* positions = nullptr;      // [kv_heads][capacity]
  std::int32_t* length = nullptr;         // one
  float* observed = nullptr;              // [kv_heads][capacity][window statistics][group]
  float* scores = nullptr;                // [kv_heads][capacity]
  std::int32_t* kept = nullptr;           // [kv_heads][capacity]
  std::int32_t* evicted = nullptr;        // [kv_heads][capacity]
  std::int32_t* evicted_count = nullptr;  // [kv_heads]
  float* hidden = nullptr;                // [kv_heads][candidates][16]
  float* row_scores = nullptr;            // [kv_heads][candidates]
  workspace state{}, verbs{};

  template <element Query, element Key>
  static replay_memory take(arena& memory, host_execution exec, replay_config const& config,
                            recorded_layer<Query, Key> const& layer) {
    replay_memory all;
    all.shape = {.num_kv_heads = layer.kv_heads,
                 .group = layer.group,
                 .key_head_dim = layer.key_head_dim,
                 .value_head_dim = layer.value_head_dim,
                 .capacity = config.first_length()};
    auto const heads = static_cast<std::size_t>(layer.kv_heads);
    auto const slots = heads * static_cast<std::size_t>(all.shape.capacity);
    auto const rows = heads * static_cast<std::size_t>(std::max(config.candidates(0), config.candidates(1)));
    all.positions = memory.take<std::int32_t>(slots);
    all.length = memory.take<std::int32_t>(1);
    all.observed = memory.take<float>(slots * static_cast<std::size_t>(window_list::size * layer.group));
    all.scores = memory.take<float>(slots);
    all.kept = memory.take<std::int32_t>(slots);
    all.evicted = memory.take<std::int32_t>(slots);
    all.evicted_count = memory.take<std::int32_t>(heads);
    all.hidden = memory.take<float>(rows * judge_shape::hidden);
    all.row_scores = memory.take<float>(rows);
    all.state.size = state_bytes(policy_type{}, all.shape, all.shape.capacity);
    all.state.data = memory.take<std::byte>(all.state.size);
    sequence_list const visit{nullptr, nullptr, 1, all.shape.capacity};
    all.verbs.size = std::max(evict_bytes(exec, policy_type{}, all.shape, visit, config.first_length()),
                              observe_bytes<window_list>(exec, all.shape, visit, config.first_length()));
    all.verbs.data = memory.take<std::byte>(all.verbs.size);
    return all;
  }
};

/// One replay: the loop of an inference engine, through the library's verbs.
template <class Features, class Selector, element Query, element Key>
class replay {
  using memory_type = replay_memory<Features>;
  using policy_type = replay_policy<Features, Selector>;
  using window_list = typename memory_type::window_list;
  using carried_list = typename eviction_state<policy_type>::carried_list;

 public:
  replay(host_execution exec, replay_config const& config, recorded_layer<Query, Key> const& layer,
         future_scores const& future, replay_guide const& guide, replay_output const& output, memory_type const& memory)
      : exec_(exec), config_(config), layer_(layer), future_(future), guide_(guide), output_(output), memory_(memory) {
    memory_.shape.layers = &layer_.layer;
    policy_.config = config.eviction;
    cache_ = {memory_.shape,
              layer.keys,
              layer.values,
              strides_or(layer.key_strides, layer.key_head_dim, layer.tokens),
              strides_or(layer.value_strides, layer.value_head_dim, layer.tokens),
              memory_.positions,
              memory_.length};
    state_ = make_state(policy_, memory_.shape, memory_.shape.capacity, memory_.state);
    visit_ = {nullptr, nullptr, 1, memory_.shape.capacity};
  }
  replay(replay const&) = delete;
  replay& operator=(replay const&) = delete;

  status run() {
    if (auto const done = start(); !done.ok()) return done;
    for (int step = 0; step < config_.steps(layer_.tokens); ++step) {
      if (auto const done = cut(step); !done.ok()) return done;
      append(config_.next_token(step), std::min(config_.eviction.interval, layer_.tokens - config_.next_token(step)));
    }
    return {};
  }

 private:
  [[nodiscard]] auto rows() const { return batch{policy_, cache_, visit_, state_, memory_.verbs}; }
  [[nodiscard]] std::size_t heads() const { return static_cast<std::size_t>(layer_.kv_heads); }
  [[nodiscard]] std::size_t rows_before(int step) const { return heads() * config_.candidates_before(step); }
  [[nodiscard]] std::int32_t* positions_of(int head) const {
    return memory_.positions + std::ptrdiff_t{head} * memory_.shape.capacity;
  }

  /// The queries of positions [first, last) as a window.
  [[nodiscard]] observation<Query> window(int first, int last) const {
    auto const strides = strides_or(layer_.query_strides, layer_.key_head_dim, layer_.tokens);
    observation<Query> seen;
    seen.queries = layer_.queries + first * strides.token;
    seen.strides.head = strides.head;
    seen.strides.token = strides.token;
    seen.max_queries = last - first;
    seen.softmax_scale = layer_.softmax_scale;
    return seen;
  }

  void append(int first, int count) {
    for (int head = 0; head < layer_.kv_heads; ++head)
      for (int i = 0; i < count; ++i) positions_of(head)[*memory_.length + i] = first + i;
    *memory_.length += count;
  }

  /// The prompt, and the statistics that its queries leave behind.
  status start() {
    if (auto const done = reset(exec_, state_, visit_, &guide_.rollout, &guide_.seed); !done.ok()) return done;
    int const prompt = config_.first_length() - config_.eviction.interval;
    *memory_.length = 0;
    append(0, prompt);
    auto const done = carry(exec_, rows(), window(0, prompt));
    append(prompt, config_.eviction.interval);
    return done;
  }

  /// One step, from observing to closing up the columns.
  status cut(int step) {
    int const next = config_.next_token(step);
    statistics_view<window_list> const seen{memory_.observed, memory_.shape.capacity};
    return first_error(
        [&] {
          return observe(exec_, cache_, visit_, window(next - config_.eviction.interval, next), state_, seen,
                         memory_.verbs);
        },
        [&] { return carry(exec_, rows(), observed<window_list>{seen}); },
        [&] {
          for (int head = 0; head < layer_.kv_heads; ++head) write_row(step, head);
          return score(step);
        },
        [&] {
          selection const lists{memory_.kept, memory_.evicted, memory_.evicted_count, nullptr, memory_.shape.capacity};
          return select(exec_, rows(), score_view{memory_.scores, memory_.shape.capacity}, lists);
        },
        [&] {
          for (int head = 0; head < layer_.kv_heads; ++head) {
            note(step, head);
            close_up(head);
          }
          *memory_.length = config_.eviction.budget;
          return status{};
        });
  }

  void write_row(int step, int head) const {
    int const count = config_.candidates(step), sinks = config_.eviction.sink_tokens;
    auto const at = rows_before(step) + static_cast<std::size_t>(head) * static_cast<std::size_t>(count);
    auto const width = static_cast<std::size_t>(judge_shape::features * layer_.group);
    float const* const labels = future_.row(head, config_.next_token(step) / config_.eviction.interval);
    for (int c = 0; c < count; ++c) {
      auto const place = at + static_cast<std::size_t>(c);
      auto const position = positions_of(head)[sinks + c];
      output_.positions[place] = position;
      output_.labels[place] = labels[position];
      write_statistics(head, sinks + c, output_.statistics + place * width);
    }
  }

  void write_statistics(int head, int slot, float* out) const {
    auto const group = static_cast<std::ptrdiff_t>(layer_.group);
    float const* const seen =
        memory_.observed + (std::ptrdiff_t{head} * memory_.shape.capacity + slot) * window_list::size * group;
    float const* const carried = state_.carried_at(head, slot);
    Features::for_each([&](auto feature) {
      using statistic = decltype(feature);
      if constexpr (carried_statistic<statistic>)
        out = std::copy_n(carried + carried_list::template index<statistic>() * group, group, out);
      else
        out = std::copy_n(seen + window_list::template index<statistic>() * group, group, out);
    });
  }

  /// Scores of all slots; those of protected tokens play no part.
  status score(int step) {
    int const count = config_.candidates(step);
    float const* from = output_.labels + rows_before(step);
    if (guide_.weights != nullptr) {
      judge_rows<Key> const rows{
          layer_.keys,
          layer_.values,
          output_.positions + rows_before(step),
          output_.statistics + rows_before(step) * static_cast<std::size_t>(judge_shape::features * layer_.group),
          1,
          count,
          layer_.tokens,
          cache_.key_strides,
          cache_.value_strides};
      auto const done = judge_forward(exec_, layer_.shape(), guide_.weights, rows, memory_.hidden, memory_.row_scores);
      if (!done.ok()) return done;
      from = memory_.row_scores;
    }
    std::fill_n(memory_.scores, heads() * static_cast<std::size_t>(memory_.shape.capacity), 0.0f);
    for (int head = 0; head < layer_.kv_heads; ++head)
      std::copy_n(from + std::ptrdiff_t{head} * count, count,
                  memory_.scores + std::ptrdiff_t{head} * memory_.shape.capacity + config_.eviction.sink_tokens);
    return {};
  }

  void note(int step, int head) const {
    int const count = config_.evictions(step);
    auto const at =
        heads() * config_.evictions_before(step) + static_cast<std::size_t>(head) * static_cast<std::size_t>(count);
    std::int32_t const* const slots = memory_.evicted + std::ptrdiff_t{head} * memory_.shape.capacity;
    for (int i = 0; i < count; ++i) {
      auto const place = at + static_cast<std::size_t>(i);
      if (output_.evicted != nullptr) output_.evicted[place] = slots[i] - config_.eviction.sink_tokens;
      if (output_.evicted_positions != nullptr) output_.evicted_positions[place] = positions_of(head)[slots[i]];
    }
  }

  /// The row's columns without the evicted slots. What `compact` does, but for the tokens themselves.
  void close_up(int head) const {
    std::int32_t const* const kept = memory_.kept + std::ptrdiff_t{head} * memory_.shape.capacity;
    auto const width = static_cast<std::ptrdiff_t>(state_.num_carried * state_.group);
    for (int slot = 0; slot < config_.eviction.budget; ++slot) {
      positions_of(head)[slot] = positions_of(head)[kept[slot]];
      state_.position[state_.column(head, slot)] = positions_of(head)[slot];
      if (kept[slot] != slot) std::copy_n(state_.carried_at(head, kept[slot]), width, state_.carried_at(head, slot));
    }
    state_.seen_length[head] = config_.eviction.budget;
    ++state_.step[head];
  }

  host_execution exec_;
  replay_config const& config_;
  recorded_layer<Query, Key> const& layer_;
  future_scores const& future_;
  replay_guide const& guide_;
  replay_output const& output_;
  memory_type memory_;
  policy_type policy_{};
  recorded_cache<Key> cache_{};
  eviction_state<policy_type> state_{};
  sequence_list visit_{};
};

}  // namespace foresightkv::inline v0::detail::training
