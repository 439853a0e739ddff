// SPDX-License-Identifier: Apache-2.0
// Instances of kernels that a call's sizes choose, and that small rows never reach: against the host.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include <foresightkv/scorers/foresight.hpp>

#include "support/policy_bench.hpp"
#include "support/random_judges.hpp"
#include "support/same_choice.hpp"
#include "support/sample_scorers.hpp"
#include "support/select_bench.hpp"

namespace fkv = foresightkv;
using testing::history;

namespace {

template <class Scorer, class Compaction>
using policy_of = fkv::policy<fkv::eviction_config, Scorer, fkv::top_k, Compaction>;

/// A call on the host, of what a bench holds.
template <class Bench>
fkv::status evict_on_host(Bench& made) {
  testing::owned_workspace work(
      fkv::evict_bytes(fkv::host, typename Bench::policy_type{}, made.shape, made.list(), made.window.max_queries));
  return fkv::evict(fkv::host, fkv::batch{made.policy, made.cache.view(), made.list(), made.state.view, work.view()},
                    made.window.view(), {made.new_lengths.data(), made.lists.view()});
}

/// Tokens of one row that two caches hold in different places, or not both.
template <class Bench>
int different_tokens(Bench& a, Bench& b, fkv::row_index at) {
  int wrong = 0;
  for (int slot = 0; slot < a.new_length(at); ++slot)
    wrong += !testing::same_token(a.cache.view(), at, slot, b.cache.view(), slot);
  return wrong;
}

/// Cuts the same rows on both sides. The scores are bits of the keys, so the lists are equal.
template <class Scorer, class Compaction>
void cut_long_rows(int length) {
  CAPTURE(length);
  using policy_type = policy_of<Scorer, Compaction>;
  policy_type const policy{
      {.budget = length - length / 3, .interval = 100, .recent_tokens = 50, .sink_tokens = 4}, {}, {}, {}, {}};
  testing::policy_bench<policy_type> by_kernel(static_cast<std::uint64_t>(length), policy,
                                               testing::small_shape(2, length), 1);
  by_kernel.place(0, history::ordered, length);
  auto by_host = by_kernel;
  REQUIRE(by_kernel.evict().ok());
  REQUIRE(evict_on_host(by_host).ok());
  CHECK(by_kernel.lists.same(by_host.lists));
  CHECK(by_kernel.new_lengths.same_bytes(by_host.new_lengths));
  CHECK(testing::same_state(by_kernel.state.view, by_host.state.view));
  by_kernel.each_row([&](fkv::row_index at) {
    CHECK(by_kernel.lists.count(by_kernel.shape.row(at)) == length / 3);
    CHECK(different_tokens(by_kernel, by_host, at) == 0);
  });
}

struct first_element : testing::odd_scorer {
  first_element() : odd_scorer{1e30f, 7} {}
};

}  // namespace

TEST_CASE("kernels: evict of rows that take the longest instance of a block") {
  for (int const length : {4097, 16384}) {
    cut_long_rows<first_element, fkv::ordered>(length);
    cut_long_rows<first_element, fkv::fill_holes>(length);
    cut_long_rows<testing::users_row_scorer, fkv::ordered>(length);
  }
  cut_long_rows<testing::users_row_scorer, fkv::slot_list>(6000);
}

// 1,152 tokens of dimension 128, 4 query heads, 128 queries: what the benchmarks measure.
TEST_CASE("kernels: the judge of rows as large as a model's") {
  using policy_type = policy_of<fkv::foresight<>, fkv::fill_holes>;
  constexpr int length = 1152;
  fkv::cache_shape const shape{.num_layers = 1,
                               .num_sequences = 1,
                               .num_kv_heads = 2,
                               .group = 4,
                               .key_head_dim = 128,
                               .value_head_dim = 128,
                               .capacity = length};
  for (bool const has_lse : {false, true}) {
    CAPTURE(has_lse);
    testing::random_source random(5);
    testing::random_judges const judges({1, 2, 4, 128, 128}, random);
    policy_type const policy{{.budget = 1024, .interval = 128}, {{judges.view()}}, {}, {}, {}};
    testing::policy_bench<policy_type, fkv::bfloat16> by_kernel(5, policy, shape, 128);
    by_kernel.place(0, history::ordered, length);
    by_kernel.window.has_lse = has_lse;
    if (has_lse)
      by_kernel.each_row([&](fkv::row_index at) {
        by_kernel.window.fill_lse(at, by_kernel.tokens_of(at),
                                  by_kernel.row_end[static_cast<std::size_t>(shape.row(at))], 0.0, by_kernel.random);
      });
    auto by_host = by_kernel;

    REQUIRE(by_kernel.score(by_kernel.window.view()).ok());
    auto work = testing::owned_workspace(fkv::evict_bytes(fkv::host, policy_type{}, shape, by_host.list(), 128));
    REQUIRE(fkv::score(fkv::host,
                       fkv::batch{policy, by_host.cache.view(), by_host.list(), by_host.state.view, work.view()},
                       by_host.window.view(), by_host.scores.view())
                .ok());
    int wrong = 0;
    for (std::size_t i = 0; i < by_host.scores.values.size(); ++i)
      wrong += !(std::fabs(by_host.scores.values[i] - by_kernel.scores.values[i]) <= 5e-5f);
    CHECK(wrong == 0);

    REQUIRE(by_kernel.evict().ok());
    REQUIRE(evict_on_host(by_host).ok());
    by_kernel.each_row([&](fkv::row_index at) {
      int const row = shape.row(at);
      CHECK(by_kernel.new_length(at) == 1024);
      CHECK(by_kernel.lists.count(row) == 128);
      CHECK(testing::same_choice(by_kernel.lists.evicted_of(row), by_host.lists.evicted_of(row), by_host.scores_of(at),
                                 2e-4f));
    });
  }
}
