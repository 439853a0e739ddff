// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <concepts>

#include <foresightkv/scorers/h2o.hpp>

#include "support/random_recording.hpp"
#include "support/scorer_case.hpp"

namespace fkv = foresightkv;

TEST_CASE("h2o: the score is the accumulated sum") {
  static_assert(fkv::pointwise_scorer<fkv::h2o>);
  static_assert(std::same_as<fkv::h2o::reads, fkv::statistics<fkv::accumulated>>);
  testing::check_scorer(fkv::h2o{}, testing::each_token([](auto const& row, std::size_t slot) {
                          return row.group_mean([&](std::size_t j) { return row.accumulated[slot][j]; });
                        }),
                        1e-6);
}

TEST_CASE("h2o: the recent window of a config is valid wherever the config is") {
  CHECK(fkv::with_newest_half({.budget = 21, .interval = 6}) ==
        fkv::eviction_config{.budget = 21, .interval = 6, .recent_tokens = 16});
  CHECK(fkv::with_newest_half({.budget = 20, .interval = 6, .recent_tokens = 4}).recent() == 15);  // 4 + 22 / 2
  CHECK(fkv::with_newest_half({.budget = 8, .interval = 6, .sink_tokens = 2}).recent() == 6);      // of 10, what fits
  for (int budget = 1; budget <= 9; ++budget)
    for (int interval = 1; interval <= 9; ++interval)
      for (int recent = -1; recent <= 9; ++recent)
        for (int sinks = 0; sinks <= 9; ++sinks) {
          fkv::eviction_config const config{budget, interval, recent, sinks};
          if (!config.valid()) continue;
          fkv::eviction_config const halved = fkv::with_newest_half(config);
          bool const sound = halved.valid() && halved.recent() >= config.recent();
          CHECK(sound);
        }
}

TEST_CASE("h2o: the newest half of the budget is protected, the rest goes by all attention so far") {
  constexpr int budget = 21, interval = 6, tokens = 39, dim = 5, group = 3;
  using policy_type = testing::scorer_case<float>::policy_of<fkv::h2o>;
  testing::random_source random(11);
  testing::recording const recorded = testing::random_recording(1, group, dim, tokens, random, 2.0f);
  policy_type const policy{fkv::with_newest_half({.budget = budget, .interval = interval}), {}, {}, {}, {}};
  testing::replay<policy_type> run(recorded, policy, budget + interval, testing::layout::hnd);

  // The naive cache: positions, and each one's attention mass so far.
  std::vector<int> cached;
  std::vector<double> mass(tokens, 0.0);
  int arrived = 0;
  for (int until = budget + interval; until <= tokens; until += interval) {
    int const observed = until - arrived;
    run.append(until);
    run.step(observed);
    for (; arrived < until; ++arrived) cached.push_back(arrived);
    for (int t = until - observed; t < until; ++t)
      for (int j = 0; j < group; ++j) {
        std::vector<double> weight(tokens, 0.0);
        double total = 0.0;
        for (int const position : cached) {
          if (position > t) continue;
          double product = 0.0;
          for (int d = 0; d < dim; ++d)
            product += double{recorded.q[static_cast<std::size_t>((j * tokens + t) * dim + d)]} *
                       double{recorded.k[static_cast<std::size_t>(position * dim + d)]};
          total += weight[static_cast<std::size_t>(position)] = std::exp(product / std::sqrt(double{dim}));
        }
        for (int const position : cached)
          mass[static_cast<std::size_t>(position)] += weight[static_cast<std::size_t>(position)] / total / group;
      }
    for (int evicted = 0; evicted < interval; ++evicted) {
      auto lowest = cached.begin();
      for (auto at = cached.begin(); *at < until - interval - budget / 2; ++at)
        if (mass[static_cast<std::size_t>(*at)] < mass[static_cast<std::size_t>(*lowest)]) lowest = at;
      cached.erase(lowest);
    }
    std::int32_t const* const column = run.state.view.position;
    CHECK(std::vector<int>(column, column + run.state.seen(0)) == cached);
  }
}
