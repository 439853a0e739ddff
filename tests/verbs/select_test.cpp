// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

#include <foresightkv/selectors/top_k.hpp>
#include <foresightkv/verbs/select.hpp>

#include "support/select_bench.hpp"
#include "support/tight_budget.hpp"

namespace fkv = foresightkv;
using testing::history;
using testing::hostile;

namespace {

using top_bench = testing::select_bench<testing::select_policy<fkv::top_k>>;

}  // namespace

TEST_CASE("select: lists that nobody asked for are not written, the others are the same") {
  top_bench made(7, 100);
  made.place(history::filled);
  made.fill(hostile::ordinary);
  for (auto& budget : made.budgets) budget = 5;
  REQUIRE(made.select().ok());
  auto const all = made.lists;
  testing::owned_selection const blank(made.shape, made.shape.capacity);
  for (int wanted = 0; wanted < 16; ++wanted) {
    CAPTURE(wanted);
    made.lists = blank;
    fkv::selection some = made.lists.view();
    if ((wanted & 1) == 0) some.kept = nullptr;
    if ((wanted & 2) == 0) some.evicted = nullptr;
    if ((wanted & 4) == 0) some.evicted_count = nullptr;
    if ((wanted & 8) == 0) some.evicted_positions = nullptr;
    REQUIRE(made.select(some).ok());
    CHECK(made.lists.kept.same_bytes((wanted & 1) != 0 ? all.kept : blank.kept));
    CHECK(made.lists.evicted.same_bytes((wanted & 2) != 0 ? all.evicted : blank.evicted));
    CHECK(made.lists.evicted_count.same_bytes((wanted & 4) != 0 ? all.evicted_count : blank.evicted_count));
    CHECK(made.lists.evicted_positions.same_bytes((wanted & 8) != 0 ? all.evicted_positions : blank.evicted_positions));
  }
}

TEST_CASE("select: rows that take several blocks of a device") {
  for (int const length : {20000, 70000}) {
    CAPTURE(length);
    top_bench made(9, testing::small_shape(2, length));
    made.place(0, history::holes, length);
    made.fill(hostile::few_levels);
    made.budgets[0] = length / 3;
    REQUIRE(made.select().ok());
    CHECK(made.wrong_rows() == 0);
  }
}

TEST_CASE("select: where too much is protected, all candidates go and the sequence is flagged over budget") {
  testing::select_bench<
      fkv::policy<fkv::eviction_config, testing::no_scorer, fkv::top_k, fkv::ordered, testing::tight_budget>>
      made(14, 60);
  while (made.shape.num_sequences < 3) made = decltype(made)(made.random.bits(), 60);
  for (int s = 0; s < 3; ++s) made.place(s, history::pristine, 40);
  made.fill(hostile::ordinary);
  made.policy.config = {.budget = 12, .interval = 2, .recent_tokens = 8, .sink_tokens = 4};
  made.budgets.assign(made.budgets.size(), 12);
  made.budgets[1] = 3;
  REQUIRE(made.select().ok());
  CHECK(made.wrong_rows() == 0);
  CHECK(made.lists.count(made.shape.row({0, 1, 0})) == 40 - 12);
  CHECK(made.state.view.flags[0] == 0);
  CHECK(made.state.view.flags[1] == static_cast<std::uint32_t>(fkv::sequence_flag::over_budget));
  CHECK(made.state.view.flags[2] == 0);
}

TEST_CASE("select: data that breaks a rule flags its sequence and leaves its lists alone") {
  top_bench made(11, 60);
  while (made.shape.num_sequences < 3) made = top_bench(made.random.bits(), 60);
  made.place(history::ordered);
  made.fill(hostile::ordinary);
  made.policy.config = {.budget = 6, .interval = 2, .recent_tokens = 4, .sink_tokens = 2};
  for (auto& budget : made.budgets) budget = 8;
  testing::owned_selection const blank = made.lists;
  fkv::row_index const last_row{made.shape.num_layers - 1, 1, made.shape.num_kv_heads - 1};
  auto const rule = [&](fkv::sequence_flag expected, auto const& spoil) {
    top_bench broken = made;
    spoil(broken);
    REQUIRE(broken.select().ok());
    CHECK(broken.state.view.flags[0] == 0);
    CHECK(broken.state.view.flags[1] == static_cast<std::uint32_t>(expected));
    CHECK(broken.state.view.flags[2] == 0);
    bool untouched = true;
    broken.each_row(1, [&](fkv::row_index at) {
      untouched = untouched && broken.same_row(blank.kept, broken.lists.kept, at, made.shape.capacity) &&
                  broken.same_row(blank.evicted, broken.lists.evicted, at, made.shape.capacity) &&
                  broken.same_row(blank.evicted_count, broken.lists.evicted_count, at, 1);
    });
    CHECK(untouched);
    broken.slots = {0, 2};
    CHECK(broken.wrong_rows() == 0);
  };
  for (int const length : {-1, made.most + 1})
    rule(fkv::sequence_flag::bad_length, [&](top_bench& broken) { broken.cache.length({0, 1, 0}) = length; });
  for (int const budget : {-1, 5, made.shape.capacity + 1})
    rule(fkv::sequence_flag::bad_budget, [&](top_bench& broken) { broken.budgets[1] = budget; });
  rule(fkv::sequence_flag::length_mismatch,
       [&](top_bench& broken) { broken.state.view.seen_length[made.shape.row(last_row)] = made.length(last_row) + 1; });
}

TEST_CASE("select: a list may repeat slots, name none, and take its count from memory") {
  top_bench made(12, 60);
  while (made.shape.num_sequences < 3) made = top_bench(made.random.bits(), 60);
  made.place(history::filled);
  made.fill(hostile::few_levels);
  for (auto& budget : made.budgets) budget = 8;
  testing::owned_selection const blank = made.lists;
  made.slots = {2, -1, 0, 2, 99, 0};
  REQUIRE(made.select().ok());
  CHECK(made.wrong_rows() == 0);
  CHECK(made.state.view.flags[0] == static_cast<std::uint32_t>(fkv::sequence_flag::duplicate));
  CHECK(made.state.view.flags[1] == 0);
  CHECK(made.state.view.flags[2] == static_cast<std::uint32_t>(fkv::sequence_flag::duplicate));
  made.each_row(1,
                [&](fkv::row_index at) { CHECK(made.same_row(blank.kept, made.lists.kept, at, made.shape.capacity)); });

  made.policy.budget.budgets = made.budgets.data();
  std::vector<std::int32_t> count{1};
  fkv::sequence_list list{made.slots.data(), count.data(), 6, made.most};
  auto work = testing::workspace_for<top_bench::policy_type>(made.shape, list, 0);
  auto const run = [&] {
    made.lists = blank;
    return fkv::select(testing::exec, fkv::batch{made.policy, made.cache.view(), list, made.state.view, work.view()},
                       made.scores.view(), made.lists.view());
  };
  REQUIRE(run().ok());
  made.slots = {2};
  CHECK(made.wrong_rows() == 0);
  CHECK(made.lists.count(made.shape.row({0, 0, 0})) == -1);
  for (int const none : {0, -5}) {
    count[0] = none;
    REQUIRE(run().ok());
    CHECK(made.lists.same(blank));
  }
}

TEST_CASE("select: what the host can see is refused before anything is written") {
  top_bench made(13, 40);
  made.place(history::ordered);
  made.fill(hostile::ordinary);
  for (auto& budget : made.budgets) budget = 8;
  made.policy.budget.budgets = made.budgets.data();
  testing::owned_selection const blank = made.lists;
  auto const list = made.list();
  auto const cache = made.cache.view();
  auto const bytes = fkv::evict_bytes(testing::exec, top_bench::policy_type{}, made.shape, list, 0);
  auto work = testing::workspace_for<top_bench::policy_type>(made.shape, list, 0);
  auto const change = [](auto value, auto const& edit) {
    edit(value);
    return value;
  };
  auto const refused = [&](fkv::errc expected, auto const& policy, auto const& tokens,
                           fkv::sequence_list const& visited, fkv::score_view const& scores, auto const& state,
                           fkv::selection const& lists, fkv::workspace scratch) {
    CHECK(fkv::select(testing::exec, fkv::batch{policy, tokens, visited, state, scratch}, scores, lists).code ==
          expected);
    CHECK(made.lists.same(blank));
  };
  using fkv::errc;
  auto const& policy = made.policy;
  auto const scores = made.scores.view();
  auto const state = made.state.view;
  auto const lists = made.lists.view();
  refused(errc::invalid_config, change(policy, [](auto& p) { p.config.sink_tokens = 2; }), cache, list, scores, state,
          lists, work.view());
  refused(errc::null_pointer, change(policy, [](auto& p) { p.budget.budgets = nullptr; }), cache, list, scores, state,
          lists, work.view());
  refused(errc::null_pointer, policy, change(cache, [](auto& c) { c.row_lengths = nullptr; }), list, scores, state,
          lists, work.view());
  refused(errc::invalid_shape, policy, cache, change(list, [](auto& l) { l.max_length = -1; }), scores, state, lists,
          work.view());
  refused(errc::null_pointer, policy, cache, list, {nullptr, scores.capacity}, state, lists, work.view());
  refused(errc::invalid_shape, policy, cache, list, {scores.data, -1}, state, lists, work.view());
  refused(errc::null_pointer, policy, cache, list, scores, change(state, [](auto& s) { s.step = nullptr; }), lists,
          work.view());
  refused(errc::invalid_shape, policy, cache, list, scores, change(state, [](auto& s) { s.num_kv_heads += 1; }), lists,
          work.view());
  refused(errc::invalid_shape, policy, cache, list, scores, state, change(lists, [](auto& l) { l.capacity = -1; }),
          work.view());
  auto const shifted = []<class Pointer>(Pointer* pointer) {
    return reinterpret_cast<Pointer*>(reinterpret_cast<std::uintptr_t>(pointer) + 1);
  };
  refused(errc::misaligned, policy, cache, list, {shifted(scores.data), scores.capacity}, state, lists, work.view());
  refused(errc::misaligned, policy, cache, list, scores, state,
          change(lists, [&](auto& l) { l.evicted = shifted(l.evicted); }), work.view());
  refused(errc::misaligned, policy, cache, change(list, [&](auto& l) { l.slots = shifted(l.slots); }), scores, state,
          lists, work.view());
  refused(errc::misaligned, policy, cache, list, scores, change(state, [&](auto& s) { s.seed = shifted(s.seed); }),
          lists, work.view());
  refused(errc::misaligned, policy, change(cache, [&](auto& c) { c.row_lengths = shifted(c.row_lengths); }), list,
          scores, state, lists, work.view());
  refused(errc::workspace_too_small, policy, cache, list, scores, state, lists, {work.memory.data(), bytes - 1});
  refused(errc::null_pointer, policy, cache, list, scores, state, lists, {nullptr, bytes});
}
