// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <climits>

#include <foresightkv/config.hpp>

namespace fkv = foresightkv;

namespace {

// The rule again, in arithmetic that cannot overflow.
bool fits(fkv::eviction_config const& config) {
  long long const recent = config.recent_tokens < 0 ? config.interval : config.recent_tokens;
  return config.budget > 0 && config.interval > 0 && config.sink_tokens >= 0 &&
         config.sink_tokens + recent <= config.budget;
}

template <fkv::eviction_config Config>
constexpr int budget_of() {
  return Config.budget;
}

constexpr int accepts_run_time_form(fkv::eviction_config config) { return config.budget + config.recent(); }

}  // namespace

TEST_CASE("config: the default is valid and protects one interval") {
  static_assert(fkv::eviction_config{}.valid());
  CHECK(fkv::eviction_config{}.recent() == fkv::eviction_config{}.interval);
}

TEST_CASE("config: recent() is the interval only where recent_tokens is negative") {
  CHECK(fkv::eviction_config{.interval = 16}.recent() == 16);
  CHECK(fkv::eviction_config{.interval = 16, .recent_tokens = INT_MIN}.recent() == 16);
  CHECK(fkv::eviction_config{.interval = 16, .recent_tokens = 0}.recent() == 0);
  CHECK(fkv::eviction_config{.interval = 16, .recent_tokens = 5}.recent() == 5);
}

TEST_CASE("config: validity on the edges, one by one") {
  struct row {
    fkv::eviction_config config;
    bool valid;
  };
  constexpr row rows[] = {
      {{.budget = 1, .interval = 1}, true},
      {{.budget = 1, .interval = 1, .sink_tokens = 1}, false},
      {{.budget = 1, .interval = 1, .recent_tokens = 0, .sink_tokens = 1}, true},
      {{.budget = 0, .interval = 1, .recent_tokens = 0}, false},
      {{.budget = -1, .interval = 1, .recent_tokens = 0}, false},
      {{.budget = 8, .interval = 0, .recent_tokens = 0}, false},
      {{.budget = 8, .interval = -1, .recent_tokens = 0}, false},
      {{.budget = 8, .interval = 8}, true},
      {{.budget = 8, .interval = 9}, false},
      {{.budget = 8, .interval = 9, .recent_tokens = 8}, true},
      {{.budget = 8, .interval = 4, .recent_tokens = 9}, false},
      {{.budget = 8, .interval = 4, .sink_tokens = 4}, true},
      {{.budget = 8, .interval = 4, .sink_tokens = 5}, false},
      {{.budget = 8, .interval = 4, .sink_tokens = -1}, false},
      {{.budget = INT_MAX, .interval = 1}, true},
      {{.budget = INT_MAX, .interval = INT_MAX}, true},
      {{.budget = INT_MAX, .interval = INT_MAX, .sink_tokens = 1}, false},
      {{.budget = INT_MAX, .interval = 1, .recent_tokens = 0, .sink_tokens = INT_MAX}, true},
      {{.budget = INT_MAX, .interval = 1, .recent_tokens = 1, .sink_tokens = INT_MAX}, false},
      {{.budget = 1, .interval = INT_MAX, .recent_tokens = 0, .sink_tokens = INT_MAX}, false},
      {{.budget = 1, .interval = INT_MAX, .recent_tokens = INT_MAX, .sink_tokens = INT_MAX}, false},
      {{.budget = INT_MIN, .interval = INT_MIN, .recent_tokens = INT_MIN, .sink_tokens = INT_MIN}, false},
  };
  for (auto const& row : rows) {
    CAPTURE(row.config.budget);
    CAPTURE(row.config.interval);
    CAPTURE(row.config.recent_tokens);
    CAPTURE(row.config.sink_tokens);
    CHECK(row.config.valid() == row.valid);
  }
}

TEST_CASE("config: validity agrees with 64-bit arithmetic on every combination of edge values") {
  constexpr int edges[] = {INT_MIN, INT_MIN + 1, -1, 0, 1, 2, 3, INT_MAX / 2, INT_MAX / 2 + 1, INT_MAX - 1, INT_MAX};
  int num_valid = 0;
  int num_wrong = 0;
  for (int budget : edges)
    for (int interval : edges)
      for (int recent_tokens : edges)
        for (int sink_tokens : edges) {
          fkv::eviction_config const config{budget, interval, recent_tokens, sink_tokens};
          num_valid += config.valid();
          num_wrong += config.valid() != fits(config);
        }
  CHECK(num_valid > 0);
  CHECK(num_wrong == 0);
}

TEST_CASE("config: the compile-time form converts to the same run-time struct") {
  constexpr fkv::eviction_config config{.budget = 24, .interval = 8, .recent_tokens = 6, .sink_tokens = 2};
  constexpr fkv::fixed<config> fixed{};
  static_assert(static_cast<fkv::eviction_config>(fixed) == config);
  static_assert(budget_of<fixed>() == 24);
  CHECK(accepts_run_time_form(fixed) == 30);
}

TEST_CASE("config: equality looks at every field") {
  constexpr fkv::eviction_config config{.budget = 24, .interval = 8, .recent_tokens = 6, .sink_tokens = 2};
  CHECK(config == fkv::eviction_config{24, 8, 6, 2});
  CHECK_FALSE(config == fkv::eviction_config{25, 8, 6, 2});
  CHECK_FALSE(config == fkv::eviction_config{24, 9, 6, 2});
  CHECK_FALSE(config == fkv::eviction_config{24, 8, 7, 2});
  CHECK_FALSE(config == fkv::eviction_config{24, 8, 6, 3});
}

TEST_CASE("config: next_length cuts to the budget and leaves shorter rows alone") {
  constexpr fkv::eviction_config config{.budget = 24, .interval = 8};
  static_assert(fkv::next_length(config, 32) == 24);
  CHECK(fkv::next_length(config, 0) == 0);
  CHECK(fkv::next_length(config, 23) == 23);
  CHECK(fkv::next_length(config, 24) == 24);
  CHECK(fkv::next_length(config, 25) == 24);
  CHECK(fkv::next_length(config, INT_MAX) == 24);
}
