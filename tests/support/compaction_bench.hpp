// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <vector>

#include <foresightkv/budgets/per_sequence.hpp>
#include <foresightkv/caches/dense.hpp>
#include <foresightkv/verbs/compact.hpp>

#include "support/policy_bench.hpp"

namespace testing {

/// Carries two columns; its scores are never asked for.
struct carrying_scorer {
  using reads = fkv::statistics<fkv::accumulated, fkv::decayed>;
  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const&) const {
    return 0.0f;
  }
};

template <class Compaction>
using compact_policy = fkv::policy<fkv::eviction_config, carrying_scorer, fkv::top_k, Compaction, fkv::per_sequence>;

template <class Compaction, class Element = float, fkv::length_domain Domain = fkv::length_domain::sequence>
struct compaction_bench : policy_bench<compact_policy<Compaction>, Element, Domain> {
  using base = policy_bench<compact_policy<Compaction>, Element, Domain>;
  std::vector<std::int32_t> budgets;

  compaction_bench(std::uint64_t seed, int longest)
      : base(seed, {{.budget = 1, .interval = 1, .recent_tokens = 0}, {}, {}, {}, {}}, longest, 1),
        budgets(static_cast<std::size_t>(base::shape.num_sequences), 0) {}

  void choose() {
    base::policy.budget.budgets = budgets.data();
    for (float& score : base::scores.values) score = base::random.normal();
    REQUIRE(base::select().ok());
  }
};

/// Differences of a row that should have kept every byte, those behind its end included.
template <class Bench>
int changes(Bench& made, Bench& before, fkv::row_index at) {
  int const row = made.shape.row(at);
  int wrong = !same_columns(made.state.view, before.state.view, row, made.shape.capacity);
  for (int slot = 0; slot < made.shape.capacity; ++slot)
    wrong += !same_token(made.cache.view(), at, slot, before.cache.view(), slot);
  return wrong;
}

/// Differences between a row and where the oracle puts its tokens.
template <class Compaction, class Bench>
int misplaced(Bench& made, Bench& before, fkv::row_index at) {
  int const row = made.shape.row(at);
  auto const& positions = made.positions[static_cast<std::size_t>(row)];
  fkv::row_state const& now = made.state.view;
  oracle::choice const lists{made.lists.evicted_of(row), made.lists.kept_of(row, made.tokens(at))};
  auto const from = oracle::sources(Compaction{}, lists, made.length(at));
  int wrong = made.new_length(at) != static_cast<int>(from.size());
  wrong += now.seen_length[row] != static_cast<int>(from.size());
  wrong += now.next_position[row] != made.row_end[static_cast<std::size_t>(row)];
  wrong += now.step[row] != before.state.view.step[row] + 1;
  for (int slot = 0; slot < static_cast<int>(from.size()); ++slot) {
    int const source = from[static_cast<std::size_t>(slot)];
    int const position = now.position[now.column(row, slot)];
    bool const carries = source >= 0 && source < before.state.view.seen_length[row];
    for (int i = 0; i < 2 * made.shape.group; ++i)
      wrong += now.carried_at(row, slot)[i] != (carries ? before.state.view.carried_at(row, source)[i] : 0.0f);
    if (source < 0) {
      wrong += position >= 0;
    } else {
      wrong += position != positions[static_cast<std::size_t>(source)];
      wrong += !same_token(made.cache.view(), at, slot, before.cache.view(), source);
    }
  }
  return wrong;
}

/// Compacts after a random selection and compares every byte that tokens carry with where the oracle puts
/// them.
template <class Compaction, class Element, fkv::length_domain Domain>
void check_compaction(std::uint64_t seed) {
  CAPTURE(seed);
  random_source choice(seed + 77);
  compaction_bench<Compaction, Element, Domain> made(seed, choice.integer(1, 120));
  constexpr bool in_place = std::is_same_v<Compaction, fkv::slot_list>;
  history const past[] = {history::pristine, history::ordered, in_place ? history::holes : history::filled};
  made.place(past[choice.integer(0, std::is_same_v<Compaction, fkv::ordered> ? 1 : 2)]);
  for (auto& budget : made.budgets) budget = choice.integer(0, made.shape.capacity);
  if (choice.chance(0.5) && made.shape.num_sequences > 1) made.slots.pop_back();
  made.choose();
  auto before = made;
  REQUIRE(made.compact().ok());
  int wrong = 0;
  made.each_row([&](fkv::row_index at) {
    bool const listed = made.listed(at.sequence);
    bool const loses = listed && made.lists.count(made.shape.row(at)) > 0;
    if (!loses) wrong += made.new_length(at) != (listed ? made.length(at) : -7);
    wrong += loses ? misplaced<Compaction>(made, before, at) : changes(made, before, at);
  });
  CHECK(wrong == 0);
  for (int s = 0; s < made.shape.num_sequences; ++s) CHECK(made.state.view.flags[s] == 0);
  CHECK(made.lists.same(before.lists));
}

}  // namespace testing
