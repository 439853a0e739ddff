// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <concepts>
#include <vector>

#include <foresightkv/combinators/group.hpp>
#include <foresightkv/combinators/max_pool.hpp>
#include <foresightkv/combinators/mean_pool.hpp>
#include <foresightkv/combinators/softmax.hpp>
#include <foresightkv/combinators/standardised.hpp>
#include <foresightkv/combinators/weighted_sum.hpp>
#include <foresightkv/scorers/foresight.hpp>
#include <foresightkv/scorers/h2o_per_query.hpp>
#include <foresightkv/scorers/key_diff.hpp>
#include <foresightkv/scorers/key_norm.hpp>
#include <foresightkv/scorers/snap_kv.hpp>
#include <foresightkv/scorers/streaming_llm.hpp>
#include <foresightkv/scorers/window_sum.hpp>

#include "support/sample_scorers.hpp"
#include "support/scorer_case.hpp"

namespace fkv = foresightkv;

namespace {

using testing::naive_row;

using judged = fkv::weighted_sum<fkv::standardised<fkv::foresight<>>, fkv::standardised<fkv::window_sum>>;

template <class... Statistics>
using reads = fkv::statistics<Statistics...>;

// Only what some term reads is ever computed, and nothing twice.
static_assert(std::same_as<fkv::weighted_sum<fkv::key_norm, fkv::streaming_llm>::reads, reads<>>);
static_assert(std::same_as<fkv::weighted_sum<fkv::window_sum, fkv::group_max<fkv::sum>>::reads, reads<fkv::sum>>);
static_assert(std::same_as<fkv::weighted_sum<fkv::key_norm, fkv::h2o_per_query, fkv::window_sum>::reads,
                           reads<fkv::accumulated, fkv::sum>>);
static_assert(std::same_as<fkv::window_statistics<fkv::weighted_sum<fkv::h2o_per_query, fkv::window_sum>::reads>,
                           reads<fkv::sum>>);
static_assert(std::same_as<judged::reads, fkv::paper::reads>);

// What a term needs, the sum needs.
static_assert(fkv::row_scorer<judged> && !judged::needs_time_order && judged::newest_queries == 0);
static_assert(judged::scratch_rows == 1);
using pooled = fkv::weighted_sum<fkv::window_sum, fkv::standardised<fkv::max_pool<3, fkv::snap_kv<5>>>>;
static_assert(pooled::needs_time_order && pooled::newest_queries == 5 && pooled::scratch_rows == 7);
static_assert(std::is_trivially_copyable_v<judged> && std::is_default_constructible_v<judged>);

template <class Scorer>
std::vector<float> scores_of(testing::scorer_case<float>& tokens, Scorer const& scorer) {
  tokens.score(scorer);
  return {tokens.scores.values.begin(), tokens.scores.values.end()};
}

/// A judge with random weights for every layer that a case has.
struct random_judge {
  std::vector<float> packed;
  fkv::judge_weights weights;

  random_judge(fkv::cache_shape const& shape, testing::random_source& random, int layers = 10) {
    weights.shape = {layers, shape.model_kv_heads(), shape.group, shape.key_head_dim, shape.value_head_dim};
    packed.resize(fkv::packed_judge_floats(weights.shape));
    for (float& weight : packed) weight = 0.2f * random.normal();
    weights.packed = packed.data();
  }
};

}  // namespace

TEST_CASE("weighted_sum: terms by turns with their weights") {
  using scorer = fkv::weighted_sum<fkv::key_norm, testing::users_scorer, testing::users_row_scorer>;
  testing::check_scorer(
      scorer{0.5f, {}, -2.0f, {0.25f}, 3.0f, {}},
      [](naive_row const& row) {
        std::vector<double> scores;
        double largest = -1e300;
        for (auto const& key : row.key) largest = std::max(largest, key[0]);
        for (std::size_t slot = 0; slot < row.length(); ++slot) {
          double const square = row.dot(row.key[slot], row.key[slot]);
          scores.push_back(-0.5 * std::sqrt(square) - 2.0 * (row.window_sum(slot) - 0.25 * square) +
                           3.0 * (row.key[slot][0] - largest));
        }
        return scores;
      },
      2e-5);
  testing::check_scorer_on<float>(fkv::weighted_sum<testing::constant_scorer>{2.0f, {4.0f}},
                                  testing::each_token([](auto const&, std::size_t) { return 8.0; }), 0.0, false, 400);
}

TEST_CASE("weighted_sum: the README's mix of the judge and the window's sum") {
  testing::random_source random(50);
  testing::scorer_case<float> tokens({.group = 3, .key_dim = 20, .value_dim = 12}, random);
  random_judge const judge(tokens.shape, random);
  auto const alone = scores_of(tokens, fkv::foresight<>{judge.weights});
  auto const sums = scores_of(tokens, fkv::window_sum{});
  auto const mixed = scores_of(tokens, judged{0.9f, {judge.weights}, 0.1f, {}});
  for (int row = 0; row < tokens.shape.num_rows(); ++row) {
    naive_row const exact = tokens.naive(row);
    auto const standardise = [&](std::vector<float> const& scores, std::size_t slot) {
      auto const first = static_cast<std::size_t>(row) * exact.length();
      double count = 0.0, mean = 0.0, variance = 0.0;
      for (std::size_t i = 0; i < exact.length(); ++i)
        if (exact.candidate[i]) count += 1.0, mean += double{scores[first + i]};
      mean /= count;
      for (std::size_t i = 0; i < exact.length(); ++i)
        if (exact.candidate[i]) variance += std::pow(double{scores[first + i]} - mean, 2) / count;
      return (double{scores[first + slot]} - mean) / (std::sqrt(variance) + 1e-6);
    };
    double worst = 0.0;
    for (std::size_t slot = 0; slot < exact.length(); ++slot) {
      double const expected = 0.9 * standardise(alone, slot) + 0.1 * standardise(sums, slot);
      double const got = double{mixed[static_cast<std::size_t>(row) * exact.length() + slot]};
      worst = std::fabs(got - expected) <= worst ? worst : std::fabs(got - expected);
    }
    CHECK(worst <= 2e-5);
  }
}

TEST_CASE("weighted_sum: a scorer in several places at once, nested row scorers") {
  testing::random_source random(51);
  testing::scorer_case<float> tokens({.key_dim = 33}, random);
  using inner = fkv::max_pool<3, fkv::mean_pool<5, fkv::pool_edge::zeros, fkv::key_diff>>;
  using outer = fkv::weighted_sum<fkv::softmax<inner>, fkv::weighted_sum<fkv::key_diff, inner>, fkv::snap_kv<>>;
  auto const soft = scores_of(tokens, fkv::softmax<inner>{});
  auto const plain = scores_of(tokens, fkv::key_diff{});
  auto const pools = scores_of(tokens, inner{});
  auto const snap = scores_of(tokens, fkv::snap_kv<>{});
  outer const scorer{2.0f, {}, 1.0f, {3.0f, {}, 4.0f, {}}, -1.0f, {}};
  auto const all = scores_of(tokens, scorer);
  tokens.score_in(scorer, testing::shuffled_block{&random});
  for (std::size_t i = 0; i < all.size(); ++i) {
    CHECK(all[i] == doctest::Approx(2.0f * soft[i] + 3.0f * plain[i] + 4.0f * pools[i] - snap[i]).epsilon(1e-4));
    CHECK(tokens.scores.values[i] == doctest::Approx(all[i]).epsilon(1e-4));
  }
}

TEST_CASE("weighted_sum: asks its terms about the cache") {
  testing::random_source random(52);
  testing::scorer_case<float> tokens({.layers = 2, .group = 3, .key_dim = 20, .value_dim = 12}, random);
  using policy_type = testing::scorer_case<float>::policy_of<judged>;
  testing::owned_state<policy_type> state(tokens.shape, tokens.options.length);
  fkv::sequence_list const list{nullptr, nullptr, tokens.shape.num_sequences, tokens.options.length};
  auto work = testing::workspace_for<policy_type>(tokens.shape, list, tokens.options.queries);
  auto const before = tokens.scores.values;
  auto const code = [&](fkv::judge_weights const& weights) {
    policy_type const policy{tokens.options.config, judged{0.9f, {weights}, 0.1f, {}}, {}, {}, {}};
    return fkv::score(testing::exec, fkv::batch{policy, tokens.cache.view(), list, state.view, work.view()},
                      tokens.window(), tokens.scores.view())
        .code;
  };
  CHECK(code({}) == fkv::errc::null_pointer);
  random_judge const short_of_layers(tokens.shape, random, 9);  // the cache holds the model's layers 4 and 9
  if (testing::reads_device_data) CHECK(code(short_of_layers.weights) == fkv::errc::invalid_shape);
  random_judge wrong_group(tokens.shape, random);
  wrong_group.weights.shape.group = 2;
  CHECK(code(wrong_group.weights) == fkv::errc::invalid_shape);
  CHECK(before.same_bytes(tokens.scores.values));
  random_judge const right(tokens.shape, random);
  CHECK(code(right.weights) == fkv::errc::ok);
}

TEST_CASE("combinators: a composed policy evicts the lowest of its scores") {
  testing::random_source random(53);
  testing::scorer_case<float> tokens({.layers = 1, .sequences = 1, .kv_heads = 2, .key_dim = 24}, random);
  using scorer = fkv::weighted_sum<fkv::standardised<testing::users_scorer>, fkv::max_pool<5, fkv::window_sum>>;
  using policy_type = testing::scorer_case<float>::policy_of<scorer>;
  policy_type const policy{{.budget = 48, .interval = 16}, scorer{0.7f, {}, 0.3f, {}}, {}, {}, {}};
  testing::owned_state<policy_type> state(tokens.shape, 64);
  testing::owned_scores scores(tokens.shape, 64);
  testing::owned_selection lists(tokens.shape, 64);
  fkv::sequence_list const list{nullptr, nullptr, 1, 64};
  auto window = tokens.window();
  window.window_end = nullptr;
  auto work = testing::workspace_for<policy_type>(tokens.shape, list, window.max_queries);
  std::vector<std::int32_t> new_length{0};
  auto const cache = tokens.cache.view();
  REQUIRE(
      fkv::score(testing::exec, fkv::batch{policy, cache, list, state.view, work.view()}, window, scores.view()).ok());
  REQUIRE(fkv::evict(testing::exec, fkv::batch{policy, cache, list, state.view, work.view()}, window,
                     {new_length.data(), lists.view()})
              .ok());
  CHECK(new_length[0] == 48);
  for (int row = 0; row < 2; ++row) {
    auto const evicted = lists.evicted_of(row);
    REQUIRE(evicted.size() == 16);
    float highest = -HUGE_VALF;
    for (int const slot : evicted) highest = std::max(highest, scores.at(row, slot));
    for (int slot = 0; slot < 48; ++slot)
      if (std::find(evicted.begin(), evicted.end(), slot) == evicted.end()) CHECK(scores.at(row, slot) >= highest);
    CHECK(evicted.back() < 48);
  }
}
