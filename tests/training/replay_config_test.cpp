// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <foresightkv/golden/config.hpp>
#include <foresightkv/training/replay_config.hpp>

using foresightkv::training::replay_config;

TEST_CASE("replay_config: the default start takes golden's steps, each with as many candidates") {
  constexpr replay_config config{{.budget = 48, .interval = 16}, 0};
  static_assert(config.valid() && config.first_length() == 64);
  for (int tokens = 0; tokens < 300; ++tokens)
    CHECK(config.steps(tokens) == foresightkv::golden_config{.budget = 48, .interval = 16}.steps(tokens));
  for (int step = 0; step < 5; ++step) {
    CHECK(config.candidates(step) == 48);
    CHECK(config.evictions(step) == 16);
    CHECK(config.next_token(step) == 64 + 16 * step);
    CHECK(config.candidates_before(step) == static_cast<std::size_t>(48 * step));
    CHECK(config.evictions_before(step) == static_cast<std::size_t>(16 * step));
  }
}

TEST_CASE("replay_config: a prompt is cut to the budget at once") {
  constexpr replay_config config{{.budget = 48, .interval = 16, .recent_tokens = 20, .sink_tokens = 4}, 160};
  static_assert(config.valid());
  CHECK(config.steps(160) == 0);
  CHECK(config.steps(161) == 1);
  CHECK(config.steps(177) == 2);
  CHECK(config.candidates(0) == 136);
  CHECK(config.evictions(0) == 112);
  CHECK(config.candidates(1) == 40);
  CHECK(config.evictions(1) == 16);
  CHECK(config.candidates_before(0) == 0);
  CHECK(config.candidates_before(3) == 136 + 2 * 40);
  CHECK(config.evictions_before(3) == 112 + 2 * 16);
}

TEST_CASE("replay_config: a start inside the first window, or off the block borders, is none") {
  CHECK_FALSE(replay_config{{.budget = 48, .interval = 16}, 48}.valid());
  CHECK_FALSE(replay_config{{.budget = 48, .interval = 16}, 72}.valid());
  CHECK_FALSE(replay_config{{.budget = 50, .interval = 16}, 0}.valid());
  CHECK(replay_config{{.budget = 50, .interval = 16}, 80}.valid());
  CHECK_FALSE(replay_config{{.budget = 0, .interval = 16}, 64}.valid());
  CHECK_FALSE(replay_config{{.budget = 0x7fffffff, .interval = 1}, 0}.valid());
}
