// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include <foresightkv/verbs/append.hpp>

#include "support/policy_bench.hpp"
#include "support/vector_file.hpp"

namespace testing {

/// A token of the oracle's cache: what was written for it, and what its columns should hold.
struct token {
  std::vector<float> key, value;
  oracle::numbers accumulated, decayed;
};

/// An engine and its oracle: tokens arrive, rows are cut, again and again.
template <class Policy>
class lifetime {
 public:
  using bench = policy_bench<Policy>;
  static constexpr bool moves = Policy::compaction_type::moves_tokens;

  lifetime(std::uint64_t seed, fkv::eviction_config const& config)
      : made(seed, {config, {}, {}, {}, {}}, config.budget + config.interval, config.interval) {
    rows.resize(static_cast<std::size_t>(made.shape.num_rows()));
  }

  /// `count` tokens join every sequence: where slots are empty, there first.
  void arrive(int count) {
    std::vector<std::int32_t> counts(static_cast<std::size_t>(made.shape.num_sequences), count);
    made.each_row([&](fkv::row_index at) {
      auto const index = static_cast<std::size_t>(made.shape.row(at));
      auto& positions = made.positions[index];
      for (int left = count; left > 0; --left) {
        auto const hole = std::find(positions.begin(), positions.end(), -1);
        auto const slot = static_cast<std::size_t>(hole - positions.begin());
        if (hole == positions.end()) {
          positions.push_back(-1);
          rows[index].emplace_back();
        }
        positions[slot] = made.row_end[index]++;
        rows[index][slot] = write(at, static_cast<int>(slot));
      }
      made.cache.length(at) = static_cast<int>(positions.size());
    });
    if (!moves)
      REQUIRE(fkv::append(testing::exec, fkv::batch{made.policy, made.cache.view(), made.list(), made.state.view},
                          counts.data())
                  .ok());
    made.random.template fill_normal<float>(made.window.queries, 1.5f);
  }

  /// One eviction, against what the oracle makes of the same step.
  void cut() {
    bench staged = made;
    staged.run_stages();
    made.scores = staged.scores;
    compare_scores();
    REQUIRE(made.evict().ok());
    int wrong = 0;
    made.each_row([&](fkv::row_index at) { wrong += move(at); });
    CHECK(wrong == 0);
    CHECK(carried_error.value() <= 1e-4);
  }

  bench made;

 private:
  token write(fkv::row_index at, int slot) {
    token fresh;
    for (int d = 0; d < made.shape.key_head_dim; ++d) fresh.key.push_back(made.random.normal());
    for (int d = 0; d < made.shape.value_head_dim; ++d) fresh.value.push_back(made.random.normal());
    std::copy(fresh.key.begin(), fresh.key.end(), made.cache.view().key(at, slot));
    std::copy(fresh.value.begin(), fresh.value.end(), made.cache.view().value(at, slot));
    fresh.accumulated.assign(static_cast<std::size_t>(made.shape.group), 0.0);
    fresh.decayed = fresh.accumulated;
    return fresh;
  }

  /// Carries the window into the oracle's columns and compares the library's scores with its own.
  void compare_scores() {
    worst_difference worst;
    made.each_row([&](fkv::row_index at) {
      auto const index = static_cast<std::size_t>(made.shape.row(at));
      auto const tokens = made.tokens_of(at);
      std::vector<oracle::window> seen;
      for (int j = 0; j < made.shape.group; ++j) seen.push_back(made.window.seen(at, j, tokens, made.row_end[index]));
      for (std::size_t slot = 0; slot < tokens.length(); ++slot) {
        if (tokens.position[slot] < 0) continue;
        token& mine = rows[index][slot];
        for (std::size_t j = 0; j < seen.size(); ++j) {
          double const sum = oracle::evaluate({oracle::fold::sum, 0}, seen[j], slot);
          mine.accumulated[j] += sum;
          mine.decayed[j] = 0.9 * mine.decayed[j] + sum;
        }
        double const score = made.policy.scorer.expected(tokens.key[slot], tokens.value[slot], seen, slot,
                                                         mine.accumulated, mine.decayed);
        worst.add(made.scores.at(made.shape.row(at), static_cast<int>(slot)), score);
      }
    });
    INFO("scores off by " << worst.value());
    CHECK(worst.value() <= 1e-4);
  }

  /// Moves a row of the oracle as its own selection says, and counts where the library's row differs.
  int move(fkv::row_index at) {
    int const row = made.shape.row(at);
    auto const index = static_cast<std::size_t>(row);
    auto const choice = made.expected(at);
    int wrong = !made.right_lists(at);
    auto const from = oracle::sources(typename Policy::compaction_type{}, choice, made.length(at));
    std::vector<token> left(from.size());
    std::vector<int> positions(from.size(), -1);
    for (std::size_t slot = 0; slot < from.size(); ++slot) {
      if (from[slot] < 0) continue;
      left[slot] = rows[index][static_cast<std::size_t>(from[slot])];
      positions[slot] = made.positions[index][static_cast<std::size_t>(from[slot])];
    }
    rows[index] = std::move(left);
    made.positions[index] = positions;
    made.cache.length(at) = made.new_length(at);
    wrong += made.new_length(at) != static_cast<int>(from.size());
    std::int32_t const* const column = made.state.view.position + made.state.view.column(row, 0);
    wrong += std::vector<int>(column, column + made.state.seen(row)) != positions;
    for (std::size_t slot = 0; slot < from.size(); ++slot) {
      if (from[slot] < 0) continue;
      auto const& mine = rows[index][slot];
      int const place = static_cast<int>(slot);
      wrong += std::memcmp(mine.key.data(), made.cache.view().key(at, place), mine.key.size() * sizeof(float)) != 0;
      wrong +=
          std::memcmp(mine.value.data(), made.cache.view().value(at, place), mine.value.size() * sizeof(float)) != 0;
      for (std::size_t j = 0; j < mine.accumulated.size(); ++j) {
        carried_error.add(made.state.view.carried_at(row, place)[j], mine.accumulated[j]);
        carried_error.add(made.state.view.carried_at(row, place)[mine.accumulated.size() + j], mine.decayed[j]);
      }
    }
    return wrong;
  }

  std::vector<std::vector<token>> rows;
  worst_difference carried_error;
};

}  // namespace testing
