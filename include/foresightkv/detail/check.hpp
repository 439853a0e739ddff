// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/cache.hpp>
#include <foresightkv/detail/backend.hpp>
#include <foresightkv/observation.hpp>
#include <foresightkv/policy.hpp>
#include <foresightkv/selection.hpp>
#include <foresightkv/state.hpp>
#include <foresightkv/workspace.hpp>

namespace foresightkv::inline v0::detail {

/// The first of several checks that fails.
template <class... Check>
status first_error(Check const&... check) {
  status result;
  ((result = result.ok() ? check() : result), ...);
  return result;
}

inline status check_list(sequence_list const& list) {
  return list.max_count < 0 || list.max_length < 0 ? status{errc::invalid_shape} : status{};
}

inline status check_workspace(workspace scratch, std::size_t bytes) {
  if (bytes > 0 && scratch.data == nullptr) return {errc::null_pointer};
  return scratch.size < bytes ? status{errc::workspace_too_small} : status{};
}

inline status check_scores(score_view const& scores) {
  if (scores.data == nullptr) return {errc::null_pointer};
  return scores.capacity < 0 ? status{errc::invalid_shape} : status{};
}

/// New lengths must not be the buffer that the cache reads: other rows may still read it.
template <class Cache>
status check_new_lengths(Cache const& cache, std::int32_t const* new_lengths) {
  if (new_lengths == nullptr) return {errc::null_pointer};
  auto const count = num_lengths(Cache::domain, cache.shape());
  return new_lengths < cache.lengths() + count && cache.lengths() < new_lengths + count ? status{errc::overlap} : status{};
}

/// What every verb of a policy has in common.
template <class Exec, class Policy, class Cache>
status check_policy_call(Exec const& exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                         workspace scratch, int max_queries) {
  eviction_config const config = policy.config;
  return first_error([&] { return config.valid() ? status{} : status{errc::invalid_config}; },
                     [&] { return cache.check(); }, [&] { return check_list(list); },
                     [&] { return check_part(policy.scorer, cache.shape()); },
                     [&] { return check_part(policy.budget, cache.shape()); },
                     [&] { return backend<Exec>::check(policy.scorer, cache.shape()); },
                     [&] {
                       return check_workspace(scratch, backend<Exec>::template bytes<Policy>(exec, cache.shape(), list, max_queries));
                     });
}

template <class Policy>
status check_policy_state(Policy const& policy, row_state const& state, cache_shape const& shape) {
  eviction_config const config = policy.config;
  return first_error(
      [&] { return check_state(state, shape, carried_statistics<typename Policy::reads>::size); },
      [&] { return state.capacity < config.budget ? status{errc::invalid_shape} : status{}; });
}

template <class Query, log_base Base>
int max_queries(observation<Query, Base> const& window) {
  return window.max_queries;
}
template <class List>
int max_queries(observed<List> const&) {
  return 0;
}

template <class Policy, class Window>
constexpr bool check_policy_window() {
  static_assert(observation_window<Window>,
                "foresightkv: a window must be an observation<...> or an observed<statistics<...>>");
  constexpr bool enough = is_observation<Window> || !needs_queries<typename Policy::scorer_type>();
  static_assert(enough, "foresightkv: this scorer reads the window's queries: hand over an observation, not observed statistics");
  return observation_window<Window> && enough;
}

}  // namespace foresightkv::inline v0::detail
