// SPDX-License-Identifier: Apache-2.0
// An engine at random against a naive model: see driver/player.hpp. Tokens in pages, and int8.
#include <doctest/doctest.h>

#include "driver/play.hpp"

namespace {

namespace fkv = foresightkv;
using driver::any_page_size;
using driver::in_pages;
using domain = fkv::length_domain;

template <class Scorer, class Compaction, class Budget, class Element, class Query, domain Domain, int PageSize>
using setup = driver::setup<Scorer, Compaction, Budget, Element, Query, Domain, fkv::log_base::natural, fkv::top_k,
                            in_pages<PageSize>>;

using plain = setup<fkv::window_sum, fkv::ordered, fkv::uniform, float, float, domain::sequence, any_page_size>;
using judged =
    setup<fkv::foresight<>, fkv::fill_holes, fkv::uniform, fkv::bfloat16, fkv::bfloat16, domain::sequence, 16>;
using ragged =
    setup<fkv::tova, fkv::fill_holes, driver::row_budget, std::int8_t, fkv::half, domain::row, any_page_size>;
using empty_slots =
    setup<fkv::h2o_per_query, fkv::slot_list, fkv::per_sequence, fkv::half, fkv::half, domain::sequence, 8>;
using layered = setup<fkv::key_diff, fkv::ordered, driver::layer_budget, fkv::float8_e4m3, fkv::bfloat16, domain::layer,
                      any_page_size>;
using pooled = setup<driver::snap, fkv::ordered, driver::row_budget, std::int8_t, fkv::bfloat16, domain::row, 16>;
using drawn = driver::setup<fkv::accumulated_sum, fkv::fill_holes, fkv::uniform, fkv::half, fkv::half, domain::sequence,
                            fkv::log_base::natural, fkv::sampled_top_k, in_pages<16>>;

}  // namespace

TEST_CASE("verbs in any order do what their definitions say: tokens in pages") {
  driver::play<plain, judged, ragged, empty_slots, layered, pooled, drawn>(testing::is_emulated ? 600 : 10000);
}
