// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/scorer.hpp>
#include <initializer_list>

namespace foresightkv::inline v0 {

namespace detail {

/// Weights and scorers by turns. A constructor and not an aggregate: clang warns of every elided brace.
template <class... Alternating>
struct weighted_terms {
  template <class Visit>
  FORESIGHTKV_HOST_DEVICE constexpr void for_each(Visit const&) const {}
  [[nodiscard]] status check_terms(cache_shape const&) const { return {}; }
};

template <class Scorer, class... Rest>
struct weighted_terms<float, Scorer, Rest...> {
  float weight = 1.0f;
  Scorer scorer{};
  weighted_terms<Rest...> rest{};

  constexpr weighted_terms() = default;
  constexpr weighted_terms(float first_weight, Scorer first_scorer, Rest... others)
      : weight(first_weight), scorer(first_scorer), rest(others...) {}

  template <class Visit>
  FORESIGHTKV_HOST_DEVICE constexpr void for_each(Visit const& visit) const {
    visit(weight, scorer);
    rest.for_each(visit);
  }
  [[nodiscard]] status check_terms(cache_shape const& shape) const {
    status const mine = check_part(scorer, shape);
    return mine.ok() ? rest.check_terms(shape) : mine;
  }
};

template <class Alternating, class... Scorers>
struct alternate;
template <class... Alternating>
struct alternate<weighted_terms<Alternating...>> {
  using type = weighted_terms<Alternating...>;
};
template <class... Alternating, class First, class... Rest>
struct alternate<weighted_terms<Alternating...>, First, Rest...>
    : alternate<weighted_terms<Alternating..., float, First>, Rest...> {};

constexpr int most(std::initializer_list<int> values) {
  int largest = 0;
  for (int const value : values) largest = value > largest ? value : largest;
  return largest;
}

}  // namespace detail

/// Sum of other scorers' scores, each times its weight:
///   weight_1 * score_1 + weight_2 * score_2 + ...
/// Initialised by turns: weighted_sum<First, Second>{0.9f, {...}, 0.1f, {...}}. Every token of the row is scored, terms
/// are added in their order. Scores of different scale want standardised<...> first.
template <class... Scorers>
struct weighted_sum : detail::alternate<detail::weighted_terms<>, Scorers...>::type {
  static_assert(sizeof...(Scorers) > 0, "foresightkv: weighted_sum must have one scorer at least");
  static_assert((detail::check_scorer<Scorers>() && ...));
  using terms = typename detail::alternate<detail::weighted_terms<>, Scorers...>::type;
  using terms::terms;

  using reads = join_statistics<detail::reads_of<Scorers>...>;
  static constexpr bool needs_time_order = (detail::needs_time_order<Scorers>() || ...);
  static constexpr int newest_queries = detail::most({detail::newest_queries<Scorers>()...});
  static constexpr int scratch_rows = 1 + detail::most({detail::scratch_rows<Scorers>()...});

  template <class Block, class Row>
  FORESIGHTKV_HOST_DEVICE void operator()(Block const& block, Row const& row, float* scores) const {
    int const n = row.length();
    float* const term = row.scratch(0);
    auto const inner = row.with_scratch(1);
    bool first = true;
    this->for_each([&](float factor, auto const& of_term) {
      detail::evaluate(of_term, block, inner, term);
      bool const begins = first;
      block.for_each(n, [&](int slot) {
        float const value = factor * term[slot];
        scores[slot] = begins ? value : scores[slot] + value;
      });
      first = false;
    });
  }

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr bool covers(int model_layer) const {
    bool all = true;
    this->for_each([&](float, auto const& of_term) { all = all && detail::covers_layer(of_term, model_layer); });
    return all;
  }
  [[nodiscard]] status check(cache_shape const& shape) const { return this->check_terms(shape); }
};

}  // namespace foresightkv::inline v0
