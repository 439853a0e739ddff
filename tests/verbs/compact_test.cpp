// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include <foresightkv/compactions/fill_holes.hpp>
#include <foresightkv/compactions/ordered.hpp>
#include <foresightkv/verbs/compact.hpp>

#include "support/compaction_bench.hpp"

namespace fkv = foresightkv;
using testing::history;

TEST_CASE("compact: ordered and fill_holes keep the same tokens") {
  using first_bench = testing::compaction_bench<fkv::ordered>;
  using second_bench = testing::compaction_bench<fkv::fill_holes>;
  for (std::uint64_t seed = 300; seed < 310; ++seed) {
    CAPTURE(seed);
    first_bench a(seed, 90);
    second_bench b(seed, 90);
    a.place(history::pristine);
    b.place(history::pristine);
    a.budgets.assign(a.budgets.size(), 20);
    b.budgets.assign(b.budgets.size(), 20);
    a.choose();
    b.choose();
    REQUIRE(a.lists.same(b.lists));
    REQUIRE((a.compact().ok() && b.compact().ok()));
    a.each_row([&](fkv::row_index at) {
      int const row = a.shape.row(at);
      auto const positions = [&](fkv::row_state const& state) {
        std::int32_t const* const first = state.position + state.column(row, 0);
        return std::vector<int>(first, first + state.seen_length[row]);
      };
      auto const ascending = positions(a.state.view);
      auto filled = positions(b.state.view);
      CHECK(std::is_sorted(ascending.begin(), ascending.end()));
      if (a.lists.count(row) > 0) {
        // At most one token moved per evicted one.
        int moved = 0;
        for (std::size_t slot = 0; slot < filled.size(); ++slot) moved += filled[slot] != static_cast<int>(slot);
        CHECK(moved <= a.lists.count(row));
      }
      std::sort(filled.begin(), filled.end());
      CHECK(filled == ascending);
    });
  }
}

namespace {

using plain_bench = testing::compaction_bench<fkv::ordered>;

plain_bench three_sequences(std::uint64_t seed) {
  plain_bench made(seed, 60);
  while (made.shape.num_sequences < 3) made = plain_bench(made.random.bits(), 60);
  for (int s = 0; s < 3; ++s) made.place(s, history::ordered, 50);
  made.budgets.assign(made.budgets.size(), 30);
  made.choose();
  return made;
}

}  // namespace

TEST_CASE("compact: data that breaks a rule flags its sequence and leaves it alone") {
  plain_bench const made = three_sequences(1);
  fkv::row_index const last_row{made.shape.num_layers - 1, 1, made.shape.num_kv_heads - 1};
  auto const last = static_cast<std::size_t>(made.shape.row(last_row));
  plain_bench sound = made;
  sound.policy.budget.budgets = sound.budgets.data();
  REQUIRE(sound.compact().ok());
  auto const rule = [&](fkv::sequence_flag expected, auto const& spoil) {
    plain_bench broken = made;
    broken.policy.budget.budgets = broken.budgets.data();
    spoil(broken);
    auto before = broken;
    REQUIRE(broken.compact().ok());
    CHECK(broken.state.view.flags[1] == static_cast<std::uint32_t>(expected));
    CHECK(broken.new_lengths[1] == -7);
    int changed = 0;
    broken.each_row(
        [&](fkv::row_index at) { changed += testing::changes(broken, at.sequence == 1 ? before : sound, at); });
    CHECK(changed == 0);
    CHECK((broken.state.view.flags[0] == 0 && broken.state.view.flags[2] == 0));
  };
  for (int const length : {-1, made.most + 1})
    rule(fkv::sequence_flag::bad_length, [&](plain_bench& b) { b.cache.length({0, 1, 0}) = length; });
  for (int const count : {-1, 51, 0x7fffffff})
    rule(fkv::sequence_flag::bad_length, [&](plain_bench& b) { b.lists.evicted_count[last] = count; });
  rule(fkv::sequence_flag::bad_budget, [&](plain_bench& b) { b.budgets[1] = -1; });
  rule(fkv::sequence_flag::length_mismatch, [&](plain_bench& b) { b.state.view.seen_length[last] = 51; });
}

TEST_CASE("compact: what the host can see is refused before anything is written") {
  plain_bench made = three_sequences(2);
  made.policy.budget.budgets = made.budgets.data();
  auto const before = made;
  auto const list = made.list();
  auto const cache = made.cache.view();
  auto const state = made.state.view;
  auto const lists = made.lists.view();
  auto work = testing::workspace_for<plain_bench::policy_type>(made.shape, list, 0);
  auto const change = [](auto value, auto const& edit) {
    edit(value);
    return value;
  };
  auto const refused = [&](fkv::errc expected, auto const& policy, auto const& tokens,
                           fkv::sequence_list const& visited, fkv::selection const& chosen, auto const& columns,
                           std::int32_t* lengths, fkv::workspace scratch) {
    CHECK(fkv::compact(testing::exec, fkv::batch{policy, tokens, visited, columns, scratch}, chosen, lengths).code ==
          expected);
    CHECK(made.cache.same_tokens(before.cache));
    CHECK(testing::same_state(made.state.view, before.state.view));
    CHECK(made.new_lengths.same_bytes(before.new_lengths));
  };
  using fkv::errc;
  auto const& policy = made.policy;
  std::int32_t* const lengths = made.new_lengths.data();
  auto const shifted = reinterpret_cast<std::int32_t*>(reinterpret_cast<std::uintptr_t>(lengths) + 1);
  refused(errc::invalid_config, change(policy, [](auto& p) { p.config.interval = 0; }), cache, list, lists, state,
          lengths, work.view());
  refused(errc::null_pointer, policy,
          change(cache,
                 [](auto& c) {
                   c.key_data = nullptr;
                   c.key_layers = nullptr;
                 }),
          list, lists, state, lengths, work.view());
  refused(errc::invalid_shape, policy, cache, change(list, [](auto& l) { l.max_count = -2; }), lists, state, lengths,
          work.view());
  refused(errc::null_pointer, policy, cache, list, change(lists, [](auto& l) { l.kept = nullptr; }), state, lengths,
          work.view());
  refused(errc::null_pointer, policy, cache, list, change(lists, [](auto& l) { l.evicted = nullptr; }), state, lengths,
          work.view());
  refused(errc::null_pointer, policy, cache, list, change(lists, [](auto& l) { l.evicted_count = nullptr; }), state,
          lengths, work.view());
  refused(errc::invalid_shape, policy, cache, list, change(lists, [](auto& l) { l.capacity = -1; }), state, lengths,
          work.view());
  refused(errc::null_pointer, policy, cache, list, lists, change(state, [](auto& s) { s.carried = nullptr; }), lengths,
          work.view());
  refused(errc::invalid_shape, policy, cache, list, lists, change(state, [](auto& s) { s.num_carried = 1; }), lengths,
          work.view());
  refused(errc::invalid_shape, policy, cache, list, lists, change(state, [](auto& s) { s.capacity = 0; }), lengths,
          work.view());
  refused(errc::null_pointer, policy, cache, list, lists, state, nullptr, work.view());
  refused(errc::misaligned, policy, cache, list, lists, state, shifted, work.view());
  refused(errc::overlap, policy, cache, list, lists, state, made.cache.lengths.data(), work.view());
  refused(errc::overlap, policy, cache, list, lists, state, made.cache.lengths.data() + 2, work.view());
  refused(errc::workspace_too_small, policy, cache, list, lists, state, lengths,
          {work.memory.data(), work.memory.size() - 1});
}
