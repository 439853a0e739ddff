// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <vector>

#include <foresightkv/selector.hpp>
#include <foresightkv/selectors/sampled_top_k.hpp>
#include <foresightkv/selectors/top_k.hpp>

#include "support/select_bench.hpp"

namespace fkv = foresightkv;

namespace {

/// A selector of one's own: of the candidates only those with a score below zero may go, the highest of them
/// first.
struct below_zero {
  static constexpr fkv::length_domain domain = fkv::length_domain::row;

  template <class Row>
  FORESIGHTKV_HOST_DEVICE void operator()(Row& row) const {
    int below = 0;
    for (int slot = 0; slot < row.length(); ++slot) below += row.score(slot) < 0.0f;
    row.restrict_to_lowest(below);
    row.rescore([&](int slot) { return -row.score(slot); });
    row.evict_lowest(row.count() < below ? row.count() : below);
  }
};
struct without_call {
  static constexpr fkv::length_domain domain = fkv::length_domain::sequence;
};

}  // namespace

TEST_CASE("selector: what satisfies the concept") {
  static_assert(fkv::selector<fkv::top_k> && fkv::selector<fkv::sampled_top_k> && fkv::selector<below_zero>);
  CHECK_FALSE(fkv::selector<without_call>);
}

TEST_CASE("selector: one of the user's own restricts, rescores and evicts") {
  using row_cache = fkv::dense_cache<float, float, fkv::length_domain::row>;
  using policy_type =
      fkv::policy<fkv::eviction_config, testing::no_scorer, below_zero, fkv::ordered, fkv::per_sequence>;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    testing::random_source random(seed);
    auto const shape = testing::small_shape(4, random.integer(1, 90));
    testing::owned_cache<float, fkv::length_domain::row> memory(shape, shape.capacity);
    testing::owned_state<policy_type> const state(shape, shape.capacity);
    testing::owned_scores scores(shape, shape.capacity);
    testing::owned_selection lists(shape, shape.capacity);
    for (float& score : scores.values) score = random.normal();
    std::vector<std::int32_t> const budgets{random.integer(0, shape.capacity)};
    policy_type const policy{{.budget = 1, .interval = 1, .recent_tokens = 0}, {}, {}, {}, {budgets.data()}};
    fkv::sequence_list const list{nullptr, nullptr, 1, shape.capacity};
    auto work = testing::workspace_for<policy_type>(shape, list, 0);
    row_cache const cache = memory.view();
    REQUIRE(fkv::select(testing::exec, fkv::batch{policy, cache, list, state.view, work.view()}, scores.view(),
                        lists.view())
                .ok());
    for (int row = 0; row < 4; ++row) {
      std::vector<float> turned;
      std::vector<bool> free;
      for (int slot = 0; slot < shape.capacity; ++slot) {
        turned.push_back(-scores.at(row, slot));
        free.push_back(scores.at(row, slot) < 0.0f);
      }
      CHECK(lists.evicted_of(row) == oracle::lowest(turned, free, shape.capacity - budgets[0]));
    }
  }
}
