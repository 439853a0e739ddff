// SPDX-License-Identifier: Apache-2.0
// An engine at random against a naive model: see driver/player.hpp. Policies that read keys, positions or
// queries, and combine them.
#include <doctest/doctest.h>

#include "driver/play.hpp"

namespace {

namespace fkv = foresightkv;
using driver::setup;
using domain = fkv::length_domain;
constexpr auto natural = fkv::log_base::natural;

using small_keys = setup<fkv::key_norm, fkv::slot_list, driver::row_budget, fkv::half, fkv::half, domain::row>;
using different_keys =
    setup<fkv::key_diff, fkv::fill_holes, fkv::per_sequence, fkv::float8_e5m2, fkv::bfloat16, domain::sequence>;
using newest = setup<fkv::streaming_llm, fkv::ordered, driver::row_budget, fkv::bfloat16, fkv::half, domain::row>;
using drawn = setup<fkv::random, fkv::slot_list, driver::layer_budget, float, float, domain::layer>;
using mixed = setup<driver::mixed, fkv::ordered, driver::layer_budget, float, float, domain::layer, fkv::log_base::two>;
using pooled = setup<driver::snap, fkv::ordered, fkv::per_sequence, fkv::half, fkv::half, domain::sequence>;
using redundant = setup<driver::redundant, fkv::ordered, driver::row_budget, fkv::bfloat16, fkv::bfloat16, domain::row>;
using sampled = setup<fkv::window_sum, fkv::fill_holes, fkv::uniform, fkv::bfloat16, fkv::half, domain::sequence,
                      natural, fkv::sampled_top_k>;

}  // namespace

TEST_CASE("verbs in any order do what their definitions say: keys, positions, queries and combinations") {
  driver::play<small_keys, different_keys, newest, drawn, mixed, pooled, redundant, sampled>(
      testing::is_emulated ? 1000 : 10000);
}
