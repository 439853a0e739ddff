// SPDX-License-Identifier: Apache-2.0
// An engine at random against a naive model: see driver/player.hpp. Policies that read statistics of
// attention.
#include <doctest/doctest.h>

#include "driver/play.hpp"

namespace {

namespace fkv = foresightkv;
using driver::setup;
using domain = fkv::length_domain;

using plain = setup<fkv::window_sum, fkv::ordered, fkv::uniform, float, float, domain::sequence>;
using heavy_hitters =
    setup<fkv::h2o, fkv::fill_holes, fkv::per_sequence, fkv::half, fkv::half, domain::layer, fkv::log_base::two>;
using empty_slots =
    setup<fkv::h2o_per_query, fkv::slot_list, fkv::uniform, fkv::bfloat16, fkv::bfloat16, domain::sequence>;
using ragged = setup<fkv::tova, fkv::fill_holes, driver::row_budget, fkv::float8_e4m3, fkv::half, domain::row>;
using judged = setup<fkv::foresight<>, fkv::fill_holes, fkv::uniform, fkv::bfloat16, fkv::bfloat16, domain::sequence>;
using judged_slots = setup<fkv::foresight<>, fkv::slot_list, driver::row_budget, float, float, domain::row>;

}  // namespace

TEST_CASE("verbs in any order do what their definitions say: statistics") {
  driver::play<plain, heavy_hitters, empty_slots, ragged, judged, judged_slots>(testing::is_emulated ? 1000 : 10000);
}
