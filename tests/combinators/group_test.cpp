// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <concepts>

#include <foresightkv/combinators/group.hpp>

#include "support/scorer_case.hpp"

namespace fkv = foresightkv;

namespace {

using testing::naive_row;

double squares(naive_row const& row, std::size_t slot, std::size_t j) {
  return row.fold(slot, j, 1u << 30, [](double p) { return p * p; });
}

}  // namespace

TEST_CASE("group reductions: a statistic becomes a pointwise scorer") {
  static_assert(fkv::pointwise_scorer<fkv::group_mean<fkv::sum>> && fkv::pointwise_scorer<fkv::group_max<fkv::sum>>);
  static_assert(fkv::pointwise_scorer<fkv::group_sum<fkv::sum>> &&
                fkv::pointwise_scorer<fkv::group_sum_of_squares<fkv::sum>>);
  static_assert(std::same_as<fkv::group_max<fkv::last<4>>::reads, fkv::statistics<fkv::last<4>>>);
  testing::check_scorer(fkv::group_mean<fkv::sum_of_squares>{},
                        testing::each_token([](naive_row const& row, std::size_t slot) {
                          return row.group_mean([&](std::size_t j) { return squares(row, slot, j); });
                        }),
                        2e-5);
  testing::check_scorer(fkv::group_max<fkv::last<4>>{}, testing::each_token([](naive_row const& row, std::size_t slot) {
                          double largest = 0.0;
                          for (int j = 0; j < row.group; ++j)
                            largest = std::max(largest, row.sum(slot, static_cast<std::size_t>(j), 4));
                          return largest;
                        }),
                        2e-5);
  testing::check_scorer(fkv::group_sum<fkv::decayed>{}, testing::each_token([](naive_row const& row, std::size_t slot) {
                          double total = 0.0;
                          for (double const value : row.decayed[slot]) total += value;
                          return total;
                        }),
                        1e-6);
  testing::check_scorer(fkv::group_sum_of_squares<fkv::accumulated>{},
                        testing::each_token([](naive_row const& row, std::size_t slot) {
                          double total = 0.0;
                          for (double const value : row.accumulated[slot]) total += value * value;
                          return total;
                        }),
                        1e-6);
}

TEST_CASE("group_max: values below zero") {
  struct negative_column {
    using window = fkv::sum;
    FORESIGHTKV_HOST_DEVICE static constexpr float carry(float old, float) { return old - 10.0f; }
  };
  using reads = fkv::group_max<negative_column>::reads;
  static_assert(fkv::carried_statistics<reads>::size == 1 && fkv::window_statistics<reads>::contains<fkv::sum>);
  struct token {
    [[nodiscard]] FORESIGHTKV_HOST_DEVICE int group() const { return 3; }
    [[nodiscard]] FORESIGHTKV_HOST_DEVICE float statistic(negative_column, int j) const {
      return -5.0f - static_cast<float>(j);
    }
  };
  CHECK(fkv::group_max<negative_column>{}(0, token{}) == -5.0f);
}
