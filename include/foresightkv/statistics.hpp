// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <foresightkv/element.hpp>
#include <type_traits>

namespace foresightkv::inline v0 {

// A window statistic is a type with a fold over the probabilities that one query head gives one token:
//   initial           value before the first query
//   horizon           (optional) queries of this age and older leave the value alone
//   fold(a, p, age)   value after a query of that age (0 = the newest of the declared window) gave probability p;
//                     where a window comes in chunks, several p = 0 in a row must count as one
//   merge(a, b)       (optional) value after the queries of both, each folded from `initial`. Says that the order of
//                     queries does not matter: if all statistics of a policy have it, a device uses its tensor cores
// A carried statistic is a state column: `window` names the window statistic that feeds it, `carry` merges.

/// Largest probability of the window.
struct maximum {
  static constexpr float initial = 0.0f;
  FORESIGHTKV_HOST_DEVICE static constexpr float fold(float a, float p, int) { return detail::larger(a, p); }
  FORESIGHTKV_HOST_DEVICE static constexpr float merge(float a, float b) { return detail::larger(a, b); }
};

/// Smallest probability of the window. A query that comes before the token counts as 0.
struct minimum {
  static constexpr float initial = 1.0f;
  FORESIGHTKV_HOST_DEVICE static constexpr float fold(float a, float p, int) { return detail::lesser(a, p); }
  FORESIGHTKV_HOST_DEVICE static constexpr float merge(float a, float b) { return detail::lesser(a, b); }
};

/// Sum of the window's probabilities.
struct sum {
  static constexpr float initial = 0.0f;
  FORESIGHTKV_HOST_DEVICE static constexpr float fold(float a, float p, int) { return a + p; }
  FORESIGHTKV_HOST_DEVICE static constexpr float merge(float a, float b) { return a + b; }
};

/// Sum over the newest `Width` queries of the declared window.
template <int Width>
struct last {
  static_assert(Width > 0, "foresightkv: last<Width> must look at one query at least");
  static constexpr float initial = 0.0f;
  static constexpr int horizon = Width;
  FORESIGHTKV_HOST_DEVICE static constexpr float fold(float a, float p, int age) { return age < Width ? a + p : a; }
  FORESIGHTKV_HOST_DEVICE static constexpr float merge(float a, float b) { return a + b; }
};

/// Sum of squared probabilities (KV-Compress).
struct sum_of_squares {
  static constexpr float initial = 0.0f;
  FORESIGHTKV_HOST_DEVICE static constexpr float fold(float a, float p, int) { return a + p * p; }
  FORESIGHTKV_HOST_DEVICE static constexpr float merge(float a, float b) { return a + b; }
};

/// Sum over every query ever observed while the token was cached (H2O).
struct accumulated {
  using window = sum;
  FORESIGHTKV_HOST_DEVICE static constexpr float carry(float old, float now) { return old + now; }
};

/// Exponentially decayed sum: 0.9 * old + this interval's sum (ForesightKV).
struct decayed {
  using window = sum;
  FORESIGHTKV_HOST_DEVICE static constexpr float carry(float old, float now) { return 0.9f * old + now; }
};

template <class Statistic>
concept window_statistic = requires(float value, int age) {
  { Statistic::initial } -> std::convertible_to<float>;
  { Statistic::fold(value, value, age) } -> std::same_as<float>;
};

/// A window statistic whose value does not depend on the order of queries.
template <class Statistic>
concept mergeable_statistic = window_statistic<Statistic> && requires(float value) {
  { Statistic::merge(value, value) } -> std::same_as<float>;
};

template <class Statistic>
concept carried_statistic = requires(float value) {
  typename Statistic::window;
  requires window_statistic<typename Statistic::window>;
  { Statistic::carry(value, value) } -> std::same_as<float>;
};

/// A set of statistics, in order: what a scorer reads.
template <class... Statistics>
struct statistics {
  static_assert(((window_statistic<Statistics> || carried_statistic<Statistics>)&&...),
                "foresightkv: a statistic must have initial and float fold(float value, float probability, int age), "
                "or window and float carry(float old, float now)");
  static constexpr int size = static_cast<int>(sizeof...(Statistics));

  template <class Statistic>
  static constexpr bool contains = (std::same_as<Statistic, Statistics> || ...);

  /// Place of a statistic in the set.
  template <class Statistic>
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static constexpr int index() {
    static_assert(contains<Statistic>, "foresightkv: a scorer must list every statistic that it reads in `reads`");
    int place = 0;
    bool found = false;
    ((found = found || std::same_as<Statistic, Statistics>, place += found ? 0 : 1), ...);
    return place;
  }
};

namespace detail {

template <class... Lists>
struct join {
  using type = statistics<>;
};
template <class... First>
struct join<statistics<First...>> {
  using type = statistics<First...>;
};
template <class... First, class... More>
struct join<statistics<First...>, statistics<>, More...> : join<statistics<First...>, More...> {};
template <class... First, class Next, class... Rest, class... More>
struct join<statistics<First...>, statistics<Next, Rest...>, More...>
    : join<std::conditional_t<(std::same_as<First, Next> || ...), statistics<First...>, statistics<First..., Next>>,
           statistics<Rest...>, More...> {};

template <class Statistic, bool Carried = carried_statistic<Statistic>>
struct split {
  using window = statistics<Statistic>;
  using carried = statistics<>;
};
template <class Statistic>
struct split<Statistic, true> {
  using window = statistics<typename Statistic::window>;
  using carried = statistics<Statistic>;
};

template <class List>
struct parts;
template <class... Statistics>
struct parts<statistics<Statistics...>> {
  using window = typename join<statistics<>, typename split<Statistics>::window...>::type;
  using carried = typename join<statistics<>, typename split<Statistics>::carried...>::type;
};

template <class Statistic>
FORESIGHTKV_HOST_DEVICE constexpr int horizon() {
  if constexpr (requires { Statistic::horizon; }) return Statistic::horizon;
  return 0x7fffffff;
}

/// Queries of this age and older leave all of them alone; 0 of none.
template <class... Statistics>
constexpr int longest_horizon(statistics<Statistics...>) {
  int longest = 0;
  ((longest = horizon<Statistics>() > longest ? horizon<Statistics>() : longest), ...);
  return longest;
}

}  // namespace detail

/// Union of statistic sets, duplicates removed, first occurrence first.
template <class... Lists>
using join_statistics = typename detail::join<Lists...>::type;

/// The window statistics that must be observed so that `List` can be read.
template <class List>
using window_statistics = typename detail::parts<List>::window;

/// The state columns that `List` reads.
template <class List>
using carried_statistics = typename detail::parts<List>::carried;

/// Observed window statistics of rows, token by token: data[row][slot][statistic][j], rows in cache_shape order,
/// j = query head inside its group.
template <class List>
struct statistics_view;

template <class... Statistics>
struct statistics_view<statistics<Statistics...>> {
  using list = statistics<Statistics...>;
  static_assert((window_statistic<Statistics> && ...),
                "foresightkv: a statistics_view holds window statistics; carried ones are state columns");
  float* data = nullptr;
  int capacity = 0;  ///< slots per row
};

}  // namespace foresightkv::inline v0
