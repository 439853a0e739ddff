// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <foresightkv/caches/dense.hpp>
#include <foresightkv/caches/paged.hpp>
#include <foresightkv/compactions/ordered.hpp>
#include <foresightkv/evictor.hpp>
#include <foresightkv/scorers/key_norm.hpp>
#include <foresightkv/scorers/window_sum.hpp>
#include <foresightkv/selectors/top_k.hpp>
#include <foresightkv/verbs/collect_due.hpp>
#include <vector>

#include "support/random.hpp"

namespace fkv = foresightkv;

namespace {

constexpr fkv::eviction_config config{.budget = 16, .interval = 4, .sink_tokens = 2};

/// Three sequences of different lengths, by row where a domain wants them so.
struct tokens {
  fkv::cache_shape shape{.num_layers = 2,
                         .num_sequences = 3,
                         .num_kv_heads = 2,
                         .group = 2,
                         .key_head_dim = 8,
                         .value_head_dim = 8,
                         .capacity = 40};
  std::vector<float> keys = std::vector<float>(2 * 3 * 2 * 40 * 8), values = keys,
                     queries = std::vector<float>(2 * 3 * 4 * 4 * 8);
  std::vector<std::int32_t> lengths;

  explicit tokens(std::vector<std::int32_t> given) : lengths(std::move(given)) {
    testing::random_source random(11);
    random.fill_normal<float>(keys);
    random.fill_normal<float>(values);
    random.fill_normal<float>(queries);
  }
  template <fkv::length_domain Domain = fkv::length_domain::sequence>
  [[nodiscard]] auto cache() {
    return fkv::dense_cache<float, float, Domain>::hnd(keys.data(), values.data(), lengths.data(), shape);
  }
  [[nodiscard]] auto window() const { return fkv::observation<float>::hnd(queries.data(), shape, 4); }
};

auto const policy = fkv::compose<config>(fkv::window_sum{}, fkv::top_k{}, fkv::ordered{});

}  // namespace

TEST_CASE("evictor: gives what the verb gives, and the lengths of sequences that were left alone") {
  tokens owned({20, 9, 33}), by_hand({20, 9, 33});
  fkv::evictor evictor{fkv::host, policy, owned.shape, 4};
  REQUIRE(evictor.evict(owned.cache(), owned.window()).ok());
  CHECK(std::vector<std::int32_t>(evictor.new_lengths(), evictor.new_lengths() + 3) ==
        std::vector<std::int32_t>{16, 9, 16});

  fkv::sequence_list const all{nullptr, nullptr, 3, 40};
  std::vector<std::byte> columns(fkv::state_bytes(policy, by_hand.shape, 20));
  std::vector<std::byte> scratch(fkv::evict_bytes(fkv::host, policy, by_hand.shape, all, 4));
  auto const state = fkv::make_state(policy, by_hand.shape, 20, columns);
  REQUIRE(fkv::reset(fkv::host, state, all).ok());
  std::vector<std::int32_t> new_lengths(3);
  REQUIRE(fkv::evict(fkv::host, fkv::batch{policy, by_hand.cache(), all, state, scratch}, by_hand.window(),
                     {new_lengths.data()})
              .ok());
  CHECK(owned.keys == by_hand.keys);
  CHECK(owned.values == by_hand.values);
  CHECK(new_lengths[0] == 16);
}

TEST_CASE("evictor: some sequences, as collect_due lists them") {
  tokens made({20, 19, 33});
  fkv::evictor evictor{fkv::host, policy, made.shape, 4};
  auto const cache = made.cache();
  std::vector<std::int32_t> due(3), count(1);
  REQUIRE(fkv::collect_due(fkv::host, evictor.rows(cache), due.data(), count.data()).ok());
  REQUIRE(evictor.evict(cache, made.window(), {.slots = due.data(), .count = count.data(), .max_count = 3}).ok());
  CHECK(std::vector<std::int32_t>(evictor.new_lengths(), evictor.new_lengths() + 3) ==
        std::vector<std::int32_t>{16, 19, 16});
  CHECK(evictor.state().step[evictor.state().row({0, 1, 0})] == 0);
}

TEST_CASE("evictor: lengths by row, step by step, and from the start again after a reset") {
  tokens made(std::vector<std::int32_t>(12, 30));
  made.lengths[5] = 7;
  fkv::evictor evictor{fkv::host, policy, made.shape, 4};
  for (int step = 0; step < 3; ++step) {
    REQUIRE(evictor.evict(made.cache<fkv::length_domain::row>(), made.window()).ok());
    for (int row = 0; row < 12; ++row) CHECK(evictor.new_lengths()[row] == (row == 5 ? 7 : 16));
    for (int row = 0; row < 12; ++row) made.lengths[static_cast<std::size_t>(row)] = row == 5 ? 7 : 20;
  }
  CHECK(evictor.state().step[0] == 3);
  REQUIRE(evictor.reset().ok());
  CHECK(evictor.state().step[0] == 0);
}

TEST_CASE("evictor: what does not fit is an error, nothing written") {
  tokens made({20, 9, 33}), other({20, 9, 33});
  fkv::evictor evictor{fkv::host, policy, made.shape, 4};
  std::fill_n(evictor.new_lengths(), 3, -1);
  other.shape.num_kv_heads = 1;
  CHECK(evictor.evict(other.cache(), other.window()).code == fkv::errc::invalid_shape);
  other.shape = made.shape;
  other.shape.capacity = 0;
  CHECK(evictor.evict(other.cache(), other.window()).code == fkv::errc::invalid_shape);
  for (int fkv::cache_shape::*const extent : {&fkv::cache_shape::num_kv_heads, &fkv::cache_shape::capacity}) {
    auto negative = made.shape;
    negative.*extent = -1;
    fkv::evictor unmade{fkv::host, policy, negative, 4};
    CHECK_FALSE(unmade.evict(made.cache(), made.window()).ok());
  }
  CHECK(other.keys == made.keys);
  CHECK(evictor.new_lengths()[0] == -1);
}

TEST_CASE("evictor: into another cache, of all sequences and of some; who did not go has no length there") {
  tokens owned({20, 9, 33});
  auto const keys = owned.keys;
  std::vector<fkv::half> target_keys(2 * 3 * 2 * 24 * 8), target_values(target_keys);
  fkv::cache_shape shape = owned.shape;
  shape.capacity = 24;
  std::vector<std::int32_t> const rooms{16, 8, 24};
  auto const target = fkv::dense_cache<fkv::half>::hnd(target_keys.data(), target_values.data(), rooms.data(), shape);
  fkv::evictor evictor{fkv::host, policy, owned.shape, 4};
  REQUIRE(evictor.evict_into(target, owned.cache(), owned.window()).ok());
  CHECK(std::vector<std::int32_t>(evictor.new_lengths(), evictor.new_lengths() + 3) ==
        std::vector<std::int32_t>{16, 0, 16});
  CHECK(evictor.state().flags[1] == static_cast<std::uint32_t>(fkv::sequence_flag::bad_length));
  CHECK(owned.keys == keys);
  int wrong = 0;
  for (int slot = 0; slot < 16; ++slot) {
    fkv::row_state const& state = evictor.state();
    int const position = state.position[state.column(shape.row({1, 2, 1}), slot)];
    for (int d = 0; d < 8; ++d)
      wrong += target.key({1, 2, 1}, slot)[d].bits !=
               fkv::element_traits<fkv::half>::store(owned.cache().key({1, 2, 1}, position)[d]).bits;
  }
  CHECK(wrong == 0);
  REQUIRE(evictor.reset().ok());
  std::vector<std::int32_t> const first{0};
  REQUIRE(evictor.evict_into(target, owned.cache(), owned.window(), {.slots = first.data(), .max_count = 1}).ok());
  CHECK(std::vector<std::int32_t>(evictor.new_lengths(), evictor.new_lengths() + 3) ==
        std::vector<std::int32_t>{16, 0, 0});
}

TEST_CASE("evictor: pinned tokens stay until their bits are cleared") {
  std::vector<std::uint32_t> pins(3 * 2, 0);
  auto const stays = [&](int sequence, int wanted) {
    tokens made({40, 40, 40});
    fkv::evictor evictor{fkv::host, policy, made.shape, 4};
    evictor.pin(pins.data(), 2);
    REQUIRE(evictor.evict(made.cache(), made.window()).ok());
    CHECK(evictor.new_lengths()[sequence] == 16);
    int found = 0;
    fkv::row_state const& state = evictor.state();
    for (int layer = 0; layer < 2; ++layer)
      for (int head = 0; head < 2; ++head)
        for (int slot = 0; slot < 16; ++slot)
          found += state.position[state.column(state.row({layer, sequence, head}), slot)] == wanted;
    return found == 4;
  };
  int lost = 0;
  for (int position = 2; position < 36; ++position) lost += stays(1, position) ? 0 : 1;
  CHECK(lost >= 24);  // of 34 candidates at most ten can stay everywhere
  for (int position = 2; position < 36; ++position) {
    pins[static_cast<std::size_t>(2 + position / 32)] = 1u << position % 32;
    CHECK(stays(1, position));
    pins[static_cast<std::size_t>(2 + position / 32)] = 0;
  }
}

TEST_CASE("evictor: what evict can tell beside lengths, and a dry run") {
  tokens made({40, 9, 33});
  std::vector<std::int32_t> const table{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14};
  auto const cache =
      fkv::paged_cache<float>::hnd(made.keys.data(), made.values.data(), {15, 8},
                                   fkv::page_table::per_sequence(table.data(), 5, 15), made.lengths.data(), made.shape);
  fkv::evictor evictor{fkv::host, policy, made.shape, 4};
  std::vector<std::int32_t> pages(15, -1), counts(3, -1), evicted(12 * 40), evicted_count(12, -1);
  fkv::selection lists;
  lists.evicted = evicted.data();
  lists.evicted_count = evicted_count.data();
  lists.capacity = 40;
  auto const keys = made.keys;
  for (bool const dry_run : {true, false}) {
    std::fill(pages.begin(), pages.end(), -1);
    fkv::eviction_output const output{.lists = lists, .dry_run = dry_run, .freed = {pages.data(), counts.data(), 5}};
    REQUIRE(evictor.evict(cache, made.window(), evictor.all(), output).ok());
    CHECK(std::vector<std::int32_t>(evictor.new_lengths(), evictor.new_lengths() + 3) ==
          std::vector<std::int32_t>{16, 9, 16});
    CHECK(counts == std::vector<std::int32_t>{3, 0, 3});
    CHECK(std::vector<std::int32_t>(pages.begin(), pages.begin() + 3) == std::vector<std::int32_t>{2, 3, 4});
    CHECK(std::vector<std::int32_t>(pages.begin() + 10, pages.begin() + 13) == std::vector<std::int32_t>{12, 13, 14});
    CHECK(evicted_count[0] == 24);
    CHECK((made.keys == keys) == dry_run);
    CHECK(evictor.state().step[0] == (dry_run ? 0u : 1u));
  }
}

TEST_CASE("evictor: into pages, of which it says what the sequences left") {
  tokens made({40, 9, 33});
  std::vector<float> target_keys(15 * 8 * 2 * 2 * 8), target_values(target_keys);
  std::vector<std::int32_t> const table{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}, rooms{40, 40, 15};
  auto const target =
      fkv::paged_cache<float>::nhd(target_keys.data(), target_values.data(), {15, 8},
                                   fkv::page_table::per_sequence(table.data(), 5, 15), rooms.data(), made.shape);
  fkv::evictor evictor{fkv::host, policy, made.shape, 4};
  std::vector<std::int32_t> pages(15, -1), counts(3, -1);
  fkv::eviction_output const output{.freed = {pages.data(), counts.data(), 5}};
  REQUIRE(evictor.evict_into(target, made.cache(), made.window(), evictor.all(), output).ok());
  CHECK(counts == std::vector<std::int32_t>{3, 3, -1});  // the third has no room
  CHECK(std::vector<std::int32_t>(pages.begin() + 5, pages.begin() + 8) == std::vector<std::int32_t>{7, 8, 9});
  CHECK(evictor.new_lengths()[1] == 9);
  CHECK(evictor.new_lengths()[2] == 0);
}
