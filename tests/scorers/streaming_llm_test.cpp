// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <concepts>

#include <foresightkv/scorers/streaming_llm.hpp>

#include "support/random_recording.hpp"
#include "support/scorer_case.hpp"

namespace fkv = foresightkv;

TEST_CASE("streaming_llm: minus the age") {
  static_assert(fkv::pointwise_scorer<fkv::streaming_llm>);
  static_assert(std::same_as<fkv::streaming_llm::reads, fkv::statistics<>>);
  testing::check_scorer(fkv::streaming_llm{}, testing::each_token([](auto const& row, std::size_t slot) {
                          return row.position[slot] - (row.next_position - 1.0);
                        }),
                        0.0);
}

TEST_CASE("streaming_llm: keeps the sinks and the newest") {
  using policy_type = testing::scorer_case<float>::policy_of<fkv::streaming_llm>;
  testing::random_source random(5);
  testing::recording const tokens = testing::random_recording(1, 1, 3, 70, random);
  policy_type const policy{{.budget = 24, .interval = 8, .recent_tokens = 0, .sink_tokens = 4}, {}, {}, {}, {}};
  testing::replay<policy_type> run(tokens, policy, 64, testing::layout::hnd);
  for (int arrived : {32, 40, 55, 70}) {
    run.append(arrived);
    run.step(1);
    std::vector<int> expected{0, 1, 2, 3};
    for (int position = arrived - 20; position < arrived; ++position) expected.push_back(position);
    std::int32_t const* const column = run.state.view.position;
    CHECK(std::vector<int>(column, column + run.state.seen(0)) == expected);
  }
}
