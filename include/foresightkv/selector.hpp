// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <foresightkv/cache.hpp>
#include <type_traits>

namespace foresightkv::inline v0 {

namespace detail::archetype {

/// What a selector may ask of one row of scores. Every call is made by all threads that share the row.
struct selection_row {
  int length() const;
  int count() const;       // tokens to evict: min(length - budget, candidates)
  int candidates() const;  // tokens that may be evicted
  float score(int slot) const;
  float uniform(int slot) const;  // in (0, 1), drawn for (position, request, row, step): independent of slots
  float gumbel(int slot) const;   // -log(-log(uniform))
  /// Protects every candidate but the `count` lowest; of equal scores the lowest slots remain.
  void restrict_to_lowest(int count);
  /// Replaces the score of every remaining candidate.
  template <class Score>
  void rescore(Score const& score) {
    (void)score(0);
  }
  /// Marks the `count` lowest of the remaining candidates as evicted. Called once, last.
  void evict_lowest(int count);
};

}  // namespace detail::archetype

/// Decides which candidates of a row go:
///   domain          the length domain in which its counts are equal, given equal budgets and lengths
///   operator()(row) calls evict_lowest once
template <class Selector>
concept selector = std::is_trivially_copyable_v<Selector> &&
    requires(Selector const rule, detail::archetype::selection_row row) {
  { Selector::domain } -> std::convertible_to<length_domain>;
  { rule(row) } -> std::same_as<void>;
};

namespace detail {

template <class Selector>
constexpr bool check_selector() {
  static_assert(selector<Selector>,
                "foresightkv: a selector must be trivially copyable and have domain and void operator()(row) const");
  return selector<Selector>;
}

}  // namespace detail

}  // namespace foresightkv::inline v0
