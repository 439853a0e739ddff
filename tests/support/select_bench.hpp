// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include <foresightkv/budgets/per_sequence.hpp>
#include <foresightkv/caches/dense.hpp>
#include <foresightkv/verbs/select.hpp>

#include "support/execution.hpp"
#include "support/no_scorer.hpp"
#include "support/oracle_select.hpp"
#include "support/token_bench.hpp"

namespace testing {

template <class Selector, class Compaction = fkv::fill_holes>
using select_policy = fkv::policy<fkv::eviction_config, no_scorer, Selector, Compaction, fkv::per_sequence>;

/// Rows, scores, and a budget per sequence.
template <class Policy>
struct select_bench : token_bench<Policy> {
  using base = token_bench<Policy>;
  using base::cache, base::positions, base::random, base::row_end, base::shape, base::slots, base::state;

  Policy policy{};
  owned_scores scores;
  owned_selection lists;
  std::vector<std::int32_t> budgets;
  execution exec = testing::exec;

  select_bench(std::uint64_t seed, int longest) : base(seed, longest) { rebuild(); }
  select_bench(std::uint64_t seed, fkv::cache_shape const& extents) : base(seed, extents) { rebuild(); }

  void rebuild() {
    scores = {shape, shape.capacity};
    lists = {shape, shape.capacity};
    policy.config = {.budget = 1, .interval = 1, .recent_tokens = 0};
    budgets.assign(static_cast<std::size_t>(shape.num_sequences), 0);
  }
  void fill(hostile kind) {
    for (int row = 0; row < shape.num_rows(); ++row) {
      auto const values = hostile_row(kind, shape.capacity, random);
      std::copy(values.begin(), values.end(), &scores.at(row, 0));
    }
  }
  [[nodiscard]] fkv::status select(fkv::selection const& out) {
    policy.budget.budgets = budgets.data();
    auto const list = base::list();
    auto work = workspace_for<Policy>(shape, list, 0, exec);
    auto const state_before = state;
    auto const scores_before = scores.values;
    fkv::status const done =
        fkv::select(exec, fkv::batch{policy, cache.view(), list, state.view, work.view()}, scores.view(), out);
    CHECK((work.memory.intact() && lists.intact() && scores.values.intact() && state.intact() && cache.intact()));
    CHECK(scores.values.same_bytes(scores_before));
    return done;
  }
  [[nodiscard]] fkv::status select() { return select(lists.view()); }

  [[nodiscard]] std::vector<float> scores_of(int row, int length) const {
    std::vector<float> values;
    for (int slot = 0; slot < length; ++slot) values.push_back(scores.at(row, slot));
    return values;
  }
  [[nodiscard]] oracle::choice expected(fkv::row_index at) const {
    auto const row = static_cast<std::size_t>(shape.row(at));
    return oracle::choose(policy.config, budgets[static_cast<std::size_t>(at.sequence)], positions[row], row_end[row],
                          scores_of(shape.row(at), this->length(at)));
  }
  [[nodiscard]] std::vector<int> kept(fkv::row_index at) const {
    int const row = shape.row(at);
    return lists.kept_of(row, this->tokens(at));
  }
  /// Rows whose lists are not the oracle's.
  [[nodiscard]] int wrong_rows() const {
    int wrong = 0;
    base::each_row([&](fkv::row_index at) {
      int const row = shape.row(at);
      auto const made = expected(at);
      std::vector<int> gone;
      for (int const slot : made.evicted)
        gone.push_back(positions[static_cast<std::size_t>(row)][static_cast<std::size_t>(slot)]);
      bool const right =
          lists.evicted_of(row) == made.evicted && kept(at) == made.kept && lists.positions_of(row) == gone;
      wrong += base::listed(at.sequence) && !right;
    });
    return wrong;
  }
};

/// One layer and one sequence of rows whose keys do not matter.
constexpr fkv::cache_shape small_shape(int rows, int tokens) {
  return {.num_layers = 1,
          .num_sequences = 1,
          .num_kv_heads = rows,
          .group = 1,
          .key_head_dim = 1,
          .value_head_dim = 1,
          .capacity = tokens};
}

}  // namespace testing
