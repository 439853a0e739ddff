// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include <foresightkv/budgets/per_sequence.hpp>
#include <foresightkv/caches/dense.hpp>
#include <foresightkv/foresightkv.hpp>
#include <foresightkv/verbs/append.hpp>
#include <foresightkv/verbs/evict.hpp>

#include "support/lifetime.hpp"
#include "support/policy_bench.hpp"
#include "support/same_choice.hpp"
#include "support/tight_budget.hpp"

namespace fkv = foresightkv;
using testing::guarded;
using testing::history;
using testing::mixed_scorer;
using testing::random_source;

namespace {

constexpr fkv::eviction_config small{.budget = 24, .interval = 8, .recent_tokens = 6, .sink_tokens = 2};

template <class Compaction>
using run_time_policy = fkv::policy<fkv::eviction_config, mixed_scorer, fkv::top_k, Compaction>;
using filling = run_time_policy<fkv::fill_holes>;
using listing = run_time_policy<fkv::slot_list>;
using ordering = run_time_policy<fkv::ordered>;
using sampling = fkv::policy<fkv::eviction_config, mixed_scorer, fkv::sampled_top_k, fkv::ordered, fkv::per_sequence>;

using filling_bench = testing::policy_bench<filling>;
using listing_bench = testing::policy_bench<listing>;
using ordering_bench = testing::policy_bench<ordering>;
using sampling_bench = testing::policy_bench<sampling, fkv::bfloat16, fkv::length_domain::row>;

template <class Bench>
Bench make_bench(std::uint64_t seed, int longest = 70, int queries = 9) {
  return {seed, {small, {}, {}, {}, {}}, longest, queries};
}
/// With three sequences and room for a budget.
template <class Bench>
Bench three_sequences(std::uint64_t seed) {
  Bench made = make_bench<Bench>(seed);
  while (made.shape.num_sequences < 3) made = make_bench<Bench>(made.random.bits());
  return made;
}

/// Differences of a row, all bytes of it.
template <class Bench>
int differences(Bench& a, Bench& b, fkv::row_index at, int slots) {
  int wrong = !testing::same_columns(a.state.view, b.state.view, a.shape.row(at), slots);
  for (int slot = 0; slot < a.shape.capacity; ++slot)
    wrong += !testing::same_token(a.cache.view(), at, slot, b.cache.view(), slot);
  return wrong;
}

/// Evicts, and compares with the stages one by one and, where nothing goes, with what was there before.
template <class Bench>
void check_stages(Bench& made, bool observed_before) {
  Bench staged = made;
  Bench before = made;
  staged.run_stages();
  if (observed_before) REQUIRE(made.observe().ok());
  REQUIRE((observed_before ? made.evict(made.observed()) : made.evict()).ok());
  int wrong = 0;
  int cut = 0;
  made.each_row([&](fkv::row_index at) {
    int const row = made.shape.row(at);
    bool const loses = made.listed(at.sequence) && staged.lists.count(row) > 0;
    cut += loses;
    if (made.listed(at.sequence)) {
      auto const evicted = made.lists.evicted_of(row), by_stages = staged.lists.evicted_of(row);
      wrong += !testing::same_choice(evicted, by_stages, staged.scores_of(at)) || !staged.right_lists(at);
      if (evicted != by_stages) return;
    }
    wrong += loses ? differences(made, staged, at, made.state.seen(row))
                   : differences(made, before, at, made.shape.capacity);
    wrong += made.new_length(at) != staged.new_length(at);
    if (made.listed(at.sequence)) {
      wrong += !made.right_lists(at);
      wrong += made.lists.positions_of(row) != staged.lists.positions_of(row);
    }
  });
  CHECK(wrong == 0);
  CHECK(cut > 0);
  for (int s = 0; s < made.shape.num_sequences; ++s) CHECK(made.state.view.flags[s] == 0);
}

}  // namespace

TEST_CASE("evict: the bits of its stages one by one, sequences of different lengths") {
  for (std::uint64_t seed = 0; seed < 24; ++seed) {
    CAPTURE(seed);
    auto filled = three_sequences<filling_bench>(seed);
    filled.place(static_cast<history>(seed % 3));
    filled.place(1, static_cast<history>(seed % 3), 60);
    if (seed % 4 == 1) filled.slots = {2, 1};
    // right_lists judges the fused lists by scores: those of the stages.
    auto const scores = [&](auto& made) {
      auto staged = made;
      staged.run_stages();
      made.scores = staged.scores;
    };
    scores(filled);
    check_stages(filled, seed % 2 == 0);
    auto listed = three_sequences<listing_bench>(seed);
    listed.place(static_cast<history>(seed % 4));
    listed.place(1, static_cast<history>(seed % 4), 66);
    scores(listed);
    check_stages(listed, seed % 2 == 1);
  }
}

TEST_CASE("evict: drawn tokens, budgets per sequence, bfloat16, a length for every row") {
  for (std::uint64_t seed = 100; seed < 120; ++seed) {
    CAPTURE(seed);
    auto made = three_sequences<sampling_bench>(seed);
    std::vector<std::int32_t> budgets;
    for (int s = 0; s < made.shape.num_sequences; ++s) budgets.push_back(made.random.integer(8, 40));
    made.policy.budget.budgets = budgets.data();
    made.place(history::ordered);
    made.place(0, history::pristine, 65);
    auto before = made;
    auto staged = made;
    staged.run_stages();
    REQUIRE(made.evict().ok());
    int wrong = 0;
    made.each_row([&](fkv::row_index at) {
      int const row = made.shape.row(at);
      int const length = made.length(at);
      int const goes = std::max(length - budgets[static_cast<std::size_t>(at.sequence)], 0);
      wrong += made.lists.count(row) != goes;
      wrong += made.new_length(at) != length - goes;
      wrong += made.lists.evicted_of(row) != staged.lists.evicted_of(row) ||
               made.lists.kept_of(row, length) != staged.lists.kept_of(row, length);
      wrong +=
          goes > 0 ? differences(made, staged, at, length - goes) : differences(made, before, at, made.shape.capacity);
    });
    CHECK(wrong == 0);
  }
}

TEST_CASE("evict: a layer's own length") {
  using layer_bench = testing::policy_bench<filling, fkv::half, fkv::length_domain::layer>;
  for (std::uint64_t seed = 130; seed < 136; ++seed) {
    CAPTURE(seed);
    auto made = three_sequences<layer_bench>(seed);
    made.place(history::pristine);
    int cut = 0;
    made.each_row([&](fkv::row_index at) {
      int const length = 20 + 7 * ((at.layer + at.sequence) % 3);
      auto& positions = made.positions[static_cast<std::size_t>(made.shape.row(at))];
      positions.clear();
      for (int slot = 0; slot < length; ++slot) positions.push_back(slot);
      made.row_end[static_cast<std::size_t>(made.shape.row(at))] = length;
      made.cache.length(at) = length;
      cut += length > small.budget;
    });
    auto before = made;
    REQUIRE(made.evict().ok());
    int wrong = 0;
    made.each_row([&](fkv::row_index at) {
      int const length = made.length(at);
      wrong += made.new_length(at) != fkv::next_length(small, length);
      wrong += made.lists.count(made.shape.row(at)) != std::max(length - small.budget, 0);
      if (length <= small.budget) wrong += differences(made, before, at, made.shape.capacity);
    });
    CHECK(wrong == 0);
    CHECK(cut > 0);
  }
}

TEST_CASE("evict: a row within its budget keeps every byte") {
  for (std::uint64_t seed = 200; seed < 212; ++seed)
    for (int const length : {0, 1, small.budget - 1, small.budget}) {
      CAPTURE(seed);
      CAPTURE(length);
      auto made = make_bench<filling_bench>(seed);
      for (int s = 0; s < made.shape.num_sequences; ++s) made.place(s, static_cast<history>(seed % 3), length);
      auto const before = made;
      REQUIRE(made.evict().ok());
      CHECK(made.cache.same_tokens(before.cache));
      CHECK(made.state.memory.same_bytes(before.state.memory));
      CHECK(made.cache.lengths.same_bytes(before.cache.lengths));
      for (int s = 0; s < made.shape.num_sequences; ++s) CHECK(made.new_lengths[static_cast<std::size_t>(s)] == length);
      made.each_row([&](fkv::row_index at) {
        auto const kept = made.lists.kept_of(made.shape.row(at), length);
        CHECK(made.lists.count(made.shape.row(at)) == 0);
        for (int slot = 0; slot < length; ++slot) CHECK(kept[static_cast<std::size_t>(slot)] == slot);
      });
    }
}

TEST_CASE("evict: a prompt longer than the state's columns has implicit positions until its first eviction") {
  for (std::uint64_t seed = 300; seed < 308; ++seed) {
    CAPTURE(seed);
    auto wide = make_bench<ordering_bench>(seed, 200);
    for (int s = 0; s < wide.shape.num_sequences; ++s) wide.place(s, history::pristine, 150 + 20 * s);
    auto narrow = wide;
    narrow.state = {narrow.shape, small.budget + small.interval};
    for (int s = 0; s < wide.shape.num_sequences; ++s) {
      narrow.state.view.request_id[s] = wide.state.view.request_id[s];
      narrow.state.view.seed[s] = wide.state.view.seed[s];
    }
    auto before = wide;
    if (seed % 2 == 0) {  // the engine may say so, or not
      std::vector<std::int32_t> counts;
      for (int s = 0; s < wide.shape.num_sequences; ++s)
        counts.push_back(wide.cache.lengths[static_cast<std::size_t>(s)]);
      REQUIRE(fkv::append(testing::exec,
                          fkv::batch{narrow.policy, narrow.cache.view(), narrow.list(), narrow.state.view},
                          counts.data())
                  .ok());
    }
    REQUIRE((wide.evict().ok() && narrow.evict().ok()));
    CHECK(narrow.cache.same_tokens(wide.cache));
    CHECK(narrow.new_lengths.same_bytes(wide.new_lengths));
    CHECK(narrow.lists.same(wide.lists));
    CHECK(testing::same_state(narrow.state.view, wide.state.view));
    CHECK(narrow.state.view.flags[0] == 0);
    wide.each_row([&](fkv::row_index at) {
      int const row = wide.shape.row(at);
      CHECK(narrow.state.view.next_position[row] == wide.length(at));
      for (int slot = 0; slot < small.budget; ++slot)  // a token's position is where it stood
        CHECK(testing::same_token(narrow.cache.view(), at, slot, before.cache.view(),
                                  narrow.state.view.position[narrow.state.view.column(row, slot)]));
    });
  }
}

namespace {

template <class Policy>
void check_lifetime(std::uint64_t seed) {
  CAPTURE(seed);
  testing::lifetime<Policy> life(seed, small);
  life.arrive(small.budget);
  for (int step = 0; step < 7; ++step) {
    CAPTURE(step);
    life.arrive(step == 3 ? 3 : small.interval);  // once, fewer than an interval
    life.cut();
  }
  for (int row = 0; row < life.made.shape.num_rows(); ++row) CHECK(life.made.state.view.step[row] == 7);
  for (int s = 0; s < life.made.shape.num_sequences; ++s) CHECK(life.made.state.view.flags[s] == 0);
}

}  // namespace

TEST_CASE("evict: a sequence's life against the oracle, filling holes") {
  for (std::uint64_t seed = 400; seed < 408; ++seed) check_lifetime<filling>(seed);
}

TEST_CASE("evict: a sequence's life against the oracle, in time order") {
  for (std::uint64_t seed = 420; seed < 428; ++seed) check_lifetime<ordering>(seed);
}

TEST_CASE("evict: a sequence's life against the oracle, slots reused") {
  for (std::uint64_t seed = 440; seed < 448; ++seed) check_lifetime<listing>(seed);
}

namespace {

/// Evicts again and again with some positions pinned, and looks for them.
template <class Policy>
void check_pins(std::uint64_t seed) {
  CAPTURE(seed);
  testing::lifetime<Policy> life(seed, small);
  auto& made = life.made;
  int const sequences = made.shape.num_sequences, with_pins = std::max(sequences - 1, 1);
  constexpr int words = 3;
  std::vector<std::uint32_t> bits(static_cast<std::size_t>(sequences * words), 0);
  std::vector<int> const pinned{3, 4, 31, 32, 40, 63, 64};  // both sides of words; one is gone before it is pinned
  auto const pin = [&](int position) {
    for (int s = 0; s < with_pins; ++s)
      bits[static_cast<std::size_t>(s * words + position / 32)] |= 1u << position % 32;
  };
  for (int const position : pinned) pin(position);
  made.state.view = made.state.view.with_pinned(bits.data(), words);
  life.arrive(small.budget);
  for (int step = 0; step < 7; ++step) {
    life.arrive(small.interval);
    REQUIRE(made.evict().ok());
    made.each_row([&](fkv::row_index at) {
      int const row = made.shape.row(at);
      auto& positions = made.positions[static_cast<std::size_t>(row)];
      auto const gone = made.lists.positions_of(row);
      CHECK(gone.size() == static_cast<std::size_t>(small.interval));
      for (int const position : gone)
        CHECK((at.sequence >= with_pins || std::find(pinned.begin(), pinned.end(), position) == pinned.end()));
      int const length = made.state.seen(row);
      auto const* const column = made.state.view.position + made.state.view.column(row, 0);
      positions.assign(column, column + length);
      made.cache.length(at) = length;
    });
  }
  for (int s = 0; s < sequences; ++s) CHECK(made.state.view.flags[s] == 0);
  made.each_row([&](fkv::row_index at) {
    auto const& positions = made.positions[static_cast<std::size_t>(made.shape.row(at))];
    for (int const position : pinned)
      CHECK((at.sequence >= with_pins || std::find(positions.begin(), positions.end(), position) != positions.end()));
  });

  // As many as the budget has room for, and one more: that sequence is left alone.
  int const room = small.budget - small.recent() - small.sink_tokens;
  std::fill(bits.begin(), bits.end(), 0u);
  for (int i = 0; i < room; ++i) pin(small.sink_tokens + i);
  life.arrive(small.interval);
  REQUIRE(made.evict().ok());
  for (int s = 0; s < sequences; ++s) CHECK(made.state.view.flags[s] == 0);
  made.each_row([&](fkv::row_index at) {
    int const row = made.shape.row(at);
    auto const* const column = made.state.view.position + made.state.view.column(row, 0);
    made.positions[static_cast<std::size_t>(row)].assign(column, column + made.state.seen(row));
    made.cache.length(at) = made.state.seen(row);
  });
  pin(small.sink_tokens + room);
  life.arrive(small.interval);
  std::fill(made.new_lengths.begin(), made.new_lengths.end(), -7);
  auto const before = made.cache;
  REQUIRE(made.evict().ok());
  for (int s = 0; s < with_pins; ++s) {
    CHECK(made.state.view.flags[s] == static_cast<std::uint32_t>(fkv::sequence_flag::bad_budget));
    CHECK(made.new_lengths[static_cast<std::size_t>(s)] == -7);
  }
  for (int s = with_pins; s < sequences; ++s) CHECK(made.state.view.flags[s] == 0);
  if (sequences == 1) CHECK(made.cache.same_tokens(before));
}

}  // namespace

TEST_CASE("evict: pinned tokens stay, and are refused where they do not fit") {
  for (std::uint64_t seed = 460; seed < 464; ++seed) {
    check_pins<filling>(seed);
    check_pins<ordering>(seed);
    check_pins<listing>(seed);
  }
}

TEST_CASE("evict: scorers that look at candidates leave pinned tokens out") {
  using scorer = fkv::standardised<fkv::key_norm>;
  using policy_type = fkv::policy<fkv::eviction_config, scorer, fkv::top_k, fkv::ordered>;
  fkv::cache_shape const shape{1, 1, 1, 1, 4, 4, 40};
  testing::policy_bench<policy_type> made(3, policy_type{{.budget = 32, .interval = 8}, {}, {}, {}, {}}, shape, 1);
  made.place(0, history::pristine, 40);
  std::vector<std::uint32_t> const bits{1u << 5};
  made.cache.view().key({0, 0, 0}, 5)[0] = 1000.0f;  // would outweigh all others
  auto const spread = [&] {
    REQUIRE(made.score(made.observed()).ok());
    float low = 1e30f, high = -1e30f;
    for (int slot = 0; slot < 32; ++slot)
      if (slot != 5) low = std::min(low, made.scores.at(0, slot)), high = std::max(high, made.scores.at(0, slot));
    return high - low;
  };
  CHECK(spread() < 0.1f);
  made.state.view = made.state.view.with_pinned(bits.data(), 1);
  CHECK(spread() > 2.0f);
}

TEST_CASE("evict: a config fixed at compile time gives the bits of the same config at run time") {
  using fixed_bench = testing::policy_bench<fkv::policy<fkv::fixed<small>, mixed_scorer, fkv::top_k, fkv::fill_holes>>;
  for (std::uint64_t seed = 500; seed < 508; ++seed) {
    CAPTURE(seed);
    auto run_time = make_bench<filling_bench>(seed);
    fixed_bench fixed(seed, {}, 70, 9);
    run_time.place(static_cast<history>(seed % 3));
    fixed.place(static_cast<history>(seed % 3));
    REQUIRE((run_time.evict().ok() && fixed.evict().ok()));
    CHECK(run_time.cache.same_tokens(fixed.cache));
    CHECK(run_time.state.memory.same_bytes(fixed.state.memory));
    CHECK(run_time.lists.same(fixed.lists));
    CHECK(run_time.new_lengths.same_bytes(fixed.new_lengths));
  }
}

TEST_CASE("evict: threads and the order of the list change no bit") {
  for (std::uint64_t seed = 520; seed < 526; ++seed) {
    CAPTURE(seed);
    auto alone = three_sequences<filling_bench>(seed);
    alone.place(static_cast<history>(seed % 3));
    auto together = alone;
    auto turned = alone;
    alone.exec = testing::scheduled(1);
    together.exec = testing::scheduled(2);
    std::reverse(turned.slots.begin(), turned.slots.end());
    REQUIRE((alone.evict().ok() && together.evict().ok() && turned.evict().ok()));
    for (auto const* other : {&together, &turned}) {
      CHECK(alone.cache.same_tokens(other->cache));
      CHECK(alone.state.memory.same_bytes(other->state.memory));
      CHECK(alone.lists.same(other->lists));
      CHECK(alone.new_lengths.same_bytes(other->new_lengths));
    }
  }
}

TEST_CASE("evict: a dry run writes lengths and lists alone; without lists the rest is the same") {
  for (std::uint64_t seed = 540; seed < 546; ++seed) {
    CAPTURE(seed);
    auto real = make_bench<filling_bench>(seed);
    real.place(0, static_cast<history>(seed % 3), 70);
    auto dry = real;
    auto silent = real;
    auto const before = real;
    REQUIRE(real.evict().ok());
    REQUIRE(dry.evict(dry.window.view(), true).ok());
    CHECK(dry.cache.same_tokens(before.cache));
    CHECK(dry.state.memory.same_bytes(before.state.memory));
    CHECK(dry.lists.same(real.lists));
    CHECK(dry.new_lengths.same_bytes(real.new_lengths));

    auto work = testing::workspace_for<filling>(silent.shape, silent.list(), 9);
    REQUIRE(fkv::evict(testing::exec,
                       fkv::batch{silent.policy, silent.cache.view(), silent.list(), silent.state.view, work.view()},
                       silent.window.view(), {silent.new_lengths.data()})
                .ok());
    CHECK(silent.cache.same_tokens(real.cache));
    CHECK(silent.state.memory.same_bytes(real.state.memory));
    CHECK(silent.lists.same(before.lists));

    // Capacity 0 asks for no lists, whatever the pointers say.
    silent = before;
    fkv::eviction_output output{silent.new_lengths.data(), silent.lists.view()};
    output.lists.capacity = 0;
    REQUIRE(fkv::evict(testing::exec,
                       fkv::batch{silent.policy, silent.cache.view(), silent.list(), silent.state.view, work.view()},
                       silent.window.view(), output)
                .ok());
    CHECK(silent.cache.same_tokens(real.cache));
    CHECK(silent.lists.same(before.lists));
  }
}

TEST_CASE("evict: slots out of range are passed over, repeats visited once, a count in memory obeyed") {
  auto made = three_sequences<filling_bench>(560);
  for (int s = 0; s < 3; ++s) made.place(s, history::ordered, 50 + s);
  auto const before = made;
  auto all = made;
  REQUIRE(all.evict().ok());
  made.slots = {2, -1, 3, 0, 2, 0x7fffffff};
  REQUIRE(made.evict().ok());
  auto blank = before;
  int wrong = 0;
  made.each_row([&](fkv::row_index at) {
    wrong +=
        at.sequence == 1 ? differences(made, blank, at, made.shape.capacity) : differences(made, all, at, small.budget);
    wrong += made.new_length(at) != (at.sequence == 1 ? -7 : small.budget);
  });
  CHECK(wrong == 0);
  CHECK(made.state.view.flags[0] == 0);
  CHECK(made.state.view.flags[1] == 0);
  CHECK(made.state.view.flags[2] == static_cast<std::uint32_t>(fkv::sequence_flag::duplicate));

  for (std::int32_t const count : {-3, 0, 1, 2, 3, 100}) {
    CAPTURE(count);
    auto counted = before;
    guarded<std::int32_t> in_memory(1, count);
    fkv::sequence_list const list{nullptr, in_memory.data(), 3, counted.most};  // null slots: 0, 1, 2
    auto work = testing::workspace_for<filling>(counted.shape, list, 9);
    REQUIRE(fkv::evict(testing::exec,
                       fkv::batch{counted.policy, counted.cache.view(), list, counted.state.view, work.view()},
                       counted.window.view(), {counted.new_lengths.data()})
                .ok());
    for (int s = 0; s < 3; ++s)
      CHECK(counted.new_lengths[static_cast<std::size_t>(s)] == (s < count ? small.budget : -7));
  }
}

namespace {

/// Spoils sequence 1 of three and evicts: it must be flagged and keep every byte, the others must be cut as
/// ever.
template <class Bench, class Spoil>
void check_flag(Bench const& made, fkv::sequence_flag expected, Spoil const& spoil) {
  CAPTURE(static_cast<unsigned>(expected));
  Bench sound = made;
  REQUIRE(sound.evict().ok());
  Bench broken = made;
  spoil(broken);
  Bench before = broken;
  REQUIRE(broken.evict().ok());
  int wrong = 0;
  broken.each_row([&](fkv::row_index at) {
    wrong += at.sequence == 1 ? differences(broken, before, at, broken.shape.capacity)
                              : differences(broken, sound, at, broken.state.seen(broken.shape.row(at)));
    wrong += broken.new_length(at) != (at.sequence == 1 ? -7 : sound.new_length(at));
    if (at.sequence == 1) wrong += broken.lists.count(broken.shape.row(at)) != -1;
  });
  CHECK(wrong == 0);
  CHECK(broken.state.view.flags[0] == 0);
  CHECK(broken.state.view.flags[1] == static_cast<std::uint32_t>(expected));
  CHECK(broken.state.view.flags[2] == 0);
}

}  // namespace

TEST_CASE("evict: data that breaks a rule flags its sequence and leaves it alone") {
  auto made = three_sequences<filling_bench>(580);
  for (int s = 0; s < 3; ++s) made.place(s, history::ordered, 50);
  int const last = made.shape.row({made.shape.num_layers - 1, 1, made.shape.num_kv_heads - 1});
  for (int const length : {-1, made.most + 1, made.shape.capacity + 1, 0x7fffffff})
    check_flag(made, fkv::sequence_flag::bad_length, [&](filling_bench& b) { b.cache.length({0, 1, 0}) = length; });
  for (int const seen : {51, 0x7fffffff})
    check_flag(made, fkv::sequence_flag::length_mismatch,
               [&](filling_bench& b) { b.state.view.seen_length[last] = seen; });
  made.window.has_counts = true;
  for (int const count : {-1, 10})
    check_flag(made, fkv::sequence_flag::bad_window, [&](filling_bench& b) { b.window.query_count[1] = count; });

  auto slots = three_sequences<listing_bench>(581);
  for (int s = 0; s < 3; ++s) slots.place(s, history::pristine, s == 1 ? 60 : 40);
  auto narrow = slots;
  narrow.state = {narrow.shape, 50};
  slots.place(1, history::pristine, 40);
  check_flag(narrow, fkv::sequence_flag::state_overflow, [](listing_bench&) {});

  auto drawn = three_sequences<sampling_bench>(582);
  for (int s = 0; s < 3; ++s) drawn.place(s, history::pristine, 50);
  std::vector<std::int32_t> budgets(static_cast<std::size_t>(drawn.shape.num_sequences), 20);
  drawn.policy.budget.budgets = budgets.data();
  for (int const budget : {-1, 0, 7, drawn.shape.capacity + 1, 0x7fffffff}) {
    std::vector<std::int32_t> spoiled = budgets;
    spoiled[1] = budget;
    check_flag(drawn, fkv::sequence_flag::bad_budget,
               [&](sampling_bench& b) { b.policy.budget.budgets = spoiled.data(); });
  }
}

TEST_CASE("evict: statistics with too few slots flag the sequences that need more") {
  auto made = three_sequences<filling_bench>(590);
  for (int s = 0; s < 3; ++s) made.place(s, history::pristine, s == 1 ? 60 : 30);
  made.statistics = {made.shape, 40};
  for (float& value : made.statistics.values) value = 0.5f;
  REQUIRE(made.evict(made.observed()).ok());
  CHECK(made.state.view.flags[0] == 0);
  CHECK(made.state.view.flags[1] == static_cast<std::uint32_t>(fkv::sequence_flag::bad_window));
  CHECK(fkv::left_alone(made.state.view.flags[1]));
  CHECK(made.state.view.flags[2] == 0);
  CHECK(made.new_lengths[1] == -7);
  CHECK(made.new_lengths[2] == small.budget);
}

TEST_CASE("evict: where too much is protected, all candidates go and the sequence is flagged over budget") {
  using tight_bench = testing::policy_bench<
      fkv::policy<fkv::eviction_config, mixed_scorer, fkv::top_k, fkv::ordered, testing::tight_budget>>;
  auto made = three_sequences<tight_bench>(600);
  std::vector<std::int32_t> budgets(static_cast<std::size_t>(made.shape.num_sequences), 20);
  budgets[1] = 3;
  made.policy.budget.budgets = budgets.data();
  for (int s = 0; s < made.shape.num_sequences; ++s) made.place(s, history::pristine, 40);
  REQUIRE(made.evict().ok());
  int const protected_tokens = small.recent_tokens + small.sink_tokens;
  CHECK(made.new_lengths[0] == 20);
  CHECK(made.new_lengths[1] == protected_tokens);
  CHECK(made.state.view.flags[0] == 0);
  CHECK(made.state.view.flags[1] == static_cast<std::uint32_t>(fkv::sequence_flag::over_budget));
  CHECK_FALSE(fkv::left_alone(made.state.view.flags[1]));

  // Nothing but protected tokens: nothing goes, and every byte stays.
  for (int s = 0; s < made.shape.num_sequences; ++s) made.place(s, history::pristine, s == 1 ? 6 : 20);
  made.state.view.flags[1] = 0;
  auto before = made;
  REQUIRE(made.evict().ok());
  int wrong = 0;
  made.each_row(1, [&](fkv::row_index at) { wrong += differences(made, before, at, made.shape.capacity); });
  CHECK(wrong == 0);
  CHECK(made.new_lengths[1] == 6);
  CHECK(made.state.view.flags[1] == static_cast<std::uint32_t>(fkv::sequence_flag::over_budget));
}

TEST_CASE("evict: what the host can see is refused before anything is written") {
  auto made = three_sequences<filling_bench>(620);
  made.place(history::ordered);
  auto const before = made;
  auto const list = made.list();
  auto const cache = made.cache.view();
  auto const window = made.window.view();
  auto const state = made.state.view;
  fkv::eviction_output const output{made.new_lengths.data(), made.lists.view()};
  auto work = testing::workspace_for<filling>(made.shape, list, 9);
  auto const change = [](auto value, auto const& edit) {
    edit(value);
    return value;
  };
  auto const shifted = []<class Pointer>(Pointer* pointer) {
    return reinterpret_cast<Pointer*>(reinterpret_cast<std::uintptr_t>(pointer) + 1);
  };
  auto const refused = [&](fkv::errc expected, auto const& policy, auto const& tokens,
                           fkv::sequence_list const& visited, auto const& seen, auto const& columns,
                           fkv::eviction_output const& out, fkv::workspace scratch) {
    CHECK(fkv::evict(testing::exec, fkv::batch{policy, tokens, visited, columns, scratch}, seen, out).code == expected);
    CHECK(made.cache.same_tokens(before.cache));
    CHECK(made.state.memory.same_bytes(before.state.memory));
    CHECK(made.new_lengths.same_bytes(before.new_lengths));
    CHECK(made.lists.same(before.lists));
  };
  using fkv::errc;
  auto const& policy = made.policy;
  for (fkv::eviction_config const config :
       {fkv::eviction_config{0, 8, 6, 2}, {24, 0, 6, 2}, {24, 8, 23, 2}, {24, 8, 6, -1}, {24, 25, -1, 0}})
    refused(errc::invalid_config, change(policy, [&](auto& p) { p.config = config; }), cache, list, window, state,
            output, work.view());

  auto const cache_case = [&](errc expected, auto const& edit) {
    refused(expected, policy, change(cache, edit), list, window, state, output, work.view());
  };
  cache_case(errc::null_pointer, [](auto& c) {
    c.key_data = nullptr;
    c.key_layers = nullptr;
  });
  cache_case(errc::null_pointer, [](auto& c) {
    c.value_data = nullptr;
    c.value_layers = nullptr;
  });
  cache_case(errc::null_pointer, [](auto& c) { c.row_lengths = nullptr; });
  cache_case(errc::misaligned, [&](auto& c) { c.row_lengths = shifted(c.row_lengths); });
  for (int field = 0; field < 7; ++field)
    for (int const bad : {0, -1}) {
      CAPTURE(field);
      cache_case(errc::invalid_shape, [&](auto& c) {
        int* const fields[] = {&c.extents.num_layers, &c.extents.num_sequences, &c.extents.num_kv_heads,
                               &c.extents.group,      &c.extents.key_head_dim,  &c.extents.value_head_dim,
                               &c.extents.capacity};
        *fields[field] = bad;
      });
    }
  cache_case(errc::invalid_shape, [](auto& c) { c.extents.first_kv_head = -1; });
  cache_case(errc::invalid_shape, [](auto& c) { c.extents.first_kv_head = 1; });
  cache_case(errc::invalid_shape, [](auto& c) { c.key_layout.token = c.extents.key_head_dim - 1; });

  auto const list_case = [&](errc expected, auto const& edit) {
    refused(expected, policy, cache, change(list, edit), window, state, output, work.view());
  };
  list_case(errc::invalid_shape, [](auto& l) { l.max_count = -1; });
  list_case(errc::invalid_shape, [](auto& l) { l.max_length = -1; });
  list_case(errc::misaligned, [&](auto& l) { l.slots = shifted(l.slots); });
  list_case(errc::workspace_too_small, [](auto& l) { l.max_length += 1000; });

  auto const window_case = [&](errc expected, auto const& edit) {
    refused(expected, policy, cache, list, change(window, edit), state, output, work.view());
  };
  window_case(errc::null_pointer, [](auto& w) { w.queries = nullptr; });
  window_case(errc::misaligned, [&](auto& w) { w.queries = shifted(w.queries); });
  window_case(errc::misaligned, [&](auto& w) { w.lse = shifted(before.window.lse.data()); });
  window_case(errc::invalid_shape, [](auto& w) { w.max_queries = -1; });
  window_case(errc::unsupported, [](auto& w) { w.continues = true; });  // there is nothing that it could continue
  window_case(errc::invalid_shape, [](auto& w) { w.soft_cap = -1.0f; });
  refused(errc::null_pointer, policy, cache, list, fkv::observed<filling_bench::window_list>{}, state, output,
          work.view());

  auto const state_case = [&](errc expected, auto const& edit) {
    refused(expected, policy, cache, list, window, change(state, edit), output, work.view());
  };
  state_case(errc::null_pointer, [](auto& s) { s = {}; });
  state_case(errc::null_pointer, [](auto& s) { s.position = nullptr; });
  state_case(errc::null_pointer, [](auto& s) { s.carried = nullptr; });
  state_case(errc::null_pointer, [](auto& s) { s.request_id = nullptr; });
  state_case(errc::invalid_shape, [](auto& s) { s.num_layers += 1; });
  state_case(errc::invalid_shape, [](auto& s) { s.num_carried += 1; });
  state_case(errc::invalid_shape, [](auto& s) { s.capacity = small.budget - 1; });
  state_case(errc::misaligned, [&](auto& s) { s.step = shifted(s.step); });

  auto const output_case = [&](errc expected, auto const& edit) {
    refused(expected, policy, cache, list, window, state, change(output, edit), work.view());
  };
  output_case(errc::null_pointer, [](auto& o) { o.new_lengths = nullptr; });
  output_case(errc::overlap, [&](auto& o) { o.new_lengths = made.cache.lengths.data(); });
  output_case(errc::misaligned, [&](auto& o) { o.new_lengths = shifted(o.new_lengths); });
  output_case(errc::invalid_shape, [](auto& o) { o.lists.capacity = -1; });
  output_case(errc::misaligned, [&](auto& o) { o.lists.kept = shifted(o.lists.kept); });
  refused(errc::workspace_too_small, policy, cache, list, window, state, output,
          {work.memory.data(), work.memory.size() - 1});
  refused(errc::null_pointer, policy, cache, list, window, state, output, {nullptr, work.memory.size()});
  CHECK(work.memory.intact());
}

TEST_CASE("evict: a workspace of any alignment does, and of any content") {
  auto made = three_sequences<filling_bench>(640);
  made.place(0, history::filled, 60);
  auto const before = made;
  REQUIRE(made.evict().ok());
  for (std::size_t const shift : {1u, 7u, 32u, 63u}) {
    CAPTURE(shift);
    auto again = before;
    std::size_t const bytes = fkv::evict_bytes(testing::exec, filling{}, again.shape, again.list(), 9);
    testing::owned_workspace work(bytes, shift);
    std::memset(work.memory.data(), shift % 2 == 1 ? 0xFF : 0x7F, bytes);  // NaN, or large numbers
    REQUIRE(fkv::evict(testing::exec,
                       fkv::batch{again.policy, again.cache.view(), again.list(), again.state.view, work.view()},
                       again.window.view(), {again.new_lengths.data()})
                .ok());
    CHECK(work.memory.intact());
    CHECK(again.cache.same_tokens(made.cache));
    CHECK(testing::same_state(again.state.view, made.state.view));
  }
}
