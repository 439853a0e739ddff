// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/oracle_select.hpp"
#include "support/token_bench.hpp"

namespace testing {

/// Rows, a window, and all that the stages of a policy read and write: each stage alone, and all in one call.
template <class Policy, class Element = float, fkv::length_domain Domain = fkv::length_domain::sequence>
struct policy_bench : token_bench<Policy, Element, Domain> {
  using base = token_bench<Policy, Element, Domain>;
  using base::cache, base::positions, base::random, base::row_end, base::shape, base::slots, base::state;
  using window_list = fkv::window_statistics<typename Policy::reads>;
  using carried_list = fkv::carried_statistics<typename Policy::reads>;

  Policy policy;
  owned_window<Element> window;
  owned_statistics<window_list> statistics;
  owned_scores scores;
  owned_selection lists;
  guarded<std::int32_t> new_lengths;
  execution exec = testing::exec;

  policy_bench(std::uint64_t seed, Policy const& rule, int longest, int queries) : base(seed, longest), policy(rule) {
    build(queries);
  }
  policy_bench(std::uint64_t seed, Policy const& rule, fkv::cache_shape const& extents, int queries)
      : base(seed, extents), policy(rule) {
    build(queries);
  }

  void build(int queries) {
    window = {shape, queries, random.chance(0.5), random};
    statistics = {shape, shape.capacity};
    scores = {shape, shape.capacity};
    lists = {shape, shape.capacity};
    new_lengths = guarded<std::int32_t>(cache.lengths.size(), -7);
  }

  [[nodiscard]] fkv::observed<window_list> observed() { return {statistics.view()}; }

  fkv::status observe() {
    owned_workspace work(fkv::observe_bytes<window_list>(exec, shape, base::list(), window.max_queries));
    auto const done =
        fkv::observe(exec, cache.view(), base::list(), window.view(), state.view, statistics.view(), work.view());
    return finish(done, work);
  }
  template <class Window>
  fkv::status carry(Window const& seen) {
    auto work = this->work();
    return finish(fkv::carry(exec, fkv::batch{policy, cache.view(), base::list(), state.view, work.view()}, seen),
                  work);
  }
  template <class Window>
  fkv::status score(Window const& seen) {
    auto work = this->work();
    return finish(
        fkv::score(exec, fkv::batch{policy, cache.view(), base::list(), state.view, work.view()}, seen, scores.view()),
        work);
  }
  fkv::status select() {
    auto work = this->work();
    return finish(fkv::select(exec, fkv::batch{policy, cache.view(), base::list(), state.view, work.view()},
                              scores.view(), lists.view()),
                  work);
  }
  fkv::status compact() {
    auto work = this->work();
    return finish(fkv::compact(exec, fkv::batch{policy, cache.view(), base::list(), state.view, work.view()},
                               lists.view(), new_lengths.data()),
                  work);
  }
  template <class Window>
  fkv::status evict(Window const& seen, bool dry_run = false) {
    auto work = this->work();
    fkv::eviction_output const output{new_lengths.data(), lists.view(), dry_run};
    return finish(
        fkv::evict(exec, fkv::batch{policy, cache.view(), base::list(), state.view, work.view()}, seen, output), work);
  }
  fkv::status evict() { return evict(window.view()); }

  /// Every stage, one by one.
  void run_stages() {
    REQUIRE(observe().ok());
    REQUIRE(carry(observed()).ok());
    REQUIRE(score(observed()).ok());
    REQUIRE(select().ok());
    REQUIRE(compact().ok());
  }

  [[nodiscard]] bool intact() const {
    return cache.intact() && state.intact() && window.intact() && statistics.values.intact() &&
           scores.values.intact() && lists.intact() && new_lengths.intact();
  }
  [[nodiscard]] int new_length(fkv::row_index at) const {
    return new_lengths[static_cast<std::size_t>(fkv::detail::length_index(Domain, shape, at))];
  }
  [[nodiscard]] std::vector<float> scores_of(fkv::row_index at) const {
    std::vector<float> values;
    for (int slot = 0; slot < this->length(at); ++slot) values.push_back(scores.at(shape.row(at), slot));
    return values;
  }
  [[nodiscard]] oracle::row tokens_of(fkv::row_index at) {
    return oracle_row(cache.view(), at, positions[static_cast<std::size_t>(shape.row(at))]);
  }
  /// What the scores make of a row.
  [[nodiscard]] oracle::choice expected(fkv::row_index at) const {
    auto const row = static_cast<std::size_t>(shape.row(at));
    int const budget = policy.budget(policy.config, shape, at);
    return oracle::choose(policy.config, budget, positions[row], row_end[row], scores_of(at));
  }
  [[nodiscard]] bool right_lists(fkv::row_index at) const {
    int const row = shape.row(at);
    auto const made = expected(at);
    return lists.evicted_of(row) == made.evicted && lists.kept_of(row, base::tokens(at)) == made.kept;
  }

  /// Carried columns of a row as the oracle folds them: [slot][carried][j].
  [[nodiscard]] std::vector<std::vector<oracle::numbers>> expected_carried(fkv::row_index at) {
    int const row = shape.row(at);
    auto const tokens = tokens_of(at);
    std::vector<std::vector<oracle::numbers>> made(
        tokens.length(), std::vector<oracle::numbers>(static_cast<std::size_t>(carried_list::size),
                                                      oracle::numbers(static_cast<std::size_t>(shape.group), 0.0)));
    for (int j = 0; j < shape.group; ++j) {
      auto const seen = window.seen(at, j, tokens, row_end[static_cast<std::size_t>(row)]);
      for (std::size_t slot = 0; slot < tokens.length(); ++slot) {
        double const sum = oracle::evaluate({oracle::fold::sum, 0}, seen, slot);
        bool const old = static_cast<int>(slot) < state.view.seen_length[row];
        std::size_t place = 0;
        for (double const keep : keeps(carried_list{})) {
          auto const index = place++ * static_cast<std::size_t>(shape.group) + static_cast<std::size_t>(j);
          double const before = old ? double{state.view.carried_at(row, static_cast<int>(slot))[index]} : 0.0;
          made[slot][place - 1][static_cast<std::size_t>(j)] = keep * before + sum;
        }
      }
    }
    return made;
  }

 private:
  template <class Statistic>
  static constexpr double keep() {
    static_assert(std::is_same_v<Statistic, fkv::accumulated> || std::is_same_v<Statistic, fkv::decayed>);
    return std::is_same_v<Statistic, fkv::decayed> ? 0.9 : 1.0;
  }
  template <class... Statistics>
  static std::vector<double> keeps(fkv::statistics<Statistics...>) {
    return {keep<Statistics>()...};
  }
  [[nodiscard]] owned_workspace work() const {
    return workspace_for<Policy>(shape, base::list(), window.max_queries, exec);
  }
  fkv::status finish(fkv::status done, owned_workspace const& work) {
    CHECK(work.memory.intact());
    CHECK(intact());
    return done;
  }
};

/// Tells tokens apart by everything that a scorer can read, cheaply.
struct mixed_scorer {
  using reads = foresightkv::statistics<foresightkv::maximum, foresightkv::sum, foresightkv::last<8>,
                                        foresightkv::accumulated, foresightkv::decayed>;
  float key_weight = 0.1f;

  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const& lanes, Token const& token) const {
    float const keys = lanes.sum(token.key_head_dim(), [&](int d) { return token.key(d) * token.key(d); });
    float const values = lanes.max(token.value_head_dim(), [&](int d) { return token.value(d); });
    float score = key_weight * keys / static_cast<float>(token.key_head_dim()) + 0.05f * values;
    score +=
        token.mean(foresightkv::maximum{}) + 2.0f * token.mean(foresightkv::sum{}) + token.mean(foresightkv::last<8>{});
    score += 0.3f * token.statistic(foresightkv::accumulated{}, token.group() - 1);
    return score - 0.2f * token.statistic(foresightkv::decayed{}, 0);
  }

  /// The same in double precision.
  [[nodiscard]] double expected(oracle::numbers const& key, oracle::numbers const& value,
                                std::vector<oracle::window> const& seen, std::size_t slot,
                                oracle::numbers const& accumulated, oracle::numbers const& decayed) const {
    double score = double{key_weight} * oracle::dot(key, key) / static_cast<double>(key.size()) +
                   double{0.05f} * *std::max_element(value.begin(), value.end());
    for (oracle::window const& head : seen)
      score += (oracle::evaluate({oracle::fold::maximum, 0}, head, slot) +
                2.0 * oracle::evaluate({oracle::fold::sum, 0}, head, slot) +
                oracle::evaluate({oracle::fold::last, 8}, head, slot)) /
               static_cast<double>(seen.size());
    return score + double{0.3f} * accumulated.back() - double{0.2f} * decayed.front();
  }
};

}  // namespace testing
