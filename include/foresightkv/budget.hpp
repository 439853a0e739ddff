// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/cache.hpp>
#include <foresightkv/config.hpp>
#include <type_traits>

namespace foresightkv::inline v0 {

/// How many tokens each row keeps. Budgets of one length domain are equal:
///   domain                        the coarsest length domain in which it is constant
///   operator()(config, shape, row) tokens to keep; negative: the sequence is flagged and left alone
///   check(shape)                  (optional) a status: what the host can see to be wrong with it for such a cache
template <class Budget>
concept budget = std::is_trivially_copyable_v<Budget> &&
    requires(Budget const rule, eviction_config const config, cache_shape const shape, row_index at) {
  { Budget::domain } -> std::convertible_to<length_domain>;
  { rule(config, shape, at) } -> std::same_as<int>;
};

namespace detail {

template <class Budget>
constexpr bool check_budget() {
  static_assert(budget<Budget>,
                "foresightkv: a budget must be trivially copyable and have domain and int operator()(config, "
                "cache_shape, row_index) const");
  return budget<Budget>;
}

}  // namespace detail

}  // namespace foresightkv::inline v0
