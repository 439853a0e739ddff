// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstdint>
#include <type_traits>

#include <foresightkv/budgets/per_sequence.hpp>
#include <foresightkv/caches/dense.hpp>
#include <foresightkv/combinators/group.hpp>
#include <foresightkv/combinators/weighted_sum.hpp>
#include <foresightkv/compactions/fill_holes.hpp>
#include <foresightkv/compactions/ordered.hpp>
#include <foresightkv/policy.hpp>
#include <foresightkv/scorers/foresight.hpp>
#include <foresightkv/scorers/h2o.hpp>
#include <foresightkv/scorers/key_diff.hpp>
#include <foresightkv/scorers/snap_kv.hpp>
#include <foresightkv/scorers/streaming_llm.hpp>
#include <foresightkv/scorers/tova.hpp>
#include <foresightkv/scorers/window_sum.hpp>
#include <foresightkv/selectors/sampled_top_k.hpp>
#include <foresightkv/selectors/top_k.hpp>

namespace fkv = foresightkv;

namespace {

constexpr fkv::eviction_config config{.budget = 24, .interval = 8};

}  // namespace

TEST_CASE("policy: composed at compile time, with a config fixed in its type") {
  constexpr auto policy = fkv::compose<config>(fkv::window_sum{}, fkv::top_k{}, fkv::fill_holes{});
  using type = std::remove_cvref_t<decltype(policy)>;
  static_assert(fkv::eviction_policy<type> && std::is_trivially_copyable_v<type>);
  static_assert(
      std::is_same_v<type,
                     fkv::policy<fkv::fixed<config>, fkv::window_sum, fkv::top_k, fkv::fill_holes, fkv::uniform>>);
  static_assert(static_cast<fkv::eviction_config>(policy.config) == config);
  static_assert(std::is_same_v<type::reads, fkv::statistics<fkv::sum>>);
  CHECK(static_cast<fkv::eviction_config>(policy.config).budget == 24);
}

TEST_CASE("policy: composed with a run-time config and parts that hold values") {
  float const packed[1] = {};
  std::int32_t const budgets[1] = {};
  auto const policy = fkv::compose(fkv::eviction_config{.budget = 99, .interval = 9}, fkv::foresight<>{{packed, {}}},
                                   fkv::sampled_top_k{}, fkv::ordered{}, fkv::per_sequence{budgets});
  using type = std::remove_cvref_t<decltype(policy)>;
  static_assert(std::is_same_v<type::scorer_type, fkv::foresight<>> &&
                std::is_same_v<type::budget_type, fkv::per_sequence>);
  static_assert(std::is_same_v<type::selector_type, fkv::sampled_top_k> &&
                std::is_same_v<type::compaction_type, fkv::ordered>);
  CHECK(policy.config.budget == 99);
  CHECK(policy.scorer.weights.packed == packed);
  CHECK(policy.budget.budgets == budgets);
}

TEST_CASE("policy: how many of a window's newest queries it depends on") {
  auto const of = []<class Scorer>(Scorer scorer) {
    return fkv::newest_queries<decltype(fkv::compose<config>(scorer, fkv::top_k{}, fkv::ordered{}))>;
  };
  CHECK(of(fkv::streaming_llm{}) == 0);
  CHECK(of(fkv::key_diff{}) == 0);
  CHECK(of(fkv::tova{}) == 1);
  CHECK(of(fkv::snap_kv<5>{}) == 5);
  CHECK(of(fkv::group_mean<fkv::last<32>>{}) == 32);
  CHECK(of(fkv::weighted_sum<fkv::group_mean<fkv::last<4>>, fkv::snap_kv<6>>{}) == 6);
  CHECK(of(fkv::window_sum{}) == fkv::all_queries);
  CHECK(of(fkv::h2o{}) == fkv::all_queries);  // carried from every query
}

TEST_CASE("policy: which caches it fits") {
  using type = decltype(fkv::compose<config>(fkv::window_sum{}, fkv::top_k{}, fkv::ordered{}));
  static_assert(fkv::detail::check_policy_on_cache<type, fkv::dense_cache<float>>());
  static_assert(fkv::detail::check_policy_on_cache<type, fkv::dense_cache<float, float, fkv::length_domain::row>>());
  static_assert(!fkv::eviction_policy<fkv::window_sum>);
  CHECK(fkv::is_policy<type>);
}
