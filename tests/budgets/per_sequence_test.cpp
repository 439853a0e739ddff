// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstdint>

#include <foresightkv/budgets/per_sequence.hpp>

namespace fkv = foresightkv;

TEST_CASE("per_sequence: a number from memory, refused where it cannot hold what is protected") {
  static_assert(fkv::budget<fkv::per_sequence> && fkv::per_sequence::domain == fkv::length_domain::sequence);
  constexpr fkv::eviction_config config{.budget = 64, .interval = 8, .recent_tokens = 6, .sink_tokens = 3};
  std::int32_t const budgets[] = {64, 9, 8, 0, -1, 500};
  fkv::per_sequence const rule{budgets};
  int const expected[] = {64, 9, -1, -1, -1, 500};
  for (int sequence = 0; sequence < 6; ++sequence)
    for (int layer = 0; layer < 2; ++layer) CHECK(rule(config, {}, {layer, sequence, 1}) == expected[sequence]);
}

TEST_CASE("per_sequence: its memory is checked") {
  std::int32_t const budgets[2] = {};
  auto const shifted = reinterpret_cast<std::int32_t const*>(reinterpret_cast<std::uintptr_t>(budgets) + 1);
  CHECK(fkv::per_sequence{budgets}.check({}).ok());
  CHECK(fkv::per_sequence{nullptr}.check({}).code == fkv::errc::null_pointer);
  CHECK(fkv::per_sequence{shifted}.check({}).code == fkv::errc::misaligned);
}
