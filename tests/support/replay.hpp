// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "support/harness.hpp"
#include "support/same_choice.hpp"
#include "support/vector_file.hpp"

namespace testing {

/// Keys, values and queries of one layer and one sequence: [heads][tokens][dim].
struct recording {
  int kv_heads = 0;
  int group = 0;
  int dim = 0;
  int tokens = 0;
  std::vector<float> q, k, v;

  static recording read(vector_file const& file) {
    recording made;
    made.kv_heads = file.integer("kv_heads");
    made.group = file.integer("group");
    made.dim = file.integer("head_dim");
    made.tokens = file.has_text("tokens") ? file.integer("tokens") : file.extent("k", 1);
    made.q = file.floats("q", {made.kv_heads * made.group, made.tokens, made.dim});
    made.k = file.floats("k", {made.kv_heads, made.tokens, made.dim});
    made.v = file.floats("v", {made.kv_heads, made.tokens, made.dim});
    return made;
  }
};

/// A policy at work on a recording, through the public verbs: every eviction runs once stage by stage on a
/// copy, and once as `evict`; both must agree in every bit.
template <class Policy>
class replay {
 public:
  using reads = typename Policy::reads;
  using window_list = fkv::window_statistics<reads>;

  replay(recording const& tokens, Policy const& policy, int capacity, layout order)
      : tokens_(tokens),
        policy_(policy),
        shape_{.num_layers = 1,
               .num_sequences = 1,
               .num_kv_heads = tokens.kv_heads,
               .group = tokens.group,
               .key_head_dim = tokens.dim,
               .value_head_dim = tokens.dim,
               .capacity = capacity},
        cache(shape_, 0, order),
        state(shape_, capacity),
        lists(shape_, capacity),
        statistics(shape_, capacity),
        scores(shape_, capacity) {}

  /// Appends tokens [arrived, until) to every head.
  void append(int until) {
    auto const view = cache.view();
    for (; arrived_ < until; ++arrived_, ++cache.lengths[0])
      for (int head = 0; head < shape_.num_kv_heads; ++head) {
        auto const from = (static_cast<std::ptrdiff_t>(head) * tokens_.tokens + arrived_) * tokens_.dim;
        fkv::row_index const at{0, 0, head};
        for (int d = 0; d < tokens_.dim; ++d) {
          view.key(at, cache.lengths[0])[d] = tokens_.k[static_cast<std::size_t>(from + d)];
          view.value(at, cache.lengths[0])[d] = tokens_.v[static_cast<std::size_t>(from + d)];
        }
      }
  }

  /// The queries of the newest `count` tokens.
  [[nodiscard]] fkv::observation<float> window(int count) const {
    fkv::observation<float> made;
    made.queries = tokens_.q.data() + static_cast<std::ptrdiff_t>(arrived_ - count) * tokens_.dim;
    made.strides.head = static_cast<std::int64_t>(tokens_.tokens) * tokens_.dim;
    made.strides.token = tokens_.dim;
    made.max_queries = count;
    return made;
  }

  /// observe, carry and score the newest `count` queries; state advances by `carry`.
  void look(int count) {
    auto const list = this->list();
    auto work = workspace_for<Policy>(shape_, list, count);
    fkv::observed<window_list> const seen{statistics.view()};
    REQUIRE(fkv::observe(testing::exec, cache.view(), list, window(count), state.view, statistics.view(),
                         observe_work(count).view())
                .ok());
    REQUIRE(fkv::carry(testing::exec, fkv::batch{policy_, cache.view(), list, state.view, work.view()}, seen).ok());
    REQUIRE(
        fkv::score(testing::exec, fkv::batch{policy_, cache.view(), list, state.view, work.view()}, seen, scores.view())
            .ok());
    CHECK(work.memory.intact());
    CHECK(statistics.values.intact());
    CHECK(scores.values.intact());
  }

  /// One eviction with the newest `count` queries as its window. Afterwards `statistics`, `scores` and
  /// `lists` are those that led to it, and `carried_before` the carried columns that the scorer read.
  void step(int count) {
    int const length = cache.lengths[0];
    auto const list = this->list();
    owned_cache<float> const cache_before = cache;
    owned_state<Policy> const state_before = state;
    look(count);
    carried_before = state;
    guarded<std::int32_t> new_length(1, -7);
    auto work = workspace_for<Policy>(shape_, list, count);
    REQUIRE(fkv::select(testing::exec, fkv::batch{policy_, cache.view(), list, state.view, work.view()}, scores.view(),
                        lists.view())
                .ok());
    REQUIRE(fkv::compact(testing::exec, fkv::batch{policy_, cache.view(), list, state.view, work.view()}, lists.view(),
                         new_length.data())
                .ok());
    CHECK(new_length[0] == fkv::next_length(policy_.config, length));

    owned_cache<float> fused_cache = cache_before;
    owned_state<Policy> fused_state = state_before;
    owned_selection fused_lists(shape_, shape_.capacity);
    guarded<std::int32_t> fused_length(1, -7);
    REQUIRE(fkv::evict(testing::exec, fkv::batch{policy_, fused_cache.view(), list, fused_state.view, work.view()},
                       window(count), fkv::eviction_output{fused_length.data(), fused_lists.view()})
                .ok());
    CHECK(fused_length[0] == new_length[0]);
    CHECK(fused_lists.evicted_count.same_bytes(lists.evicted_count));
    bool alike = true;
    for (int row = 0; row < shape_.num_kv_heads; ++row) {
      std::vector<float> of_row;
      for (int slot = 0; slot < length; ++slot) of_row.push_back(scores.at(row, slot));
      auto const evicted = fused_lists.evicted_of(row), by_stages = lists.evicted_of(row);
      CHECK(same_choice(evicted, by_stages, of_row));
      alike = alike && evicted == by_stages;
      if (evicted != by_stages) continue;
      CHECK(fused_lists.kept_of(row, length) == lists.kept_of(row, length));
      CHECK(fused_lists.positions_of(row) == lists.positions_of(row));
    }
    if (alike) {
      CHECK(fused_cache.same_tokens(cache));
      CHECK(same_state(fused_state.view, state.view));
    }
    CHECK(state.view.flags[0] == 0);
    CHECK((work.memory.intact() && lists.intact() && fused_lists.intact()));
    CHECK((cache.intact() && state.intact() && fused_cache.intact() && fused_state.intact()));
    cache.lengths[0] = new_length[0];
  }

  /// The value of a feature of the judge for a token, as the last step's scorer read it.
  template <class Feature>
  [[nodiscard]] float feature(int row, int slot, int j) const {
    if constexpr (fkv::carried_statistic<Feature>) {
      auto const& columns = carried_before.view;
      constexpr int place = fkv::carried_statistics<reads>::template index<Feature>();
      return columns.carried_at(row, slot)[place * shape_.group + j];
    } else {
      return statistics.at(row, slot, window_list::template index<Feature>(), j);
    }
  }

  /// Positions of the tokens that the state has seen, in slot order.
  [[nodiscard]] std::vector<int> positions(int row) const {
    std::int32_t const* const column = state.view.position + state.view.column(row, 0);
    return {column, column + state.seen(row)};
  }

  [[nodiscard]] fkv::cache_shape const& shape() const { return shape_; }
  [[nodiscard]] int length() const { return cache.lengths[0]; }
  [[nodiscard]] fkv::sequence_list list() const { return {nullptr, nullptr, 1, cache.lengths[0]}; }

 private:
  [[nodiscard]] owned_workspace observe_work(int count) const {
    return owned_workspace(fkv::observe_bytes<window_list>(testing::exec, shape_, list(), count));
  }

  recording const& tokens_;
  Policy policy_;
  fkv::cache_shape shape_;
  int arrived_ = 0;

 public:
  owned_cache<float> cache;
  owned_state<Policy> state;
  owned_state<Policy> carried_before;
  owned_selection lists;
  owned_statistics<window_list> statistics;
  owned_scores scores;
};

/// Counts entries of a list that differ from a row of a stored tensor [..., width]; a list of another length
/// differs everywhere.
inline int mismatches(std::vector<int> const& list, std::int32_t const* stored, int width) {
  if (list.size() != static_cast<std::size_t>(width)) return width + 1;
  int wrong = 0;
  for (int i = 0; i < width; ++i) wrong += list[static_cast<std::size_t>(i)] != stored[i];
  return wrong;
}

}  // namespace testing
