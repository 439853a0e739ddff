// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <type_traits>

#include <foresightkv/statistics.hpp>

namespace fkv = foresightkv;
using fkv::accumulated, fkv::decayed, fkv::last, fkv::maximum, fkv::minimum, fkv::statistics, fkv::sum,
    fkv::sum_of_squares;

namespace {

/// Folds probabilities, newest last.
template <class Statistic, int Count>
constexpr float fold(float const (&probabilities)[Count]) {
  float value = Statistic::initial;
  for (int r = 0; r < Count; ++r) value = Statistic::fold(value, probabilities[r], Count - 1 - r);
  return value;
}

constexpr float window[] = {0.5f, 0.0f, 0.25f, 0.125f};

/// A user's own statistics: the open set.
struct count_above_half {
  static constexpr float initial = 0.0f;
  FORESIGHTKV_HOST_DEVICE static constexpr float fold(float a, float p, int) { return a + (p > 0.5f ? 1.0f : 0.0f); }
};
struct slow_average {
  using window = count_above_half;
  FORESIGHTKV_HOST_DEVICE static constexpr float carry(float old, float now) { return 0.5f * old + 0.5f * now; }
};
struct no_fold {
  static constexpr float initial = 0.0f;
};
struct bad_carry {
  using window = no_fold;
  FORESIGHTKV_HOST_DEVICE static constexpr float carry(float old, float) { return old; }
};

}  // namespace

TEST_CASE("statistics: folds over a small window") {
  static_assert(fold<maximum>(window) == 0.5f);
  static_assert(fold<minimum>(window) == 0.0f);
  static_assert(fold<sum>(window) == 0.875f);
  static_assert(fold<last<1>>(window) == 0.125f);
  static_assert(fold<last<2>>(window) == 0.375f);
  static_assert(fold<last<4>>(window) == fold<sum>(window));
  static_assert(fold<last<9>>(window) == fold<sum>(window));
  static_assert(fold<sum_of_squares>(window) == 0.25f + 0.0625f + 0.015625f);
  CHECK(accumulated::carry(2.0f, 0.5f) == 2.5f);
  CHECK(decayed::carry(2.0f, 0.5f) == doctest::Approx(0.9 * 2.0 + 0.5));
}

TEST_CASE("statistics: which are of the window, which are carried, which are neither") {
  static_assert(fkv::window_statistic<maximum> && fkv::window_statistic<last<3>> &&
                fkv::window_statistic<count_above_half>);
  static_assert(!fkv::window_statistic<accumulated> && !fkv::window_statistic<no_fold>);
  static_assert(fkv::carried_statistic<accumulated> && fkv::carried_statistic<decayed> &&
                fkv::carried_statistic<slow_average>);
  static_assert(!fkv::carried_statistic<sum> && !fkv::carried_statistic<bad_carry>);
  CHECK(fkv::window_statistic<sum_of_squares>);
}

TEST_CASE("statistics: what two parts of a window say together") {
  constexpr float older[] = {0.5f, 0.0f}, newer[] = {0.25f, 0.125f};
  constexpr auto both = [older, newer](auto statistic) {
    using type = decltype(statistic);
    return type::merge(fold<type>(older), fold<type>(newer)) == fold<type>(window);
  };
  static_assert(both(maximum{}) && both(minimum{}) && both(sum{}) && both(sum_of_squares{}));
  static_assert(last<2>::merge(last<2>::initial, fold<last<2>>(newer)) == fold<last<2>>(window));
  static_assert(fkv::mergeable_statistic<last<8>> && fkv::mergeable_statistic<sum_of_squares>);
  static_assert(!fkv::mergeable_statistic<count_above_half> && !fkv::mergeable_statistic<accumulated>);
  CHECK(both(maximum{}));
}

TEST_CASE("statistics: a list knows places and members") {
  using list = statistics<sum, last<8>, decayed>;
  static_assert(list::size == 3 && statistics<>::size == 0);
  static_assert(list::index<sum>() == 0 && list::index<last<8>>() == 1 && list::index<decayed>() == 2);
  static_assert(list::contains<last<8>> && !list::contains<last<16>> && !statistics<>::contains<sum>);
  CHECK(list::index<decayed>() == 2);
}

TEST_CASE("statistics: joining keeps first places and drops repeats") {
  static_assert(std::is_same_v<fkv::join_statistics<>, statistics<>>);
  static_assert(std::is_same_v<fkv::join_statistics<statistics<>, statistics<sum>>, statistics<sum>>);
  static_assert(
      std::is_same_v<fkv::join_statistics<statistics<sum, maximum>, statistics<maximum, minimum>, statistics<sum>>,
                     statistics<sum, maximum, minimum>>);
  static_assert(std::is_same_v<fkv::join_statistics<statistics<last<8>>, statistics<last<16>, last<8>>>,
                               statistics<last<8>, last<16>>>);
  CHECK(fkv::join_statistics<statistics<sum, decayed>, statistics<decayed, sum>>::size == 2);
}

TEST_CASE("statistics: what must be observed, and what is stored, for a list") {
  using list = statistics<decayed, maximum, accumulated, sum, slow_average>;
  static_assert(std::is_same_v<fkv::window_statistics<list>, statistics<sum, maximum, count_above_half>>);
  static_assert(std::is_same_v<fkv::carried_statistics<list>, statistics<decayed, accumulated, slow_average>>);
  static_assert(std::is_same_v<fkv::window_statistics<statistics<>>, statistics<>>);
  static_assert(std::is_same_v<fkv::carried_statistics<statistics<sum>>, statistics<>>);
  CHECK(fkv::window_statistics<list>::size == 3);
}
