// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include <foresightkv/caches/dense.hpp>
#include <foresightkv/foresightkv.hpp>
#include <foresightkv/verbs/carry.hpp>

#include "support/policy_bench.hpp"
#include "support/vector_file.hpp"

namespace fkv = foresightkv;
using testing::history;
using testing::random_source;

namespace {

using policy_type = fkv::policy<fkv::eviction_config, testing::mixed_scorer, fkv::top_k, fkv::slot_list>;
using bench = testing::policy_bench<policy_type>;

constexpr fkv::eviction_config loose{.budget = 1, .interval = 1, .recent_tokens = 0};

bench make_bench(std::uint64_t seed, int longest, int queries) {
  return {seed, policy_type{loose, {}, {}, {}, {}}, longest, queries};
}

/// Carries the window and compares the state with the oracle. Rows of sequences that are not listed must not
/// change.
void check_carry(bench& made, bool observed_before) {
  using expected_row = std::vector<std::vector<oracle::numbers>>;
  std::vector<expected_row> expected;
  made.each_row([&](fkv::row_index at) { expected.push_back(made.expected_carried(at)); });
  auto const before = made;
  if (observed_before) REQUIRE(made.observe().ok());
  REQUIRE((observed_before ? made.carry(made.observed()) : made.carry(made.window.view())).ok());
  testing::worst_difference worst;
  int wrong = 0;
  std::size_t next = 0;
  made.each_row([&](fkv::row_index at) {
    int const row = made.shape.row(at);
    expected_row const& wanted = expected[next++];
    if (!made.listed(at.sequence)) {
      wrong += !testing::same_columns(made.state.view, before.state.view, row, made.shape.capacity);
      return;
    }
    auto const index = static_cast<std::size_t>(row);
    wrong += made.state.view.seen_length[row] != made.length(at);
    wrong += made.state.view.next_position[row] != made.row_end[index];
    wrong += made.state.view.step[row] != before.state.view.step[row];
    for (int slot = 0; slot < made.length(at); ++slot) {
      wrong += made.state.view.position[made.state.view.column(row, slot)] !=
               made.positions[index][static_cast<std::size_t>(slot)];
      for (int place = 0; place < 2; ++place)
        for (int j = 0; j < made.shape.group; ++j)
          worst.add(
              made.state.view.carried_at(row, slot)[place * made.shape.group + j],
              wanted[static_cast<std::size_t>(slot)][static_cast<std::size_t>(place)][static_cast<std::size_t>(j)]);
    }
  });
  CHECK(wrong == 0);
  CHECK(worst.value() <= 5e-5);
  CHECK(made.cache.same_tokens(before.cache));
}

}  // namespace

TEST_CASE("carry: sums and decayed sums of random rows, new tokens starting with their own window") {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    CAPTURE(seed);
    random_source choice(seed);
    bench made = make_bench(seed, choice.integer(1, 90), choice.integer(0, 24));
    made.place(static_cast<history>(choice.integer(0, 3)));
    if (choice.chance(0.4)) made.slots.pop_back();
    check_carry(made, choice.chance(0.5));
  }
}

TEST_CASE("carry: window after window, tokens arriving in between") {
  bench made = make_bench(1, 80, 8);
  for (int s = 0; s < made.shape.num_sequences; ++s) made.place(s, history::pristine, 8);
  for (int length = 8; length <= 80; length += 8) {
    CAPTURE(length);
    // The rows are still pristine: tokens that arrive take the next positions.
    made.each_row([&](fkv::row_index at) {
      auto& positions = made.positions[static_cast<std::size_t>(made.shape.row(at))];
      while (static_cast<int>(positions.size()) < length) positions.push_back(static_cast<int>(positions.size()));
      made.row_end[static_cast<std::size_t>(made.shape.row(at))] = length;
      made.cache.length(at) = length;
    });
    made.random.fill_normal<float>(made.window.queries, 1.5f);
    check_carry(made, length % 16 == 0);
  }
}

TEST_CASE("carry: statistics observed before give the bits of the window itself") {
  for (std::uint64_t seed = 50; seed < 60; ++seed) {
    CAPTURE(seed);
    bench a = make_bench(seed, 70, 12);
    a.place(history::filled);
    bench b = a;
    REQUIRE(a.carry(a.window.view()).ok());
    REQUIRE(b.observe().ok());
    REQUIRE(b.carry(b.observed()).ok());
    CHECK(testing::same_state(a.state.view, b.state.view));
  }
}

namespace {

/// A user's own carried statistic: the highest peak that any window showed, forgotten by a tenth each time.
struct fading_peak {
  using window = fkv::maximum;
  FORESIGHTKV_HOST_DEVICE static constexpr float carry(float old, float now) {
    return 0.9f * old > now ? 0.9f * old : now;
  }
};

struct peak_scorer {
  using reads = fkv::statistics<fading_peak>;
  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const& token) const {
    return token.mean(fading_peak{});
  }
};

}  // namespace

TEST_CASE("carry: a statistic of the user's own") {
  using peak_policy = fkv::policy<fkv::eviction_config, peak_scorer, fkv::top_k, fkv::ordered>;
  testing::policy_bench<peak_policy> made(2, peak_policy{loose, {}, {}, {}, {}}, 40, 6);
  made.place(history::ordered);
  auto const before = made.state;
  REQUIRE(made.observe().ok());
  REQUIRE(made.carry(made.window.view()).ok());
  bool same = true;
  made.each_row([&](fkv::row_index at) {
    int const row = made.shape.row(at);
    for (int slot = 0; slot < made.length(at); ++slot)
      for (int j = 0; j < made.shape.group; ++j) {
        float const old = slot < before.seen(row) ? before.view.carried_at(row, slot)[j] : 0.0f;
        float const now = made.statistics.at(row, slot, 0, j);
        same = same && made.state.view.carried_at(row, slot)[j] == std::max(0.9f * old, now);
      }
  });
  CHECK(same);
}

TEST_CASE("carry: data that breaks a rule flags its sequence and leaves it alone") {
  bench made = make_bench(3, 30, 6);
  while (made.shape.num_sequences < 3) made = make_bench(made.random.bits(), 30, 6);
  made.place(history::ordered);
  REQUIRE(made.observe().ok());
  fkv::row_index const last_row{made.shape.num_layers - 1, 1, made.shape.num_kv_heads - 1};
  auto const flagged = [&](bench const& changed, fkv::sequence_flag expected) {
    CHECK(changed.state.view.flags[0] == 0);
    CHECK(changed.state.view.flags[1] == static_cast<std::uint32_t>(expected));
    CHECK(changed.state.view.flags[2] == 0);
    changed.each_row([&](fkv::row_index at) {
      bool const same =
          testing::same_columns(changed.state.view, made.state.view, made.shape.row(at), made.shape.capacity);
      if (at.sequence == 1) CHECK(same);
      if (at.sequence != 1) CHECK(changed.state.seen(made.shape.row(at)) == made.length(at));
    });
  };
  bench changed = made;
  changed.cache.length({0, 1, 0}) = -1;
  REQUIRE(changed.carry(changed.window.view()).ok());
  flagged(changed, fkv::sequence_flag::bad_length);

  changed = made;
  changed.window.has_counts = true;
  changed.window.query_count[1] = 7;
  REQUIRE(changed.carry(changed.window.view()).ok());
  flagged(changed, fkv::sequence_flag::bad_window);

  changed = made;
  changed.state.view.seen_length[made.shape.row(last_row)] = made.length(last_row) + 1;
  REQUIRE(changed.carry(changed.window.view()).ok());
  CHECK(changed.state.view.flags[1] == static_cast<std::uint32_t>(fkv::sequence_flag::length_mismatch));

  // Statistics with too few slots for one sequence's rows. The others stand where they would in a shorter
  // buffer.
  changed = made;
  for (int s = 0; s < 3; ++s) changed.place(s, history::pristine, s == 1 ? 20 : 10);
  testing::owned_statistics<bench::window_list> few(made.shape, 10);
  for (float& value : few.values) value = 0.0f;
  REQUIRE(changed.carry(fkv::observed<bench::window_list>{few.view()}).ok());
  CHECK(changed.state.view.flags[0] == 0);
  CHECK(changed.state.view.flags[1] == static_cast<std::uint32_t>(fkv::sequence_flag::bad_window));
  CHECK(changed.state.view.flags[2] == 0);
}

TEST_CASE("carry: a row longer than the state's columns is flagged and left alone") {
  bench made = make_bench(4, 30, 6);
  for (int s = 0; s < made.shape.num_sequences; ++s) made.place(s, history::pristine, 30);
  made.state = {made.shape, 29};
  REQUIRE(made.carry(made.window.view()).ok());
  for (int s = 0; s < made.shape.num_sequences; ++s)
    CHECK(made.state.view.flags[s] == static_cast<std::uint32_t>(fkv::sequence_flag::state_overflow));
  for (int row = 0; row < made.shape.num_rows(); ++row) CHECK(made.state.seen(row) == 0);
}

TEST_CASE("carry: what the host can see is refused before anything is written") {
  bench made = make_bench(5, 30, 6);
  made.place(history::ordered);
  REQUIRE(made.observe().ok());
  auto const before = made.state;
  auto const list = made.list();
  auto const cache = made.cache.view();
  auto const window = made.window.view();
  auto const state = made.state.view;
  auto work = testing::workspace_for<policy_type>(made.shape, list, 6);
  auto const change = [](auto value, auto const& edit) {
    edit(value);
    return value;
  };
  auto const refused = [&](fkv::errc expected, auto const& policy, auto const& tokens,
                           fkv::sequence_list const& visited, auto const& seen, auto const& columns,
                           fkv::workspace scratch) {
    CHECK(fkv::carry(testing::exec, fkv::batch{policy, tokens, visited, columns, scratch}, seen).code == expected);
    CHECK(testing::same_state(made.state.view, before.view));
  };
  using fkv::errc;
  auto const& policy = made.policy;
  refused(errc::invalid_config, change(policy, [](auto& p) { p.config.budget = 0; }), cache, list, window, state,
          work.view());
  refused(errc::invalid_shape, policy, change(cache, [](auto& c) { c.extents.num_layers = 0; }), list, window, state,
          work.view());
  refused(errc::invalid_shape, policy, cache, change(list, [](auto& l) { l.max_length = -1; }), window, state,
          work.view());
  refused(errc::null_pointer, policy, cache, list, change(window, [](auto& w) { w.queries = nullptr; }), state,
          work.view());
  refused(errc::unsupported, policy, cache, list, change(window, [](auto& w) { w.continues = true; }), state,
          work.view());
  refused(errc::null_pointer, policy, cache, list, fkv::observed<bench::window_list>{}, state, work.view());
  refused(errc::invalid_shape, policy, cache, list,
          fkv::observed<bench::window_list>{{made.statistics.values.data(), -1}}, state, work.view());
  refused(errc::null_pointer, policy, cache, list, window, change(state, [](auto& s) { s.carried = nullptr; }),
          work.view());
  refused(errc::invalid_shape, policy, cache, list, window, change(state, [](auto& s) { s.num_sequences += 1; }),
          work.view());
  refused(errc::workspace_too_small, policy, cache, list, window, state, {work.memory.data(), work.memory.size() - 1});
  refused(errc::null_pointer, policy, cache, list, window, state, {nullptr, work.memory.size()});
}
