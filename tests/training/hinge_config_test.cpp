// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <limits>

#include <foresightkv/training/hinge_config.hpp>

namespace training = foresightkv::training;

TEST_CASE("hinge_config: a margin must be finite, a number of distances not negative") {
  CHECK(training::hinge_config{}.valid());
  CHECK(training::hinge_config{.margin = -1.0}.valid());
  CHECK_FALSE(training::hinge_config{.margin = std::numeric_limits<double>::infinity()}.valid());
  CHECK_FALSE(training::hinge_config{.margin = std::numeric_limits<double>::quiet_NaN()}.valid());
  CHECK_FALSE(training::hinge_config{.num_shifts = -1}.valid());
}

TEST_CASE("hinge_config: from half of the candidates on every pair is met") {
  namespace detail = foresightkv::detail::training;
  CHECK(detail::num_distances({.num_shifts = 0}, 100) == 0);
  CHECK(detail::num_distances({.num_shifts = 49}, 100) == 49);
  CHECK(detail::num_distances({.num_shifts = 50}, 100) == 0);
  CHECK(detail::pairs_per_compared({.num_shifts = 10}, 100) == 5.0);
  CHECK(detail::pairs_per_compared({.num_shifts = 50}, 100) == 1.0);
}

TEST_CASE("ranking_rows: as many entries as rows times candidates") {
  CHECK(training::ranking_rows<float>{nullptr, nullptr, 70000, 70000}.size() == std::size_t{4900000000});
}
