// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <foresightkv/budget.hpp>
#include <foresightkv/budgets/uniform.hpp>
#include <foresightkv/compaction.hpp>
#include <foresightkv/config.hpp>
#include <foresightkv/scorer.hpp>
#include <foresightkv/selector.hpp>
#include <type_traits>

namespace foresightkv::inline v0 {

namespace detail {

template <class Scorer, class Selector, class Compaction, class Budget>
constexpr bool check_policy() {
  constexpr bool parts =
      check_scorer<Scorer>() && check_selector<Selector>() && check_compaction<Compaction>() && check_budget<Budget>();
  if constexpr (parts) {
    constexpr bool order = !needs_time_order<Scorer>() || Compaction::keeps_time_order;
    static_assert(order, "foresightkv: this scorer needs tokens in time order, which this compaction does not keep");
    return order;
  } else {
    return false;
  }
}

}  // namespace detail

/// An eviction policy: when (config), by what (scorer), which (selector), how many (budget), and where the rest goes
/// (compaction). A value: copied to a device as it stands.
template <class Config, class Scorer, class Selector, class Compaction, class Budget = uniform>
struct policy {
  static_assert(std::convertible_to<Config, eviction_config>,
                "foresightkv: a policy's config must be an eviction_config or fixed<config>");
  // An alias is instantiated with the class: a broken part is named where the policy is, not where it is first used.
  using well_formed = std::bool_constant<detail::check_policy<Scorer, Selector, Compaction, Budget>()>;

  using reads = detail::reads_of<Scorer>;
  using scorer_type = Scorer;
  using selector_type = Selector;
  using compaction_type = Compaction;
  using budget_type = Budget;

  Config config{};
  Scorer scorer{};
  Selector selector{};
  Compaction compaction{};
  Budget budget{};
};

template <class Policy>
inline constexpr bool is_policy = false;
template <class Config, class Scorer, class Selector, class Compaction, class Budget>
inline constexpr bool is_policy<policy<Config, Scorer, Selector, Compaction, Budget>> = true;

template <class Policy>
concept eviction_policy = is_policy<Policy>;

/// How many of a window's newest queries a policy depends on, at most: more than these need not be handed over. 0: none;
/// all_queries: however many there are.
template <eviction_policy Policy>
inline constexpr int newest_queries = std::max(detail::newest_queries<typename Policy::scorer_type>(),
                                               detail::longest_horizon(window_statistics<typename Policy::reads>{}));

/// Composes a policy whose config is fixed, and checked, at compile time.
template <eviction_config Config, class Scorer, class Selector, class Compaction, class Budget = uniform>
[[nodiscard]] constexpr auto compose(Scorer scorer, Selector selector, Compaction compaction, Budget budget = {}) {
  return policy<fixed<Config>, Scorer, Selector, Compaction, Budget>{{}, scorer, selector, compaction, budget};
}

/// Composes a policy whose config is a run-time value, checked by every verb.
template <class Scorer, class Selector, class Compaction, class Budget = uniform>
[[nodiscard]] constexpr auto compose(eviction_config config, Scorer scorer, Selector selector, Compaction compaction,
                                     Budget budget = {}) {
  return policy<eviction_config, Scorer, Selector, Compaction, Budget>{config, scorer, selector, compaction, budget};
}

namespace detail {

/// What depends on the policy and the cache together.
template <class Policy, class Cache>
constexpr bool check_policy_on_cache() {
  static_assert(eviction_policy<Policy>, "foresightkv: a policy must come from compose(...)");
  if constexpr (eviction_policy<Policy> && check_cache<Cache>()) {
    constexpr bool fits = static_cast<int>(Policy::selector_type::domain) <= static_cast<int>(Cache::domain) &&
                          static_cast<int>(Policy::budget_type::domain) <= static_cast<int>(Cache::domain);
    static_assert(fits,
                  "foresightkv: this policy gives rows different lengths inside one length domain of the cache: use a "
                  "cache whose domain is layer or row");
    return Policy::well_formed::value && fits;
  } else {
    return false;
  }
}

}  // namespace detail

}  // namespace foresightkv::inline v0
