// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <vector>

#include <foresightkv/selectors/top_k.hpp>

#include "support/select_bench.hpp"

namespace fkv = foresightkv;
using testing::history;
using testing::hostile;
using testing::random_source;
using testing::small_shape;

namespace {

using top_bench = testing::select_bench<testing::select_policy<fkv::top_k>>;
using slot_bench = testing::select_bench<testing::select_policy<fkv::top_k, fkv::slot_list>>;

template <class Bench>
void check_hostile(hostile kind, history past, std::uint64_t seed) {
  random_source choice(seed);
  Bench made(seed, choice.chance(0.3) ? choice.integer(250, 600) : choice.integer(1, 80));
  made.place(past);
  made.fill(kind);
  auto& config = made.policy.config;
  config.recent_tokens = choice.chance(0.5) ? 0 : choice.integer(0, 9);
  config.sink_tokens = choice.chance(0.5) ? 0 : choice.integer(0, 5);
  config.budget = std::max(1, config.recent_tokens + config.sink_tokens);
  if (config.budget > made.shape.capacity) return;  // no state is that small
  for (int s = 0; s < made.shape.num_sequences; ++s) {
    int const length = made.length({0, s, 0});
    int const most = std::min(made.shape.capacity, std::max(config.budget, length) + 2);
    made.budgets[static_cast<std::size_t>(s)] = choice.integer(config.recent_tokens + config.sink_tokens, most);
  }
  REQUIRE(made.select().ok());
  CHECK(made.wrong_rows() == 0);
  for (int s = 0; s < made.shape.num_sequences; ++s) CHECK(made.state.view.flags[s] == 0);
}

}  // namespace

TEST_CASE("top_k: hostile scores, whatever happened to the row before") {
  std::uint64_t seed = 0;
  for (int kind = 0; kind < static_cast<int>(hostile::count); ++kind)
    for (history const past : {history::pristine, history::ordered, history::filled})
      for (int repeat = 0; repeat < 4; ++repeat) {
        CAPTURE(kind);
        CAPTURE(++seed);
        check_hostile<top_bench>(static_cast<hostile>(kind), past, seed);
        check_hostile<slot_bench>(static_cast<hostile>(kind), history::holes, seed);
      }
}

TEST_CASE("top_k: every length about the sizes that code is cut into, every count") {
  for (int const length :
       {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257}) {
    top_bench made(static_cast<std::uint64_t>(length), small_shape(3, std::max(length, 1)));
    made.place(0, history::pristine, length);
    made.fill(hostile::mixed);
    int const stride = length > 70 ? 13 : 1;
    for (int budget = 0; budget <= length; budget += stride) {
      CAPTURE(length);
      CAPTURE(budget);
      made.budgets[0] = budget;
      REQUIRE(made.select().ok());
      CHECK(made.wrong_rows() == 0);
      CHECK(made.lists.count(0) == length - budget);
    }
  }
}

TEST_CASE("top_k: what its lists promise") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    top_bench made(seed, 200);
    made.place(seed % 2 == 0 ? history::ordered : history::filled);
    made.fill(hostile::few_levels);
    made.policy.config = {.budget = 12, .interval = 4, .recent_tokens = 8, .sink_tokens = 4};
    for (auto& budget : made.budgets) budget = made.random.integer(12, 150);
    REQUIRE(made.select().ok());
    made.each_row([&](fkv::row_index at) {
      int const row = made.shape.row(at);
      int const budget = made.budgets[static_cast<std::size_t>(at.sequence)];
      auto const kept = made.kept(at);
      auto const evicted = made.lists.evicted_of(row);
      auto const& positions = made.positions[static_cast<std::size_t>(row)];
      CHECK(static_cast<int>(kept.size()) == std::min(budget, made.length(at)));
      CHECK((std::is_sorted(kept.begin(), kept.end()) && std::is_sorted(evicted.begin(), evicted.end())));
      std::set<int> together(kept.begin(), kept.end());
      together.insert(evicted.begin(), evicted.end());
      CHECK(together.size() == kept.size() + evicted.size());
      CHECK(together.size() == positions.size());
      int protected_lost = 0;
      int exchanged = 0;  // an evicted token above a kept candidate
      for (int const slot : evicted) {
        int const position = positions[static_cast<std::size_t>(slot)];
        protected_lost += position < 4 || position >= made.row_end[static_cast<std::size_t>(row)] - 8;
        for (int const other : kept) {
          bool const free = oracle::candidate(made.policy.config, positions[static_cast<std::size_t>(other)],
                                              made.row_end[static_cast<std::size_t>(row)]);
          float const a = made.scores.at(row, slot), b = made.scores.at(row, other);
          exchanged += free && (a > b || (a == b && slot > other));
        }
      }
      CHECK(protected_lost == 0);
      CHECK(exchanged == 0);
    });
  }
}

TEST_CASE("top_k: raising a kept token's score never evicts it, lowering an evicted one's never keeps it") {
  random_source random(5);
  for (int repeat = 0; repeat < 40; ++repeat) {
    top_bench made(random.bits(), small_shape(1, 50));
    made.place(0, history::pristine, 50);
    made.fill(hostile::few_levels);
    made.budgets[0] = random.integer(1, 49);
    REQUIRE(made.select().ok());
    auto const kept = made.kept({});
    auto const evicted = made.lists.evicted_of(0);
    int const raised = kept[static_cast<std::size_t>(random.integer(0, static_cast<int>(kept.size()) - 1))];
    int const lowered = evicted[static_cast<std::size_t>(random.integer(0, static_cast<int>(evicted.size()) - 1))];
    auto const before = made.scores;
    made.scores.at(0, raised) += 0.5f;
    REQUIRE(made.select().ok());
    auto const then = made.kept({});
    CHECK(std::binary_search(then.begin(), then.end(), raised));
    made.scores = before;
    made.scores.at(0, lowered) -= 0.5f;
    REQUIRE(made.select().ok());
    auto const gone = made.lists.evicted_of(0);
    CHECK(std::binary_search(gone.begin(), gone.end(), lowered));
  }
}

TEST_CASE("top_k: permuting heads permutes the lists") {
  top_bench made(6, small_shape(5, 90));
  made.place(0, history::pristine, 90);
  made.fill(hostile::mixed);
  made.budgets[0] = 40;
  REQUIRE(made.select().ok());
  auto const before = made.lists;
  auto const scores = made.scores;
  int const order[] = {3, 0, 4, 1, 2};
  for (int row = 0; row < 5; ++row)
    for (int slot = 0; slot < 90; ++slot) made.scores.at(row, slot) = scores.at(order[row], slot);
  REQUIRE(made.select().ok());
  for (int row = 0; row < 5; ++row) CHECK(made.lists.evicted_of(row) == before.evicted_of(order[row]));
}
