// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <concepts>

#include <foresightkv/scorers/snap_kv.hpp>

#include "support/naive_window.hpp"

namespace fkv = foresightkv;

namespace {

template <int Window, int Kernel>
auto naive_snap_kv() {
  return [](testing::naive_row const& row) {
    return testing::with_newest(testing::naive_importance(row, Window, Kernel), row.length());
  };
}

}  // namespace

TEST_CASE("snap_kv: softmax of the group's largest logits, mean over the newest queries, max-pooled") {
  static_assert(fkv::row_scorer<fkv::snap_kv<>>);
  static_assert(std::same_as<fkv::snap_kv<>::reads, fkv::statistics<>>);
  static_assert(fkv::snap_kv<>::needs_time_order && fkv::snap_kv<>::newest_queries == 8);
  testing::check_scorer(fkv::snap_kv<>{}, naive_snap_kv<8, 7>(), 1e-5, true);
  testing::check_scorer_on<float>(fkv::snap_kv<3, 1>{}, naive_snap_kv<3, 1>(), 1e-5, true, 400);
  testing::check_scorer_on<fkv::bfloat16>(fkv::snap_kv<17, 5>{}, naive_snap_kv<17, 5>(), 1e-5, true, 500);
}

TEST_CASE("snap_kv: masked queries, soft cap, fewer queries or tokens than its window") {
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    CAPTURE(seed);
    testing::random_source random(600 + seed);
    testing::scorer_case<float> tokens({.group = 3, .key_dim = 24, .length = 70, .queries = 5, .capped = seed % 2 == 1},
                                       random);
    mask_queries(tokens, random, seed < 2 ? 0.4 : 1.0);
    testing::check_case(tokens, fkv::snap_kv<>{}, naive_snap_kv<8, 7>(), 1e-5, random);
  }
  testing::random_source random(700);
  testing::scorer_case<float> few({.length = 6, .config = {.budget = 4, .interval = 2}}, random);
  testing::check_case(few, fkv::snap_kv<>{}, naive_snap_kv<8, 7>(), 0.0, random);
}

TEST_CASE("snap_kv: a query that is not finite counts for nothing") {
  testing::random_source random(800);
  testing::scorer_case<float> tokens({.layers = 1, .sequences = 1, .kv_heads = 1, .queries = 8}, random);
  // Query head 1 of query 2: alone it would hide the whole query.
  int const query = 2, head = 1, dim = tokens.options.key_dim;
  for (int d = 0; d < dim; ++d) tokens.queries[static_cast<std::size_t>((head * 8 + query) * dim + d)] = std::nanf("");
  tokens.score(fkv::snap_kv<>{});
  tokens.lse.assign(16, 0.0f);
  tokens.lse[static_cast<std::size_t>(head * 8 + query)] = std::nanf("");
  CHECK(testing::score_error(tokens, naive_snap_kv<8, 7>()) <= 1e-5);
}
