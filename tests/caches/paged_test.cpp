// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <type_traits>
#include <vector>

#include <foresightkv/foresightkv.hpp>

#include "support/paged_memory.hpp"
#include "support/policy_bench.hpp"
#include "support/random_judges.hpp"

namespace fkv = foresightkv;
using fkv::length_domain;
using testing::history;
using testing::paging;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 3,
                                 .num_kv_heads = 2,
                                 .group = 3,
                                 .key_head_dim = 24,
                                 .value_head_dim = 24,
                                 .capacity = 75};

template <class Scorer, class Compaction>
using policy_of = fkv::policy<fkv::eviction_config, Scorer, fkv::top_k, Compaction>;

/// Evicts from a dense cache and from one in pages, and counts what differs: tokens, wherever they stand, the memory
/// beside them, states, lists and lengths.
template <int PageSize, class Bench, class Element, length_domain Domain>
int differences_from_dense(Bench& dense, testing::paged_memory<Element, PageSize, Domain>& paged) {
  paged.load(dense.cache);
  auto expected = paged;
  auto state = dense.state;
  auto lists = dense.lists;
  auto new_lengths = dense.new_lengths;
  testing::owned_page_list freed(shape.num_sequences * paged.tables_per_sequence(), paged.row_pages);
  auto work = testing::workspace_for<typename Bench::policy_type>(shape, dense.list(), dense.window.max_queries);
  fkv::eviction_output const output{new_lengths.data(), lists.view(), false, freed.view()};
  REQUIRE(paged.view().check().ok());
  REQUIRE(fkv::evict(testing::exec, fkv::batch{dense.policy, paged.view(), dense.list(), state.view, work.view()},
                     dense.window.view(), output)
              .ok());
  REQUIRE(dense.evict().ok());
  CHECK(paged.intact());
  CHECK(freed.intact());
  int wrong = paged.differences(dense.cache);
  expected.load(dense.cache);  // the whole pool: pages of nobody too
  wrong += !paged.keys.same_bytes(expected.keys) || !paged.values.same_bytes(expected.values);
  wrong += !testing::same_state(state.view, dense.state.view) || !lists.same(dense.lists) ||
           !new_lengths.same_bytes(dense.new_lengths);
  // Pages: those beyond the longest of the rows of a table.
  auto const pages_of = [&](int tokens) { return (tokens + paged.page_size - 1) / paged.page_size; };
  std::vector<int> held(freed.counts.size(), 0), kept(held);
  dense.each_row([&](fkv::row_index at) {
    auto const table = static_cast<std::size_t>(paged.table_of(at));
    held[table] = std::max(held[table], pages_of(dense.length(at)));
    kept[table] = std::max(kept[table], pages_of(dense.new_length(at)));
  });
  for (std::size_t table = 0; table < held.size(); ++table) {
    std::vector<int> gone;
    for (int i = kept[table]; i < held[table]; ++i) {
      int const page = paged.pages[table * static_cast<std::size_t>(paged.row_pages) + static_cast<std::size_t>(i)];
      gone.push_back(paged.kind == paging::tensorrt_llm ? page * shape.num_layers * 2 : page);
    }
    wrong += freed.of(static_cast<int>(table)) != gone;
    for (std::size_t i = 0; i < gone.size(); ++i) {
      int const value_page = freed.value_pages[table * static_cast<std::size_t>(freed.capacity) + i];
      wrong += value_page != gone[i] + (paged.kind == paging::tensorrt_llm ? 1 : 0);
    }
  }
  return wrong;
}

template <class Policy, class Element, length_domain Domain, int PageSize = 0>
void check_against_dense(std::uint64_t seed, Policy const& policy, paging kind, int page_size) {
  CAPTURE(seed);
  CAPTURE(static_cast<int>(kind));
  CAPTURE(page_size);
  testing::policy_bench<Policy, Element, Domain> dense(seed, policy, shape, 5);
  bool const holes = !Policy::compaction_type::moves_tokens;
  dense.place(holes ? history::holes : seed % 2 == 0 ? history::ordered : history::pristine);
  dense.place(1, history::pristine, 70);
  testing::paged_memory<Element, PageSize, Domain> paged(dense.random, shape, page_size, kind);
  CHECK(differences_from_dense<PageSize>(dense, paged) == 0);
  for (int s = 0; s < shape.num_sequences; ++s) CHECK(dense.state.view.flags[s] == 0);
}

constexpr fkv::eviction_config config{.budget = 33, .interval = 8, .recent_tokens = 6, .sink_tokens = 2};

}  // namespace

TEST_CASE("paged_cache: every convention has each token where its drawing says") {
  testing::random_source random(3);
  for (paging const kind : testing::all_pagings) {
    CAPTURE(static_cast<int>(kind));
    for (int const tokens : {1, 7, 16}) {
      testing::paged_memory<float> memory(random, shape, tokens, kind);
      std::fill(memory.lengths.begin(), memory.lengths.end(), shape.capacity);
      memory.publish();
      auto const cache = memory.view();
      REQUIRE(cache.check().ok());
      int wrong = 0;
      memory.each_slot([&](fkv::row_index at, int slot) {
        wrong += cache.key(at, slot) != memory.token(at, slot, false);
        wrong += cache.value(at, slot) != memory.token(at, slot, true);
        wrong += cache.part(at, 0)(slot) != reinterpret_cast<std::byte*>(memory.token(at, slot, false));
        wrong += cache.part(at, 1)(slot) != reinterpret_cast<std::byte*>(memory.token(at, slot, true));
      });
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("paged_cache: the bits of a dense cache, whatever the convention, the page size and the compaction") {
  std::uint64_t seed = 0;
  for (paging const kind : testing::all_pagings) {
    bool const per_sequence = kind == paging::flashinfer_nhd || kind == paging::flashinfer_hnd;
    for (int const tokens : {1, 5, 16, 75, 256}) {
      ++seed;
      using mixed = testing::mixed_scorer;
      check_against_dense<policy_of<mixed, fkv::ordered>, float, length_domain::sequence>(
          seed, {config, {}, {}, {}, {}}, kind, tokens);
      if (!per_sequence)
        check_against_dense<policy_of<mixed, fkv::fill_holes>, fkv::half, length_domain::row>(
            seed, {config, {}, {}, {}, {}}, kind, tokens);
    }
    check_against_dense<policy_of<testing::mixed_scorer, fkv::slot_list>, float, length_domain::sequence>(
        ++seed, {config, {}, {}, {}, {}}, kind, 16);
    check_against_dense<policy_of<testing::mixed_scorer, fkv::ordered>, float, length_domain::sequence, 16>(
        ++seed, {config, {}, {}, {}, {}}, kind, 16);
  }
}

TEST_CASE("paged_cache: the bits of a dense cache, whatever the scorer") {
  testing::random_source random(9);
  testing::random_judges const weights({shape.num_layers, shape.num_kv_heads, shape.group, 24, 24}, random);
  auto const check = [&]<class Scorer>(Scorer const& scorer) {
    std::uint64_t seed = 100;
    for (paging const kind : {paging::vllm, paging::tensorrt_llm, paging::head_tables})
      check_against_dense<policy_of<Scorer, fkv::ordered>, fkv::bfloat16, length_domain::sequence, 16>(
          ++seed, {config, scorer, {}, {}, {}}, kind, 16);
  };
  check(fkv::foresight<>{weights.view()});
  check(fkv::window_sum{});
  check(fkv::h2o_per_query{});
  check(fkv::tova{});
  check(fkv::snap_kv<4, 3>{});
  check(fkv::r_kv<4, 3>{});
  check(fkv::key_diff{});
  check(fkv::key_norm{});
  check(fkv::random{});
}

TEST_CASE("paged_cache: tables that are no tables flag their sequence, and nothing is written") {
  using policy_type = policy_of<testing::mixed_scorer, fkv::ordered>;
  using bench = testing::policy_bench<policy_type, float, length_domain::row>;
  auto const refused = [](paging kind, auto const& spoil) {
    CAPTURE(static_cast<int>(kind));
    bench dense(5, policy_type{config, {}, {}, {}, {}}, shape, 5);
    for (int s = 0; s < 3; ++s) dense.place(s, history::pristine, 70 - s);
    testing::paged_memory<float, 0, length_domain::row> paged(dense.random, shape, 16, kind);
    paged.load(dense.cache);
    spoil(paged);
    auto const keys = paged.keys, values = paged.values;
    auto work = testing::workspace_for<policy_type>(shape, dense.list(), 5);
    testing::owned_page_list freed(3 * paged.tables_per_sequence(), paged.row_pages);
    fkv::batch const rows{dense.policy, paged.view(), dense.list(), dense.state.view, work.view()};
    REQUIRE(fkv::evict(testing::exec, rows, dense.window.view(),
                       {.new_lengths = dense.new_lengths.data(), .freed = freed.view()})
                .ok());
    auto const bad = static_cast<std::uint32_t>(fkv::sequence_flag::bad_table);
    CHECK(dense.state.view.flags[0] == 0);
    CHECK(dense.state.view.flags[1] == bad);
    CHECK(dense.state.view.flags[2] == 0);
    dense.each_row([&](fkv::row_index at) { CHECK(dense.new_length(at) == (at.sequence == 1 ? -7 : 33)); });
    int const tables = paged.tables_per_sequence();
    for (int table = 0; table < 3 * tables; ++table)
      CHECK(freed.counts[static_cast<std::size_t>(table)] == (table / tables == 1 ? -7 : 2));
    int moved = 0;
    auto before = paged;
    before.keys = keys;
    before.values = values;
    paged.each_slot([&](fkv::row_index at, int slot) {
      if (at.sequence == 1)
        moved += *paged.token(at, slot, false) != *before.token(at, slot, false) ||
                 *paged.token(at, slot, true) != *before.token(at, slot, true);
    });
    CHECK(moved == 0);
    // Every verb that reads tokens says so; append does not read any.
    dense.state.view.flags[1] = 0;
    std::vector<std::int32_t> due(3), due_count(1), counts(3, 0);
    REQUIRE(fkv::collect_due(testing::exec, rows, due.data(), due_count.data()).ok());
    CHECK(due_count[0] == 2);
    CHECK(dense.state.view.flags[1] == bad);
    dense.state.view.flags[1] = 0;
    REQUIRE(fkv::append(testing::exec, rows, counts.data()).ok());
    CHECK(dense.state.view.flags[1] == 0);
    REQUIRE(fkv::score(testing::exec, rows, dense.window.view(), dense.scores.view()).ok());
    CHECK(dense.state.view.flags[1] == bad);
  };
  for (paging const kind : {paging::nhd, paging::vllm, paging::row_tables, paging::tensorrt_llm}) {
    fkv::row_index const last{kind == paging::row_tables ? 1 : 0, 1, kind == paging::row_tables ? 1 : 0};
    refused(kind, [&](auto& paged) { paged.entry(last, 4) = -1; });
    refused(kind, [&](auto& paged) { paged.entry(last, 0) = paged.view().key_layout.table.num_pages; });
    refused(kind, [&](auto& paged) { paged.entry(last, 4) = paged.entry(last, 2); });
  }
  // The values' table is one of its own.
  refused(paging::tensorrt_llm, [](auto& paged) { paged.entry({0, 1, 0}, paged.max_pages + 3) = -5; });
}

TEST_CASE("paged_cache: offsets of TensorRT-LLM that are no keys', or no values', blocks") {
  using policy_type = policy_of<testing::mixed_scorer, fkv::ordered>;
  for (int const which : {0, 1})
    for (int const wrong : {1, 2, 3, -4}) {  // beside a block of two layers: the other kind, or another layer's
      testing::policy_bench<policy_type> dense(15, policy_type{config, {}, {}, {}, {}}, shape, 5);
      for (int s = 0; s < 3; ++s) dense.place(s, history::pristine, 70);
      testing::paged_memory<float> paged(dense.random, shape, 16, paging::tensorrt_llm);
      paged.load(dense.cache);
      std::int32_t& entry = paged.entry({0, 1, 0}, which * paged.max_pages + 2);
      entry = wrong == -4 ? which - 4 : entry + wrong;
      auto const keys = paged.keys;
      auto work = testing::workspace_for<policy_type>(shape, dense.list(), 5);
      std::vector<std::int32_t> const only{1};
      fkv::batch const rows{dense.policy, paged.view(), {only.data(), nullptr, 1, 75}, dense.state.view, work.view()};
      REQUIRE(fkv::evict(testing::exec, rows, dense.window.view(), {dense.new_lengths.data()}).ok());
      CHECK(dense.state.view.flags[1] == static_cast<std::uint32_t>(fkv::sequence_flag::bad_table));
      CHECK(paged.keys.same_bytes(keys));
    }
}

TEST_CASE("paged_cache: last pages and starts that give no length") {
  using policy_type = policy_of<fkv::window_sum, fkv::ordered>;
  auto const flags = [](auto const& spoil) {
    testing::policy_bench<policy_type> dense(16, policy_type{config, {}, {}, {}, {}}, shape, 5);
    for (int s = 0; s < 3; ++s) dense.place(s, history::pristine, 64);
    testing::paged_memory<float> paged(dense.random, shape, 16, paging::flashinfer_hnd);
    paged.load(dense.cache);
    spoil(paged);
    auto work = testing::workspace_for<policy_type>(shape, dense.list(), 5);
    fkv::batch const rows{dense.policy, paged.view(), dense.list(), dense.state.view, work.view()};
    REQUIRE(fkv::evict(testing::exec, rows, dense.window.view(), {dense.new_lengths.data()}).ok());
    return dense.state.view.flags[2];
  };
  auto const bad = static_cast<std::uint32_t>(fkv::sequence_flag::bad_length);
  CHECK(flags([](auto&) {}) == 0);
  for (int const tokens : {0, -5, 17, 0x7fffffff, -0x7fffffff - 1})
    CHECK(flags([&](auto& paged) { paged.last_page_lengths[2] = tokens; }) == bad);
  for (int const start : {-1, -0x7fffffff - 1, 0x7fffffff})
    CHECK(flags([&](auto& paged) { paged.starts[2] = start; }) == bad);
  for (int const end : {0, -0x7fffffff - 1, 0x7fffffff})
    CHECK(flags([&](auto& paged) { paged.starts[3] = end; }) == bad);
  CHECK(flags([](auto& paged) { paged.starts[3] = paged.starts[2]; }) == 0);  // no pages: no tokens

  testing::random_source random(3);
  testing::paged_memory<float> paged(random, shape, 16, paging::flashinfer_nhd);
  policy_type const policy{config, {}, {}, {}, {}};
  testing::owned_state<policy_type> const state(shape, shape.capacity);
  fkv::sequence_list const list{nullptr, nullptr, 3, shape.capacity};
  auto work = testing::workspace_for<policy_type>(shape, list, 0);
  CHECK(fkv::evict(testing::exec, fkv::batch{policy, paged.view(), list, state.view, work.view()},
                   fkv::observation<float>{}, {paged.last_page_lengths.data()})
            .code == fkv::errc::overlap);
}

namespace {

/// Evicts one token, whatever is asked of it.
struct reluctant {
  static constexpr fkv::length_domain domain = fkv::length_domain::row;
  template <class Row>
  FORESIGHTKV_HOST_DEVICE void operator()(Row& row) const {
    row.evict_lowest(1);
  }
};

}  // namespace

TEST_CASE("paged_cache: a row that cannot be stored as it was chosen to be keeps its pages") {
  using policy_type = fkv::policy<fkv::eviction_config, fkv::key_norm, reluctant, fkv::ordered>;
  policy_type const policy{config, {}, {}, {}, {}};
  testing::random_source random(4);
  testing::paged_memory<float, 0, length_domain::row> paged(random, shape, 16, paging::row_tables);
  std::fill(paged.lengths.begin(), paged.lengths.end(), 70);
  testing::owned_state<policy_type> const state(shape, 40);
  fkv::sequence_list const list{nullptr, nullptr, 3, shape.capacity};
  auto work = testing::workspace_for<policy_type>(shape, list, 0);
  testing::guarded<std::int32_t> new_lengths(12, 7);
  testing::owned_page_list freed(12, paged.row_pages);
  REQUIRE(fkv::evict(testing::exec, fkv::batch{policy, paged.view(), list, state.view, work.view()},
                     fkv::observation<float>{}, {.new_lengths = new_lengths.data(), .freed = freed.view()})
              .ok());
  for (int s = 0; s < 3; ++s)
    CHECK(state.view.flags[s] == static_cast<std::uint32_t>(fkv::sequence_flag::state_overflow));
  for (int const length : new_lengths) CHECK(length == 70);
  for (int const count : freed.counts) CHECK(count == 0);
}

TEST_CASE("paged_cache: entries behind a row's last page are nobody's business") {
  using policy_type = policy_of<fkv::window_sum, fkv::ordered>;
  testing::policy_bench<policy_type> dense(6, policy_type{config, {}, {}, {}, {}}, shape, 5);
  for (int s = 0; s < 3; ++s) dense.place(s, history::pristine, 64);
  testing::paged_memory<float> paged(dense.random, shape, 16, paging::vllm);
  paged.load(dense.cache);
  for (int s = 0; s < 3; ++s) paged.entry({0, s, 0}, 4) = s == 0 ? -1 : paged.entry({0, s, 0}, 1);
  auto work = testing::workspace_for<policy_type>(shape, dense.list(), 5);
  fkv::batch const rows{dense.policy, paged.view(), dense.list(), dense.state.view, work.view()};
  REQUIRE(fkv::evict(testing::exec, rows, dense.window.view(), {dense.new_lengths.data()}).ok());
  for (int s = 0; s < 3; ++s) CHECK(dense.state.view.flags[s] == 0);
  for (int s = 0; s < 3; ++s) CHECK(dense.new_lengths[static_cast<std::size_t>(s)] == 33);
}

TEST_CASE("paged_cache: too few pages for a length, where tables are one behind the other") {
  using policy_type = policy_of<fkv::window_sum, fkv::ordered>;
  testing::policy_bench<policy_type> dense(7, policy_type{config, {}, {}, {}, {}}, shape, 5);
  for (int s = 0; s < 3; ++s) dense.place(s, history::pristine, 64);
  testing::paged_memory<float> paged(dense.random, shape, 16, paging::flashinfer_nhd);
  paged.load(dense.cache);
  auto cache = paged.view();
  cache.last_page_lengths = nullptr;
  cache.row_lengths = paged.lengths.data();
  paged.starts[2] = paged.starts[1] + 3;  // sequence 1 has three pages, sequence 2 five, one of them its neighbour's
  auto work = testing::workspace_for<policy_type>(shape, dense.list(), 5);
  fkv::batch const rows{dense.policy, cache, dense.list(), dense.state.view, work.view()};
  REQUIRE(fkv::evict(testing::exec, rows, dense.window.view(), {dense.new_lengths.data()}).ok());
  CHECK(dense.state.view.flags[0] == 0);
  CHECK(dense.state.view.flags[1] == static_cast<std::uint32_t>(fkv::sequence_flag::bad_table));
  CHECK(dense.new_lengths[1] == -7);
  // A length that is no length.
  paged.last_page_lengths[0] = -70;
  fkv::batch const again{dense.policy, paged.view(), dense.list(), dense.state.view, work.view()};
  REQUIRE(fkv::evict(testing::exec, again, dense.window.view(), {dense.new_lengths.data()}).ok());
  CHECK((dense.state.view.flags[0] & static_cast<std::uint32_t>(fkv::sequence_flag::bad_length)) != 0);
}

TEST_CASE("paged_cache: no token moves in a page that another sequence reads") {
  using testing::mixed_scorer;
  auto const flags = []<class Compaction>(Compaction, paging kind, auto const& share, bool dry_run) {
    using policy_type = policy_of<mixed_scorer, Compaction>;
    testing::policy_bench<policy_type> dense(
        8, policy_type{{.budget = 40, .interval = 8, .sink_tokens = 16}, {}, {}, {}, {}}, shape, 5);
    dense.place(0, history::pristine, 70);
    dense.place(1, history::pristine, 70);
    dense.place(2, history::pristine, 30);
    testing::paged_memory<float> paged(dense.random, shape, 16, kind);
    paged.load(dense.cache);
    paged.owners = testing::guarded<std::int32_t>(static_cast<std::size_t>(paged.view().key_layout.table.num_pages), 1);
    share(paged);
    auto const before = paged.keys;
    auto work = testing::workspace_for<policy_type>(shape, dense.list(), 5);
    fkv::batch const rows{dense.policy, paged.view(), dense.list(), dense.state.view, work.view()};
    REQUIRE(
        fkv::evict(testing::exec, rows, dense.window.view(), {dense.new_lengths.data(), dense.lists.view(), dry_run})
            .ok());
    for (int s = 0; s < 3; ++s)
      CHECK((dense.new_lengths[static_cast<std::size_t>(s)] == -7) == (dense.state.view.flags[s] != 0));
    if (dense.state.view.flags[0] != 0 && dense.state.view.flags[1] != 0) CHECK(paged.keys.same_bytes(before));
    return std::vector<std::uint32_t>(dense.state.view.flags, dense.state.view.flags + 3);
  };
  auto const shared = static_cast<std::uint32_t>(fkv::sequence_flag::shared_page);
  auto const share_page = [](int index) {
    return [=](auto& paged) {
      for (int s = 0; s < 3; ++s)
        if (index < 2 || s < 2) paged.owners[static_cast<std::size_t>(paged.entry({0, s, 0}, index))] = 2;
    };
  };
  using expected = std::vector<std::uint32_t>;
  for (paging const kind : {paging::vllm, paging::tensorrt_llm}) {
    CAPTURE(static_cast<int>(kind));
    // Page 1 is read by others; the third sequence is within its budget and stays anyway.
    CHECK(flags(fkv::ordered{}, kind, share_page(1), false) == expected{shared, shared, 0});
    CHECK(flags(fkv::fill_holes{}, kind, share_page(4), false) == expected{shared, shared, 0});
    CHECK(flags(fkv::ordered{}, kind, share_page(1), true) == expected{0, 0, 0});     // nothing is written
    CHECK(flags(fkv::slot_list{}, kind, share_page(1), false) == expected{0, 0, 0});  // no token moves
    CHECK(flags(fkv::ordered{}, kind, share_page(0), false) == expected{0, 0, 0});    // sinks stay where they are
  }
  CHECK(flags(
            fkv::ordered{}, paging::tensorrt_llm,
            [](auto& paged) {  // the values' page alone
              paged.owners[static_cast<std::size_t>(paged.entry({0, 1, 0}, paged.max_pages + 2))] = 2;
            },
            false) == expected{0, shared, 0});
}

TEST_CASE("paged_cache: compact alone refuses shared pages from the first evicted slot on") {
  using policy_type = policy_of<testing::mixed_scorer, fkv::ordered>;
  testing::policy_bench<policy_type> dense(9, policy_type{config, {}, {}, {}, {}}, shape, 5);
  for (int s = 0; s < 3; ++s) dense.place(s, history::pristine, 70);
  testing::paged_memory<float> paged(dense.random, shape, 16, paging::hnd);
  paged.load(dense.cache);
  paged.owners = testing::guarded<std::int32_t>(static_cast<std::size_t>(paged.num_pages), 1);
  // Every row loses slots 40 to 69.
  dense.each_row([&](fkv::row_index at) {
    int const row = shape.row(at);
    dense.lists.evicted_count[static_cast<std::size_t>(row)] = 30;
    for (int i = 0; i < 40; ++i) dense.lists.kept[static_cast<std::size_t>(row * shape.capacity + i)] = i;
    for (int i = 0; i < 30; ++i) dense.lists.evicted[static_cast<std::size_t>(row * shape.capacity + i)] = 40 + i;
  });
  paged.owners[static_cast<std::size_t>(paged.page({0, 0, 0}, 1))] = 7;  // slots 16 to 31
  paged.owners[static_cast<std::size_t>(paged.page({0, 1, 0}, 2))] = 2;  // slots 32 to 47
  auto work = testing::workspace_for<policy_type>(shape, dense.list(), 0);
  fkv::batch const rows{dense.policy, paged.view(), dense.list(), dense.state.view, work.view()};
  REQUIRE(fkv::compact(testing::exec, rows, dense.lists.view(), dense.new_lengths.data()).ok());
  CHECK(dense.state.view.flags[0] == 0);
  CHECK(dense.state.view.flags[1] == static_cast<std::uint32_t>(fkv::sequence_flag::shared_page));
  CHECK(dense.new_lengths[0] == 40);
  CHECK(dense.new_lengths[1] == -7);
}

TEST_CASE("paged_cache: scales per token move with their token, in every order of the pool") {
  using storage = fkv::scaled_by_token<fkv::float8_e4m3>;
  using cache_type = fkv::paged_cache<storage, 8>;
  using policy_type = policy_of<fkv::key_norm, fkv::ordered>;
  testing::random_source random(4);
  testing::paged_memory<fkv::float8_e4m3, 8> memory(random, shape, 8, paging::nhd);
  std::fill(memory.lengths.begin(), memory.lengths.end(), 70);
  memory.publish();
  testing::guarded<float> key_scales(static_cast<std::size_t>(2 * memory.num_pages * 8 * 2)), value_scales = key_scales;
  for (float& scale : key_scales) scale = static_cast<float>(random.uniform(0.5, 2.0));
  for (float& scale : value_scales) scale = static_cast<float>(random.uniform(0.5, 2.0));
  auto const cache =
      cache_type::nhd(memory.keys.data(), memory.values.data(), {memory.num_pages},
                      fkv::page_table::per_sequence(memory.tables.data(), memory.max_pages, memory.num_pages),
                      memory.lengths.data(), shape)
          .with_scales(key_scales.data(), value_scales.data());
  REQUIRE(cache.check().ok());
  CHECK(cache.keys({1, 2, 1}).scale(13) ==
        key_scales[static_cast<std::size_t>(((memory.num_pages + memory.page({1, 2, 1}, 1)) * 8 + 5) * 2 + 1)]);
  std::vector<std::vector<std::byte>> before;
  auto const bytes_of = [&](fkv::row_index at, int slot) {
    std::vector<std::byte> bytes;
    for (int part = 0; part < cache.num_parts(); ++part) {
      auto const* const first = cache.part(at, part)(slot);
      bytes.insert(bytes.end(), first, first + cache.part_bytes(part));
    }
    return bytes;
  };
  memory.each_slot([&](fkv::row_index at, int slot) { before.push_back(bytes_of(at, slot)); });
  testing::owned_state<policy_type> const state(shape, shape.capacity);
  fkv::sequence_list const list{nullptr, nullptr, 3, shape.capacity};
  auto work = testing::workspace_for<policy_type>(shape, list, 0);
  std::vector<std::int32_t> new_lengths(3);
  REQUIRE(fkv::evict(testing::exec,
                     fkv::batch{policy_type{config, {}, {}, {}, {}}, cache, list, state.view, work.view()},
                     fkv::observation<float>{}, {new_lengths.data()})
              .ok());
  int wrong = 0, moved = 0;
  memory.each_slot([&](fkv::row_index at, int slot) {
    if (slot >= 33) return;
    int const position = state.view.position[state.view.column(shape.row(at), slot)];
    moved += position != slot;
    wrong += bytes_of(at, slot) != before[static_cast<std::size_t>(shape.row(at) * shape.capacity + position)];
  });
  CHECK(wrong == 0);
  CHECK(moved > 0);
  CHECK(memory.intact());
}

TEST_CASE("paged_cache: latent rows, whose values are a part of their keys") {
  using cache_type = fkv::paged_cache<fkv::bfloat16, 16, fkv::within_keys<fkv::bfloat16>>;
  fkv::cache_shape latent = shape;
  latent.num_kv_heads = 1;
  latent.value_head_dim = 16;
  testing::random_source random(5);
  testing::paged_memory<fkv::bfloat16, 16> memory(random, latent, 16, paging::nhd);
  std::fill(memory.lengths.begin(), memory.lengths.end(), 70);
  auto const table = fkv::page_table::per_sequence(memory.tables.data(), memory.max_pages, memory.num_pages);
  auto const cache = cache_type::nhd(memory.keys.data(), memory.keys.data() + 4, {memory.num_pages}, table,
                                     memory.lengths.data(), latent);
  REQUIRE(cache.check().ok());
  CHECK(cache.num_parts() == 1);
  CHECK(cache.value({1, 2, 0}, 37) == memory.token({1, 2, 0}, 37, false) + 4);
  auto const outside = cache_type::nhd(memory.keys.data(), memory.keys.data() + 9, {memory.num_pages}, table,
                                       memory.lengths.data(), latent);
  CHECK(outside.check().code == fkv::errc::invalid_shape);
}

TEST_CASE("paged_cache: what the host can see is refused by name") {
  using fkv::argument, fkv::errc;
  testing::random_source random(6);
  auto const refused = [&](paging kind, errc code, argument where, auto const& spoil) {
    CAPTURE(static_cast<int>(kind));
    testing::paged_memory<float> memory(random, shape, 16, kind);
    auto cache = memory.view();
    REQUIRE(cache.check().ok());
    spoil(cache);
    CHECK(cache.check().code == code);
    CHECK(cache.check().where == where);
  };
  for (paging const kind : {paging::hnd, paging::vllm, paging::tensorrt_llm}) {
    refused(kind, errc::null_pointer, argument::tables, [](auto& c) { c.key_layout.table.pages = nullptr; });
    refused(kind, errc::null_pointer, argument::tables, [](auto& c) { c.value_layout.table.pages = nullptr; });
    refused(kind, errc::null_pointer, argument::lengths, [](auto& c) { c.row_lengths = nullptr; });
    refused(kind, errc::null_pointer, argument::keys, [](auto& c) { c.key_data = nullptr; });
    refused(kind, errc::invalid_shape, argument::tables, [](auto& c) { c.key_layout.table.num_pages = 0; });
    refused(kind, errc::invalid_shape, argument::tables, [](auto& c) { c.key_layout.table.max_pages = 4; });
    refused(kind, errc::invalid_shape, argument::tables, [](auto& c) { c.key_layout.table.sequence = 4; });
    refused(kind, errc::invalid_shape, argument::keys, [](auto& c) { c.key_layout.strides.token = 23; });
    refused(kind, errc::invalid_shape, argument::keys, [](auto& c) { c.key_layout.strides.page = -1; });
    refused(kind, errc::invalid_shape, argument::values, [](auto& c) { c.value_layout.strides.layer = 0; });
    refused(kind, errc::invalid_shape, argument::cache_shape, [](auto& c) { c.extents.capacity = 0; });
    refused(kind, errc::misaligned, argument::tables, [](auto& c) {
      c.owners = reinterpret_cast<std::int32_t const*>(reinterpret_cast<char const*>(c.key_layout.table.pages) + 1);
    });
  }
  refused(paging::flashinfer_nhd, errc::invalid_shape, argument::lengths,
          [](auto& c) { c.key_layout.table.starts = nullptr; });
  refused(paging::row_tables, errc::invalid_shape, argument::tables, [](auto& c) { c.key_layout.table.layer = 3; });

  refused(paging::hnd, errc::invalid_shape, argument::tables, [](auto& c) { c.key_layout.divide = {}; });
  // Layers with memory of their own need no first one, and a table is of its pool.
  testing::paged_memory<float> apart(random, shape, 16, paging::vllm_layers);
  auto const layered = apart.view();
  CHECK(fkv::paged_cache<float>::vllm(nullptr, {apart.num_pages, 16}, apart.tables.data(), apart.max_pages,
                                      apart.lengths.data(), shape)
            .with_layers(layered.key_layers, layered.value_layers)
            .check()
            .ok());
  CHECK(fkv::paged_cache<float>::hnd(apart.keys.data(), apart.keys.data(), {5, 16},
                                     fkv::page_table::per_sequence(apart.tables.data(), apart.max_pages, 7),
                                     apart.lengths.data(), shape)
            .check()
            .where == argument::tables);
  fkv::cache_shape uneven = shape;
  uneven.value_head_dim = 8;
  std::vector<float> pool(100000);
  std::vector<std::int32_t> const entries(100), lengths(3);
  fkv::page_pool const pages{.num_pages = 20, .page_size = 16};
  CHECK(fkv::paged_cache<float>::vllm(pool.data(), pages, entries.data(), 6, lengths.data(), uneven).check().where ==
        argument::values);
  CHECK(fkv::paged_cache<float>::vllm(pool.data(), {.num_pages = 20}, entries.data(), 6, lengths.data(), shape)
            .check()
            .where == argument::tables);
  CHECK(fkv::paged_cache<float, 8>::vllm(pool.data(), pages, entries.data(), 6, lengths.data(), shape).check().where ==
        argument::tables);
}
