// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <foresightkv/selectors/sampled_top_k.hpp>

#include "support/select_bench.hpp"

namespace fkv = foresightkv;
using testing::history;
using testing::hostile;
using testing::small_shape;

namespace {

using draw_bench = testing::select_bench<testing::select_policy<fkv::sampled_top_k>>;

}  // namespace

TEST_CASE("sampled_top_k: as many as top_k, from the 2k lowest candidates, NaN first") {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    CAPTURE(seed);
    draw_bench made(seed, 120);
    made.place(static_cast<history>(seed % 3));
    made.fill(static_cast<hostile>(seed % static_cast<std::uint64_t>(hostile::count)));
    made.policy.config = {.budget = 6, .interval = 2, .recent_tokens = 4, .sink_tokens = 2};
    for (auto& budget : made.budgets) budget = made.random.integer(6, 110);
    REQUIRE(made.select().ok());
    made.each_row([&](fkv::row_index at) {
      int const row = made.shape.row(at);
      auto const& positions = made.positions[static_cast<std::size_t>(row)];
      auto const top = made.expected(at);
      auto const drawn = made.lists.evicted_of(row);
      REQUIRE(drawn.size() == top.evicted.size());
      std::vector<bool> free;
      for (int const position : positions)
        free.push_back(oracle::candidate(made.policy.config, position, made.row_end[static_cast<std::size_t>(row)]));
      auto const scores = made.scores_of(row, made.length(at));
      auto const pool = oracle::lowest(scores, free, 2 * static_cast<int>(drawn.size()));
      CHECK(std::includes(pool.begin(), pool.end(), drawn.begin(), drawn.end()));
      // NaN is below everything, so it goes before any number.
      std::size_t nan_pool = 0, nan_drawn = 0;
      for (int const slot : pool) nan_pool += oracle::rank(scores[static_cast<std::size_t>(slot)]) == INT64_MIN;
      for (int const slot : drawn) nan_drawn += oracle::rank(scores[static_cast<std::size_t>(slot)]) == INT64_MIN;
      CHECK(nan_drawn == std::min(nan_pool, drawn.size()));
    });
  }
}

namespace {

/// Positions that go, in order.
std::vector<int> gone(draw_bench const& made, int row) {
  auto positions = made.lists.positions_of(row);
  std::sort(positions.begin(), positions.end());
  return positions;
}

draw_bench draw_rows(int rows, int tokens) {
  draw_bench made(8, small_shape(rows, tokens));
  made.place(0, history::ordered, tokens);
  made.budgets[0] = tokens / 2;
  made.each_row([&](fkv::row_index at) {
    int const row = made.shape.row(at);
    made.state.view.seen_length[row] = tokens;
    made.state.view.next_position[row] = tokens;
    made.state.view.step[row] = 3;
    made.row_end[static_cast<std::size_t>(row)] = tokens;
    for (int slot = 0; slot < tokens; ++slot) {
      made.state.view.position[made.state.view.column(row, slot)] = slot;
      made.positions[static_cast<std::size_t>(row)][static_cast<std::size_t>(slot)] = slot;
      made.scores.at(row, slot) = 0.05f * static_cast<float>(slot * 7 % 11);
    }
  });
  return made;
}

}  // namespace

TEST_CASE("sampled_top_k: draws belong to tokens, whatever their slots and whoever else is visited") {
  draw_bench made = draw_rows(4, 64);
  REQUIRE(made.select().ok());
  std::vector<std::vector<int>> before;
  for (int row = 0; row < 4; ++row) before.push_back(gone(made, row));

  // The same tokens in other slots. Pool and draws have no ties at their borders here: the pool is all
  // candidates.
  draw_bench moved = made;
  for (int row = 0; row < 4; ++row)
    for (int slot = 0; slot < 64; ++slot) {
      int const from = (slot * 29 + 7) % 64;
      moved.state.view.position[moved.state.view.column(row, slot)] = from;
      moved.scores.at(row, slot) = made.scores.at(row, from);
    }
  REQUIRE(moved.select().ok());
  for (int row = 0; row < 4; ++row) CHECK(gone(moved, row) == before[static_cast<std::size_t>(row)]);

  // The same request in another slot of another batch, on a rank that holds heads 1 and 2 only.
  fkv::cache_shape part = small_shape(2, 64);
  part.num_sequences = 3;
  part.first_kv_head = 1;
  part.total_kv_heads = 4;
  draw_bench other(9, part);
  for (int sequence : {2, 0, 1}) other.place(sequence, history::pristine, 64);
  other.slots = {2, 1};
  other.budgets = {64, 32, 10};
  other.state.view.request_id[1] = made.state.view.request_id[0];
  other.state.view.seed[1] = made.state.view.seed[0];
  for (int head = 0; head < 2; ++head) {
    int const row = part.row({0, 1, head});
    other.state.view.step[row] = 3;
    other.state.view.seen_length[row] = 64;
    other.state.view.next_position[row] = 64;
    for (int slot = 0; slot < 64; ++slot) {
      other.state.view.position[other.state.view.column(row, slot)] = slot;
      other.scores.at(row, slot) = made.scores.at(head + 1, slot);
    }
  }
  REQUIRE(other.select().ok());
  for (int head = 0; head < 2; ++head)
    CHECK(gone(other, part.row({0, 1, head})) == before[static_cast<std::size_t>(head + 1)]);
}

TEST_CASE("sampled_top_k: another step, seed, request, head or layer draws otherwise, the same again alike") {
  draw_bench const made = draw_rows(2, 64);
  auto const draw = [&](auto const& edit) {
    draw_bench changed = made;
    edit(changed);
    REQUIRE(changed.select().ok());
    return gone(changed, 0);
  };
  auto const before = draw([](auto&) {});
  CHECK(draw([](auto&) {}) == before);
  CHECK(draw([](auto& b) { b.state.view.step[0] = 4; }) != before);
  CHECK(draw([](auto& b) { b.state.view.seed[0] ^= 1; }) != before);
  CHECK(draw([](auto& b) { b.state.view.seed[0] ^= std::uint64_t{1} << 40; }) != before);
  CHECK(draw([](auto& b) { b.state.view.request_id[0] += 1; }) != before);
  draw_bench changed = made;
  REQUIRE(changed.select().ok());
  CHECK(gone(changed, 1) != before);
  std::vector<int> const model_layers{5};
  changed.shape.layers = model_layers.data();
  changed.cache.shape.layers = model_layers.data();
  REQUIRE(changed.select().ok());
  CHECK(gone(changed, 0) != before);
}

TEST_CASE("sampled_top_k: inclusion follows the softmax of the drop scores, pool cut to the candidates") {
  // Three of five candidates go, so the pool is all five: the exact probabilities come from drawing one after
  // another.
  float const scores[] = {-1.0f, 0.5f, -0.25f, 1.5f, 0.0f};
  double exact[5] = {};
  auto const weight = [&](int i) { return std::exp(-static_cast<double>(scores[i])); };
  double total = 0.0;
  for (int i = 0; i < 5; ++i) total += weight(i);
  for (int a = 0; a < 5; ++a)
    for (int b = 0; b < 5; ++b)
      for (int c = 0; c < 5; ++c) {
        if (a == b || b == c || a == c) continue;
        double const p =
            weight(a) / total * weight(b) / (total - weight(a)) * weight(c) / (total - weight(a) - weight(b));
        for (int const i : {a, b, c}) exact[i] += p;
      }
  constexpr int rows = 2000;
  constexpr int steps = 20;
  draw_bench made(10, small_shape(rows, 5));
  made.place(0, history::pristine, 5);
  made.budgets[0] = 2;
  for (int row = 0; row < rows; ++row)
    for (int slot = 0; slot < 5; ++slot) {
      made.scores.at(row, slot) = scores[slot];
      made.state.view.position[made.state.view.column(row, slot)] = slot;
    }
  long count[5] = {};
  for (int step = 1; step <= steps; ++step) {
    for (int row = 0; row < rows; ++row) {
      made.state.view.step[row] = static_cast<std::uint32_t>(step);
      made.state.view.seen_length[row] = 5;
      made.state.view.next_position[row] = 5;
    }
    REQUIRE(made.select().ok());
    for (int row = 0; row < rows; ++row)
      for (int const slot : made.lists.evicted_of(row)) ++count[slot];
  }
  constexpr double draws = rows * steps;
  for (int i = 0; i < 5; ++i) {
    double const deviation = std::sqrt(exact[i] * (1.0 - exact[i]) / draws);
    CHECK(std::fabs(static_cast<double>(count[i]) / draws - exact[i]) <= 5.0 * deviation);
  }
}
