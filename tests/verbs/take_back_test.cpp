// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include <foresightkv/verbs/take_back.hpp>

#include "support/paged_memory.hpp"
#include "support/sample_scorers.hpp"
#include "support/state_fixture.hpp"
#include "support/token_bench.hpp"

namespace fkv = foresightkv;
using fkv::length_domain;
using fkv::sequence_flag;
using testing::carried_policy;
using testing::guarded;
using testing::history;
using testing::paging;
using testing::state_fixture;

namespace {

/// Of a budget that any state's columns hold.
template <class Policy>
Policy small_policy() {
  Policy policy;
  policy.config = {.budget = 4, .interval = 2};
  return policy;
}

std::uint32_t bits(sequence_flag flag) { return static_cast<std::uint32_t>(flag); }

/// All that belongs to a token, wherever it stands.
struct token {
  int position = -1;
  std::vector<std::byte> bytes;  // key, value, scales, column
  std::vector<float> carried;
  bool operator==(token const&) const = default;
};
using row_tokens = std::vector<token>;

template <class Cache>
row_tokens tokens_of(Cache const& cache, fkv::row_state const& state, fkv::row_index at, int length) {
  int const row = state.row(at), seen = state.seen_length[row];
  row_tokens made(static_cast<std::size_t>(length));
  for (int slot = 0; slot < length; ++slot) {
    token& here = made[static_cast<std::size_t>(slot)];
    here.position = state.step[row] == 0 ? slot
                    : slot < seen        ? state.position[state.column(row, slot)]
                                         : state.next_position[row] + slot - seen;
    if (here.position < 0) continue;
    for (int part = 0; part < fkv::detail::num_parts(cache); ++part) {
      std::byte const* const first = fkv::detail::part_place(cache, at, part)(slot);
      here.bytes.insert(here.bytes.end(), first, first + fkv::detail::part_bytes(cache, part));
    }
    here.carried.resize(static_cast<std::size_t>(state.num_carried * state.group));
    if (slot < std::min(seen, state.capacity))
      std::copy_n(state.carried_at(row, slot), here.carried.size(), here.carried.begin());
  }
  return made;
}

int end_of(fkv::row_state const& state, int row, int length) {
  return state.step[row] == 0 ? length : state.next_position[row] + length - state.seen_length[row];
}

int num_tokens(row_tokens const& tokens) {
  return static_cast<int>(
      std::count_if(tokens.begin(), tokens.end(), [](auto const& one) { return one.position >= 0; }));
}

/// By the definition: which tokens stay, and where.
template <class Compaction>
row_tokens without_newest(row_tokens tokens, int limit, bool pristine) {
  auto const leaves = [&](token const& one) { return one.position >= limit; };
  if constexpr (std::is_same_v<Compaction, fkv::slot_list>)
    if (!pristine) return std::replace_if(tokens.begin(), tokens.end(), leaves, token{}), tokens;
  auto const gone = std::count_if(tokens.begin(), tokens.end(), leaves);
  if (std::is_same_v<Compaction, fkv::ordered> || pristine)
    return tokens.erase(std::remove_if(tokens.begin(), tokens.end(), leaves), tokens.end()), tokens;
  auto const length = tokens.size() - static_cast<std::size_t>(gone);
  auto filler = tokens.begin() + static_cast<std::ptrdiff_t>(length);
  for (std::size_t slot = 0; slot < length; ++slot) {
    if (!leaves(tokens[slot])) continue;
    while (leaves(*filler)) ++filler;
    tokens[slot] = *filler++;
  }
  return tokens.resize(length), tokens;
}

/// Takes back and compares with the definition; says of how many sequences tokens left.
template <class Policy, class Cache>
int check_call(Cache const& cache, testing::owned_state<Policy>& state, std::vector<std::int32_t> const& counts,
               fkv::sequence_list const& list) {
  using compaction = typename Policy::compaction_type;
  fkv::cache_shape const& shape = cache.shape();
  auto const each_row = [&](int sequence, auto const& body) {
    for (int layer = 0; layer < shape.num_layers; ++layer)
      for (int head = 0; head < shape.num_kv_heads; ++head) body(fkv::row_index{layer, sequence, head});
  };
  auto const old = state;
  std::vector<row_tokens> before(static_cast<std::size_t>(shape.num_rows())), right(before.size());
  for (int s = 0; s < shape.num_sequences; ++s)
    each_row(s, [&](fkv::row_index at) {
      int const row = shape.row(at), length = cache.length(at);
      auto const place = static_cast<std::size_t>(row);
      before[place] = tokens_of(cache, old.view, at, length);
      int const limit = end_of(old.view, row, length) - counts[static_cast<std::size_t>(s)];
      right[place] = without_newest<compaction>(before[place], limit, old.view.step[row] == 0);
    });
  guarded<std::int32_t> new_lengths(static_cast<std::size_t>(fkv::detail::num_lengths(Cache::domain, shape)), -7);
  auto work = testing::workspace_for<Policy>(shape, list, 0);
  fkv::batch const rows{small_policy<Policy>(), cache, list, state.view, work.view()};
  REQUIRE(fkv::take_back(testing::exec, rows, counts.data(), new_lengths.data()).ok());
  CHECK(work.memory.intact());
  CHECK(new_lengths.intact());
  CHECK(state.intact());

  int granted = 0;
  for (int s = 0; s < shape.num_sequences; ++s) {
    int const count = counts[static_cast<std::size_t>(s)];
    bool possible = true;
    std::vector<std::pair<int, int>> ends(new_lengths.size(), {-1, 0});  // length, tokens that left
    each_row(s, [&](fkv::row_index at) {
      int const row = shape.row(at);
      possible = possible && count >= 0 && count <= end_of(old.view, row, cache.length(at));
      auto const &all = before[static_cast<std::size_t>(row)], &left = right[static_cast<std::size_t>(row)];
      std::pair const mine(static_cast<int>(left.size()), num_tokens(all) - num_tokens(left));
      auto& shared = ends[static_cast<std::size_t>(fkv::detail::length_index(Cache::domain, shape, at))];
      possible = possible && (shared.first < 0 || shared == mine);
      shared = mine;
    });
    CHECK(state.view.flags[s] == (possible ? 0u : bits(sequence_flag::length_mismatch)));
    granted += possible && count > 0;
    each_row(s, [&](fkv::row_index at) {
      int const row = shape.row(at);
      auto const place = static_cast<std::size_t>(row);
      CAPTURE(row);
      CAPTURE(count);
      auto const& expected = possible ? right[place] : before[place];
      int const length = static_cast<int>(expected.size());
      CHECK(new_lengths[static_cast<std::size_t>(fkv::detail::length_index(Cache::domain, shape, at))] ==
            (possible ? length : -7));
      CHECK(tokens_of(cache, state.view, at, length) == expected);
      CHECK(state.view.step[row] == old.view.step[row]);
      int const end = end_of(old.view, row, cache.length(at)) - (possible ? count : 0);
      CHECK(end_of(state.view, row, length) == end);
      CHECK(state.view.seen_length[row] <= length);
      if (!possible || count == 0) CHECK(testing::same_columns(state.view, old.view, row, state.view.capacity));
    });
    CHECK(state.view.request_id[s] == old.view.request_id[s]);
    CHECK(state.view.seed[s] == old.view.seed[s]);
  }
  return granted;
}

/// Counts of all sizes: of drafts that no verb has seen, of some that are gone, of all, of more than there are.
template <class Bench>
std::vector<std::int32_t> some_counts(Bench& made) {
  std::vector<std::int32_t> counts;
  for (int s = 0; s < made.shape.num_sequences; ++s) {
    int const end = made.row_end[static_cast<std::size_t>(made.shape.row({0, s, 0}))];
    int const choices[] = {0,  made.random.integer(0, 5), made.random.integer(0, end), end, end + 1,
                           -1, made.random.integer(0, 12)};
    counts.push_back(choices[made.random.integer(0, 6)]);
  }
  return counts;
}

template <class Compaction, class Element, length_domain Domain>
int play_dense(history kind, int seeds) {
  int granted = 0;
  for (int seed = 1; seed <= seeds; ++seed) {
    CAPTURE(seed);
    testing::token_bench<carried_policy<Compaction>, Element, Domain> made(static_cast<std::uint64_t>(seed), 60);
    made.place(kind);
    granted += check_call(made.cache.view(), made.state, some_counts(made), made.list());
    CHECK(made.cache.intact());
  }
  return granted;
}

constexpr fkv::cache_shape small_shape{.num_layers = 2,
                                       .num_sequences = 3,
                                       .num_kv_heads = 2,
                                       .group = 2,
                                       .key_head_dim = 4,
                                       .value_head_dim = 4,
                                       .capacity = 24};

/// Rows after evictions by fill_holes, whose newest tokens stand in holes, on a cache of small_shape.
template <class Policy = carried_policy<fkv::fill_holes>, length_domain Domain = length_domain::sequence>
struct small_bench {
  testing::random_source random{5};
  testing::owned_cache<float, Domain> cache{small_shape, 8};
  state_fixture<Policy> fixture{small_shape, 24};
  guarded<std::int32_t> new_lengths{cache.lengths.size(), -7};
  fkv::sequence_list list{nullptr, nullptr, 3, 24};

  small_bench() {
    cache.fill(random);
    for (int row = 0; row < small_shape.num_rows(); ++row) fixture.after_eviction(row, {0, 18, 2, 19, 9, 20, 4, 8}, 21);
  }
  template <class Cache>
  fkv::status take_back(Cache const& tokens, std::vector<std::int32_t> const& counts) {
    auto work = testing::workspace_for<Policy>(small_shape, list, 0);
    fkv::batch const rows{small_policy<Policy>(), tokens, list, fixture.state, work.view()};
    return fkv::take_back(testing::exec, rows, counts.data(), new_lengths.data());
  }
  fkv::status take_back(std::vector<std::int32_t> const& counts) { return take_back(cache.view(), counts); }
};

}  // namespace

TEST_CASE_TEMPLATE("take_back: newest tokens leave, and what stays stands where the compaction has it", Compaction,
                   fkv::ordered, fkv::fill_holes, fkv::slot_list) {
  history const kind = std::is_same_v<Compaction, fkv::ordered>      ? history::ordered
                       : std::is_same_v<Compaction, fkv::fill_holes> ? history::filled
                                                                     : history::holes;
  int const seeds = testing::is_emulated ? 12 : 40;
  CHECK(play_dense<Compaction, float, length_domain::row>(kind, seeds) > seeds / 2);
  CHECK(play_dense<Compaction, fkv::bfloat16, length_domain::layer>(kind, seeds) > seeds / 3);
  CHECK(play_dense<Compaction, std::int8_t, length_domain::sequence>(kind, seeds) > seeds / 3);
  CHECK(play_dense<Compaction, float, length_domain::sequence>(history::pristine, seeds) > seeds / 2);
}

TEST_CASE("take_back: rows of more tokens than a block looks at once") {
  fkv::cache_shape const shape{.key_head_dim = 3, .value_head_dim = 2, .capacity = 5000};
  for (int const count : {40, 900, 7000}) {
    testing::token_bench<carried_policy<fkv::fill_holes>> made(8, shape);
    made.place(0, history::filled, 4987);
    CHECK(check_call(made.cache.view(), made.state, {count}, made.list()) == 1);
  }
}

TEST_CASE("take_back: tokens in pages, and the pages that become empty") {
  int moved = 0;
  for (paging const kind : testing::all_pagings) {
    CAPTURE(static_cast<int>(kind));
    auto const run = [&](auto domain, int page_size, std::vector<std::int32_t> const& counts) {
      using policy_type = carried_policy<fkv::fill_holes>;
      constexpr length_domain by = decltype(domain)::value;
      auto shape = small_shape;
      shape.capacity = 40;
      testing::token_bench<policy_type, float, by> made(3, shape);
      for (int s = 0; s < 3; ++s) made.place(s, history::filled, 33 + s);
      for (int row = 0; row < shape.num_rows(); ++row) {  // every row has its newest tokens, in other slots
        auto const seen = static_cast<std::size_t>(made.state.view.seen_length[row]);
        auto const order = made.random.integer(0, 5);
        for (std::size_t slot = 0; slot < seen; ++slot)
          made.state.view.position[made.state.view.column(row, static_cast<int>(slot))] =
              static_cast<int>((slot * 7 + static_cast<std::size_t>(order)) % seen);
        made.state.view.next_position[row] = static_cast<int>(seen);
      }
      testing::paged_memory<float, 0, by> memory(made.random, shape, page_size, kind);
      memory.load(made.cache);
      auto const cache = memory.view();
      std::vector<std::int32_t> const old(memory.lengths.begin(), memory.lengths.end());
      moved += check_call(cache, made.state, counts, made.list());
      CHECK(memory.intact());
      if (by != length_domain::sequence) return;
      guarded<std::int32_t> new_lengths(memory.lengths.size());
      for (std::size_t s = 0; s < 3; ++s) new_lengths[s] = old[s] - counts[s];
      testing::owned_page_list freed(3 * memory.tables_per_sequence(), memory.row_pages);
      REQUIRE(fkv::freed_pages(testing::exec, cache, made.list(), new_lengths.data(), freed.view()).ok());
      for (int table = 0; table < 3 * memory.tables_per_sequence(); ++table) {
        auto const s = static_cast<std::size_t>(table / memory.tables_per_sequence());
        auto const pages = [&](int length) { return (length + page_size - 1) / page_size; };
        CHECK(freed.of(table).size() == static_cast<std::size_t>(pages(old[s]) - pages(new_lengths[s])));
      }
    };
    run(std::integral_constant<length_domain, length_domain::sequence>{}, 8, {9, 20, 0});
    bool const ragged = kind == paging::flashinfer_nhd || kind == paging::flashinfer_hnd;
    if (!ragged) run(std::integral_constant<length_domain, length_domain::row>{}, 5, {12, 3, 25});
  }
  CHECK(moved > 20);
}

TEST_CASE("take_back: scales of tokens and columns of the engine's own move with their tokens") {
  using cache_type = fkv::dense_cache<fkv::scaled_by_token<std::int8_t>>;
  using policy_type = carried_policy<fkv::fill_holes>;
  auto shape = small_shape;
  shape.key_head_dim = 20;
  testing::random_source random(4);
  auto const places = static_cast<std::size_t>(shape.num_rows() * shape.capacity);
  guarded<std::int8_t> keys(places * 20), values(places * 4);
  guarded<float> key_scales(places), value_scales(places), gates(places * 3);
  random.fill_normal<std::int8_t>(keys);
  random.fill_normal<std::int8_t>(values);
  for (guarded<float>* floats : {&key_scales, &value_scales, &gates})
    for (float& value : *floats) value = random.normal();
  guarded<std::int32_t> lengths(3, 9);
  auto const tokens = cache_type::hnd(keys.data(), values.data(), lengths.data(), shape)
                          .with_scales(key_scales.data(), value_scales.data());
  auto const cache = fkv::with_column(tokens, gates.data(), 3, fkv::cache_strides::hnd(shape, 3));
  testing::owned_state<policy_type> state(shape, 24);
  for (int row = 0; row < shape.num_rows(); ++row) {
    std::vector<int> const positions{14, 1, 17, 3, 16, 15, 6, 0};  // and 18, which no verb has seen
    std::copy(positions.begin(), positions.end(), state.view.position + state.view.column(row, 0));
    for (int i = 0; i < 8 * 4; ++i) state.view.carried_at(row, 0)[i] = random.normal();
    state.view.seen_length[row] = 8;
    state.view.next_position[row] = 18;
    state.view.step[row] = 3;
  }
  CHECK(check_call(cache, state, {4, 1, 19}, {nullptr, nullptr, 3, 24}) == 3);
  for (auto const* floats : {&key_scales, &value_scales, &gates}) CHECK(floats->intact());
  CHECK(keys.intact());
  CHECK(values.intact());
}

TEST_CASE("take_back: tokens behind pads") {
  using policy_type = carried_policy<fkv::fill_holes>;
  small_bench<policy_type> made;
  guarded<std::int32_t> const starts(std::vector<std::int32_t>{3, 0, 7});
  auto const cache = fkv::padded_cache<float>::hnd(made.cache.keys.data(), made.cache.values.data(), starts.data(),
                                                   made.cache.lengths.data(), small_shape);
  testing::owned_state<policy_type> state(small_shape, 24);
  for (int row = 0; row < small_shape.num_rows(); ++row) {
    std::vector<int> const positions{7, 1, 6, 3, 0, 5, 2, 4};
    std::copy(positions.begin(), positions.end(), state.view.position + state.view.column(row, 0));
    std::fill_n(state.view.carried_at(row, 0), 8 * 4, 0.5f);
    state.view.seen_length[row] = state.view.next_position[row] = 8;
    state.view.step[row] = 1;
  }
  CHECK(check_call(cache, state, {3, 2, 8}, made.list) == 3);
}

TEST_CASE("take_back: what an eviction moved leaves again, and the next tokens get the positions of the drafts") {
  using policy_type = fkv::policy<fkv::eviction_config, fkv::accumulated_sum, fkv::top_k, fkv::fill_holes>;
  policy_type const policy{{.budget = 12, .interval = 4, .recent_tokens = 4, .sink_tokens = 1}, {}, {}, {}, {}};
  auto shape = small_shape;
  testing::token_bench<policy_type> made(11, shape);
  for (int s = 0; s < 3; ++s) made.place(s, history::pristine, 20);
  guarded<std::uint32_t> const pins(3, 1u << 5 | 1u << 9);
  fkv::eviction_state<policy_type> const state = made.state.view.with_pinned(pins.data(), 1);
  testing::owned_window<float> window(shape, 6, false, made.random);
  guarded<std::int32_t> new_lengths(3, -7);
  auto work = testing::workspace_for<policy_type>(shape, made.list(), 6);
  fkv::batch const rows{policy, made.cache.view(), made.list(), state, work.view()};
  auto const take_over = [&] { std::copy(new_lengths.begin(), new_lengths.end(), made.cache.lengths.begin()); };
  REQUIRE(fkv::evict(testing::exec, rows, window.view(), {new_lengths.data()}).ok());  // 16 to 19 are drafts
  take_over();
  CHECK(std::vector<int>(new_lengths.begin(), new_lengths.end()) == std::vector<int>{12, 12, 12});
  std::vector<row_tokens> cut;
  bool at_end = true;
  made.each_row([&](fkv::row_index at) {
    cut.push_back(tokens_of(rows.cache, state, at, 12));
    for (int i = 0; i < 4; ++i) at_end = at_end && cut.back()[static_cast<std::size_t>(8 + i)].position == 16 + i;
  });
  CHECK_FALSE(at_end);
  std::vector<std::int32_t> const three{3, 3, 3};
  REQUIRE(fkv::take_back(testing::exec, rows, three.data(), new_lengths.data()).ok());
  take_over();
  CHECK(std::vector<int>(new_lengths.begin(), new_lengths.end()) == std::vector<int>{9, 9, 9});
  std::size_t index = 0;
  made.each_row([&](fkv::row_index at) {
    auto by_position = [](row_tokens tokens) {
      std::sort(tokens.begin(), tokens.end(), [](auto const& a, auto const& b) { return a.position < b.position; });
      return tokens;
    };
    auto expected = by_position(cut[index++]);
    expected.resize(9);
    CHECK(by_position(tokens_of(rows.cache, state, at, 9)) == expected);
    CHECK(expected.back().position == 16);
    CHECK(state.step[shape.row(at)] == 1);
  });

  // Eight new tokens, and another cut: sinks, pinned and recent ones stay, those of the drafts' positions among them.
  for (std::int32_t& length : made.cache.lengths) length = 17;
  REQUIRE(fkv::evict(testing::exec, rows, window.view(), {new_lengths.data()}).ok());
  made.each_row([&](fkv::row_index at) {
    int const row = shape.row(at);
    std::vector<int> positions;
    for (token const& one : tokens_of(rows.cache, state, at, 12)) positions.push_back(one.position);
    for (int const stays : {0, 5, 9, 21, 22, 23, 24}) CHECK(std::count(positions.begin(), positions.end(), stays) == 1);
    CHECK(state.next_position[row] == 25);
    CHECK(state.seen_length[row] == 12);
  });
  for (int s = 0; s < 3; ++s) CHECK(state.flags[s] == 0);
  CHECK(made.cache.intact());
  CHECK(made.state.intact());
}

TEST_CASE("take_back: drafts that are gone already, of rows that share a length or do not") {
  auto const without_18 = [](auto& made) {
    made.fixture.after_eviction(small_shape.row({1, 1, 0}), {0, 17, 2, 19, 9, 20, 4, 8}, 21);
  };
  small_bench<carried_policy<fkv::fill_holes>, length_domain::row> alone;
  without_18(alone);
  REQUIRE(alone.take_back({0, 3, 0}).ok());
  for (int row = 0; row < small_shape.num_rows(); ++row) {
    bool const visited = row / 2 % 3 == 1;
    int const left = row == small_shape.row({1, 1, 0}) ? 6 : 5;
    CHECK(alone.new_lengths[static_cast<std::size_t>(row)] == (visited ? left : 8));
  }
  CHECK(alone.fixture.positions(small_shape.row({1, 1, 0})) == std::vector<int>{0, 17, 2, 4, 9, 8});
  CHECK(alone.fixture.positions(small_shape.row({1, 1, 1})) == std::vector<int>{0, 4, 2, 8, 9});

  small_bench<> together;
  without_18(together);
  auto const before = together.fixture.snapshot();
  auto const tokens = together.cache;
  REQUIRE(together.take_back({0, 3, 0}).ok());
  CHECK(together.fixture.state.flags[1] == bits(sequence_flag::length_mismatch));
  CHECK(std::vector<int>(together.new_lengths.begin(), together.new_lengths.end()) == std::vector<int>{8, -7, 8});
  CHECK(together.cache.same_tokens(tokens));
  together.fixture.state.flags[1] = 0;
  CHECK(together.fixture.snapshot() == before);
  REQUIRE(together.take_back({0, 2, 0}).ok());  // those two are everywhere
  CHECK(together.fixture.state.flags[1] == 0);
  CHECK(together.new_lengths[1] == 6);
}

TEST_CASE("take_back: a row without such tokens keeps every byte, and its next token comes earlier") {
  small_bench<> made;
  for (int row = 0; row < small_shape.num_rows(); ++row) made.fixture.after_eviction(row, {0, 5, 2, 6, 9, 1, 4, 8}, 21);
  auto expected = made.fixture.snapshot();
  auto const tokens = made.cache;
  for (int row = 0; row < small_shape.num_rows(); ++row) CHECK(made.fixture.state.next_position[row] == 21);
  REQUIRE(made.take_back({11, 0, 11}).ok());
  CHECK(made.cache.same_tokens(tokens));
  for (int row = 0; row < small_shape.num_rows(); ++row) {
    CHECK(made.fixture.state.next_position[row] == (row / 2 % 3 == 1 ? 21 : 10));
    made.fixture.state.next_position[row] = 21;
  }
  CHECK(made.fixture.snapshot() == expected);
  CHECK(std::vector<int>(made.new_lengths.begin(), made.new_lengths.end()) == std::vector<int>{8, 8, 8});
}

TEST_CASE("take_back: counts that cannot be flag their sequence, and it alone") {
  for (int const count : {-1, std::numeric_limits<int>::min(), 22, std::numeric_limits<int>::max()}) {
    CAPTURE(count);
    small_bench<> made;
    auto const before = made.fixture.snapshot();
    REQUIRE(made.take_back({count, 0, count}).ok());
    for (int s : {0, 2}) {
      CHECK(made.fixture.state.flags[s] == bits(sequence_flag::length_mismatch));
      made.fixture.state.flags[s] = 0;
    }
    CHECK(made.fixture.snapshot() == before);
    CHECK(std::vector<int>(made.new_lengths.begin(), made.new_lengths.end()) == std::vector<int>{-7, 8, -7});
  }
  small_bench<> all;
  REQUIRE(all.take_back({21, 0, 0}).ok());
  CHECK(all.new_lengths[0] == 0);
  CHECK(all.fixture.state.flags[0] == 0);
}

TEST_CASE("take_back: under slot_list rows that share a length stay as empty as each other") {
  small_bench<carried_policy<fkv::slot_list>> made;
  made.fixture.after_eviction(small_shape.row({1, 1, 0}), {0, 17, 2, 19, 9, 20, 4, 8}, 21);
  REQUIRE(made.take_back({3, 3, 2}).ok());
  CHECK(made.fixture.state.flags[1] == bits(sequence_flag::length_mismatch));
  CHECK((made.fixture.state.flags[0] == 0 && made.fixture.state.flags[2] == 0));
  CHECK(made.fixture.positions(0) == std::vector<int>{0, -1, 2, -1, 9, -1, 4, 8});
  CHECK(made.fixture.positions(small_shape.row({1, 1, 1})) == std::vector<int>{0, 18, 2, 19, 9, 20, 4, 8});
  CHECK(made.fixture.positions(small_shape.row({0, 2, 1})) == std::vector<int>{0, 18, 2, -1, 9, -1, 4, 8});
}

TEST_CASE("take_back: under slot_list what the columns cannot hold is refused, and rows of two kinds are") {
  using policy_type = carried_policy<fkv::slot_list>;
  small_bench<policy_type> made;
  state_fixture<policy_type> narrow(small_shape, 8);
  for (int row = 0; row < small_shape.num_rows(); ++row) narrow.after_eviction(row, {0, 18, -1, 19, 9, 20, 4, 8}, 21);
  made.cache.lengths[1] = 9;  // one more than the columns hold, of which none is taken back there
  made.cache.lengths[2] = 9;
  auto work = testing::workspace_for<policy_type>(small_shape, made.list, 0);
  std::vector<std::int32_t> const counts{2, 0, 1};
  fkv::batch const rows{small_policy<policy_type>(), made.cache.view(), made.list, narrow.state, work.view()};
  REQUIRE(fkv::take_back(testing::exec, rows, counts.data(), made.new_lengths.data()).ok());
  CHECK(narrow.positions(0) == std::vector<int>{0, 18, -1, -1, 9, -1, 4, 8});
  CHECK(narrow.state.carried_at(0, 5)[0] == 0.0f);
  CHECK(std::vector<int>(made.new_lengths.begin(), made.new_lengths.end()) == std::vector<int>{8, 9, -7});
  CHECK(narrow.state.flags[2] == bits(sequence_flag::state_overflow));
  CHECK((narrow.state.flags[0] == 0 && narrow.state.flags[1] == 0));

  made.fixture.state.step[small_shape.row({0, 1, 1})] = 0;  // such a row cannot have empty slots
  made.fixture.state.next_position[small_shape.row({0, 1, 1})] = 8;
  made.cache.lengths[1] = 8;
  REQUIRE(made.take_back({0, 2, 0}).ok());
  CHECK(made.fixture.state.flags[1] == bits(sequence_flag::length_mismatch));
}

TEST_CASE("take_back: pages that others read are not written") {
  auto const run = [](int shared_page, std::vector<int> const& positions) {
    small_bench<> made;
    for (int row = 0; row < small_shape.num_rows(); ++row) made.fixture.after_eviction(row, positions, 21);
    testing::paged_memory<float> memory(made.random, small_shape, 2, paging::nhd);
    memory.load(made.cache);
    memory.owners = guarded<std::int32_t>(static_cast<std::size_t>(memory.num_pages), 1);
    memory.owners[static_cast<std::size_t>(memory.entry({0, 1, 0}, shared_page))] = 2;
    auto const before = memory.keys;
    auto const columns = made.fixture.snapshot();
    REQUIRE(made.take_back(memory.view(), {0, 3, 0}).ok());
    bool const flagged = made.fixture.state.flags[1] == bits(sequence_flag::shared_page);
    CHECK(made.new_lengths[1] == (flagged ? -7 : 5));
    if (!flagged) {
      CHECK(made.fixture.state.flags[1] == 0);
      return false;
    }
    CHECK(memory.keys.same_bytes(before));
    made.fixture.state.flags[1] = 0;
    CHECK(made.fixture.snapshot() == columns);
    return true;
  };
  CHECK_FALSE(run(0, {0, 7, 18, 19, 9, 20, 4, 8}));  // before the first hole
  CHECK(run(1, {0, 7, 18, 19, 9, 20, 4, 8}));
  CHECK(run(2, {0, 7, 18, 19, 9, 20, 4, 8}));
  CHECK_FALSE(run(2, {0, 7, 3, 6, 9, 20, 18, 19}));  // at the end nothing moves
  CHECK_FALSE(run(3, {0, 7, 3, 6, 9, 20, 18, 19}));
}

TEST_CASE("take_back: lengths and tables that are none, lists of all kinds") {
  small_bench<> made;
  auto work = testing::workspace_for<carried_policy<fkv::fill_holes>>(small_shape, {nullptr, nullptr, 5, 20}, 0);
  std::vector<std::int32_t> const slots{2, -1, 3, 2, 0}, counts{1, 1, 1};
  made.cache.lengths[0] = 7;  // fewer than the state has seen
  fkv::batch const rows{small_policy<carried_policy<fkv::fill_holes>>(), made.cache.view(),
                        fkv::sequence_list{slots.data(), nullptr, 5, 20}, made.fixture.state, work.view()};
  REQUIRE(fkv::take_back(testing::exec, rows, counts.data(), made.new_lengths.data()).ok());
  CHECK(made.fixture.state.flags[0] == bits(sequence_flag::length_mismatch));
  CHECK(made.fixture.state.flags[1] == 0);
  CHECK(made.fixture.state.flags[2] == bits(sequence_flag::duplicate));
  CHECK(std::vector<int>(made.new_lengths.begin(), made.new_lengths.end()) == std::vector<int>{-7, -7, 7});

  small_bench<> broken;
  broken.cache.lengths[0] = 25;
  broken.cache.lengths[2] = -1;
  REQUIRE(broken.take_back({1, 1, 1}).ok());
  for (int s : {0, 2}) CHECK(broken.fixture.state.flags[s] == bits(sequence_flag::bad_length));
  CHECK(broken.new_lengths[1] == 7);

  small_bench<> paged;
  testing::paged_memory<float> memory(paged.random, small_shape, 2, paging::nhd);
  memory.load(paged.cache);
  memory.entry({0, 1, 0}, 3) = memory.entry({0, 1, 0}, 0);
  REQUIRE(paged.take_back(memory.view(), {1, 1, 1}).ok());
  CHECK(paged.fixture.state.flags[1] == bits(sequence_flag::bad_table));
  CHECK(std::vector<int>(paged.new_lengths.begin(), paged.new_lengths.end()) == std::vector<int>{7, -7, 7});
}

TEST_CASE("take_back: what the host can see is refused, nothing written") {
  using fkv::argument, fkv::errc;
  small_bench<> made;
  auto const before = made.fixture.snapshot();
  auto work = testing::workspace_for<carried_policy<fkv::fill_holes>>(small_shape, made.list, 0);
  std::vector<std::int32_t> const counts{1, 1, 1};
  auto const refused = [&](errc code, argument where, auto const& cache, auto const& state, fkv::workspace scratch,
                           std::int32_t const* given, std::int32_t* lengths) {
    fkv::batch const rows{small_policy<carried_policy<fkv::fill_holes>>(), cache, made.list, state, scratch};
    fkv::status const done = fkv::take_back(testing::exec, rows, given, lengths);
    CHECK(done.code == code);
    CHECK(done.where == where);
  };
  auto const cache = made.cache.view();
  auto const& state = made.fixture.state;
  auto* const lengths = made.new_lengths.data();
  refused(errc::null_pointer, argument::counts, cache, state, work.view(), nullptr, lengths);
  refused(errc::null_pointer, argument::new_lengths, cache, state, work.view(), counts.data(), nullptr);
  refused(errc::overlap, argument::new_lengths, cache, state, work.view(), counts.data(), made.cache.lengths.data());
  refused(errc::workspace_too_small, argument::workspace, cache, state, {work.memory.data(), work.memory.size() - 1},
          counts.data(), lengths);
  refused(errc::null_pointer, argument::state, cache, std::decay_t<decltype(state)>{}, work.view(), counts.data(),
          lengths);
  CHECK(made.fixture.snapshot() == before);
  CHECK(made.new_lengths[0] == -7);
}
