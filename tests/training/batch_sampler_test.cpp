// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include <foresightkv/training/batch_sampler.hpp>

using foresightkv::training::batch_sampler;

namespace {

std::vector<std::uint32_t> epoch_of(batch_sampler const& sampler, std::uint64_t epoch) {
  std::vector<std::uint32_t> met;
  for (std::uint64_t i = 0; i < sampler.size; ++i) met.push_back(sampler.at(epoch * sampler.size + i));
  return met;
}

}  // namespace

TEST_CASE("batch_sampler: every epoch meets every sample once") {
  for (std::uint32_t const size : {1u, 2u, 3u, 4u, 5u, 16u, 17u, 100u, 1000u})
    for (std::uint64_t const epoch : {0, 1, 7}) {
      CAPTURE(size);
      CAPTURE(epoch);
      auto met = epoch_of({size, 5, 2}, epoch);
      std::sort(met.begin(), met.end());
      for (std::uint32_t i = 0; i < size; ++i) CHECK(met[i] == i);
    }
}

TEST_CASE("batch_sampler: epochs, streams and seeds have orders of their own") {
  batch_sampler const sampler{1000, 5, 0};
  auto const first = epoch_of(sampler, 0);
  CHECK(epoch_of(sampler, 0) == first);
  CHECK(epoch_of(sampler, 1) != first);
  CHECK(epoch_of({1000, 5, 1}, 0) != first);
  CHECK(epoch_of({1000, 6, 0}, 0) != first);
}

TEST_CASE("batch_sampler: an order is no rearrangement that keeps neighbours together") {
  batch_sampler const sampler{4096, 9, 0};
  auto const met = epoch_of(sampler, 0);
  int close = 0, fixed = 0;
  for (std::size_t i = 0; i + 1 < met.size(); ++i) {
    auto const apart = static_cast<std::int64_t>(met[i + 1]) - static_cast<std::int64_t>(met[i]);
    close += apart >= -8 && apart <= 8 ? 1 : 0;  // 16 of 4,095 by chance
    fixed += met[i] == i ? 1 : 0;                // 1 by chance
  }
  CHECK(close < 48);
  CHECK(fixed < 8);
}

TEST_CASE("batch_sampler: a constant expression") {
  constexpr batch_sampler sampler{3, 1, 0};
  static_assert(sampler.at(0) + sampler.at(1) + sampler.at(2) == 3);
  CHECK(sampler.at(3) < 3);
}
