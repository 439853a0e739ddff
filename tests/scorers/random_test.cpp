// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <concepts>
#include <map>
#include <set>
#include <utility>

#include <foresightkv/scorers/random.hpp>

#include "support/scorer_case.hpp"

namespace fkv = foresightkv;

namespace {

testing::case_options large() {
  return {.ordered = true,
          .layers = 2,
          .sequences = 2,
          .kv_heads = 3,
          .group = 1,
          .key_dim = 2,
          .value_dim = 2,
          .length = 500,
          .queries = 1};
}

}  // namespace

TEST_CASE("random: uniform in (0, 1), and independent between rows") {
  static_assert(fkv::pointwise_scorer<fkv::random>);
  static_assert(std::same_as<fkv::random::reads, fkv::statistics<>>);
  testing::random_source random(1);
  testing::scorer_case<float> tokens(large(), random);
  tokens.score(fkv::random{.seed = 7});
  int const rows = tokens.shape.num_rows();
  int const n = tokens.options.length;
  double sum = 0.0, squares = 0.0, products = 0.0;
  std::set<float> seen;
  for (int row = 0; row < rows; ++row)
    for (int slot = 0; slot < n; ++slot) {
      double const value = double{tokens.scores.at(row, slot)};
      CHECK((value > 0.0 && value < 1.0));
      seen.insert(tokens.scores.at(row, slot));
      sum += value;
      squares += value * value;
      products += (value - 0.5) * (double{tokens.scores.at((row + 1) % rows, slot)} - 0.5);
    }
  double const count = rows * n;
  // Four standard errors each.
  CHECK(std::fabs(sum / count - 0.5) < 4.0 * std::sqrt(1.0 / 12.0 / count));
  CHECK(std::fabs(squares / count - 1.0 / 3.0) < 4.0 * std::sqrt(4.0 / 45.0 / count));
  CHECK(std::fabs(products / count) < 4.0 / 12.0 / std::sqrt(count));
  CHECK(seen.size() > static_cast<std::size_t>(rows * n - 20));
}

TEST_CASE("random: the draw follows the token, not its slot") {
  testing::random_source random(2);
  testing::case_options options = large();
  options.ordered = false;
  testing::scorer_case<float> tokens(options, random);
  fkv::random const scorer{.seed = 7};
  tokens.score(scorer);
  std::map<std::pair<int, int>, float> drawn;
  int const n = options.length;
  for (int row = 0; row < tokens.shape.num_rows(); ++row)
    for (int slot = 0; slot < n; ++slot)
      drawn[{row, tokens.positions[static_cast<std::size_t>(row * n + slot)]}] = tokens.scores.at(row, slot);
  for (int row = 0; row < tokens.shape.num_rows(); ++row)
    std::reverse(tokens.positions.begin() + row * n, tokens.positions.begin() + (row + 1) * n);
  tokens.score(scorer);
  int wrong = 0;
  for (int row = 0; row < tokens.shape.num_rows(); ++row)
    for (int slot = 0; slot < n; ++slot)
      wrong += tokens.scores.at(row, slot) != drawn[{row, tokens.positions[static_cast<std::size_t>(row * n + slot)]}];
  CHECK(wrong == 0);

  tokens.score(fkv::random{.seed = 8});
  int same = 0;
  for (int slot = 0; slot < n; ++slot)
    same += tokens.scores.at(0, slot) == drawn[{0, tokens.positions[static_cast<std::size_t>(slot)]}];
  CHECK(same < 5);
}

TEST_CASE("random: every eviction draws afresh") {
  using policy_type = testing::scorer_case<float>::policy_of<fkv::random>;
  fkv::cache_shape const shape{.key_head_dim = 2, .value_head_dim = 2, .capacity = 400};
  testing::owned_cache<float> cache(shape, 400);
  testing::random_source random(3);
  cache.fill(random);
  policy_type const policy{{.budget = 300, .interval = 100, .recent_tokens = 0}, {}, {}, {}, {}};
  testing::owned_state<policy_type> state(shape, 400);
  fkv::sequence_list const list{nullptr, nullptr, 1, 400};
  auto work = testing::workspace_for<policy_type>(shape, list, 0);
  testing::owned_scores first(shape, 400), second(shape, 400);
  fkv::observation<float> const window;
  REQUIRE(
      fkv::score(testing::exec, fkv::batch{policy, cache.view(), list, state.view, work.view()}, window, first.view())
          .ok());
  REQUIRE(
      fkv::score(testing::exec, fkv::batch{policy, cache.view(), list, state.view, work.view()}, window, second.view())
          .ok());
  CHECK(first.values.same_bytes(second.values));
  std::vector<std::int32_t> new_length{0};
  REQUIRE(fkv::evict(testing::exec, fkv::batch{policy, cache.view(), list, state.view, work.view()}, window,
                     {new_length.data()})
              .ok());
  CHECK(new_length[0] == 300);
  cache.lengths[0] = new_length[0];
  REQUIRE(
      fkv::score(testing::exec, fkv::batch{policy, cache.view(), list, state.view, work.view()}, window, second.view())
          .ok());
  int same = 0;
  for (int slot = 0; slot < 300; ++slot)
    same += second.at(0, slot) == first.at(0, state.view.position[state.view.column(0, slot)]);
  CHECK(same < 5);
}
