// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/batch.hpp>
#include <foresightkv/cache.hpp>
#include <foresightkv/detail/backend.hpp>
#include <foresightkv/detail/buffer.hpp>
#include <foresightkv/detail/transfer.hpp>
#include <foresightkv/observation.hpp>
#include <foresightkv/page_list.hpp>
#include <foresightkv/policy.hpp>
#include <foresightkv/selection.hpp>
#include <foresightkv/state.hpp>
#include <foresightkv/workspace.hpp>

namespace foresightkv::inline v0::detail {

inline status check_list(sequence_list const& list) {
  return first_of(check_that(list.max_count >= 0 && list.max_length >= 0, errc::invalid_shape),
                  check_aligned(list.slots, list.count))
      .at(argument::sequences);
}

inline status check_scores(score_view const& scores) {
  return first_of(check_that(scores.data != nullptr, errc::null_pointer),
                  check_that(scores.capacity >= 0, errc::invalid_shape), check_aligned(scores.data))
      .at(argument::scores);
}

/// Any of the lists may be null.
inline status check_selection(selection const& lists) {
  return first_of(check_that(lists.capacity >= 0, errc::invalid_shape),
                  check_aligned(lists.kept, lists.evicted, lists.evicted_count, lists.evicted_positions))
      .at(argument::lists);
}

/// Lists that a call reads.
inline status check_given(selection const& lists) {
  bool const present = lists.kept != nullptr && lists.evicted != nullptr && lists.evicted_count != nullptr;
  return first_of(check_that(present, errc::null_pointer, argument::lists), check_selection(lists));
}

/// New lengths must not be the buffer that the cache reads: other rows may still read it.
template <class Cache>
status check_new_lengths(Cache const& cache, std::int32_t const* new_lengths, length_domain domain = Cache::domain) {
  status checked = check_buffer(new_lengths);
  if constexpr (requires { cache.lengths(); }) {
    auto const count = static_cast<std::size_t>(num_lengths(Cache::domain, cache.shape()));
    auto const written = static_cast<std::size_t>(num_lengths(domain, cache.shape()));
    checked = first_of(checked, check_apart(cache.lengths(), count, new_lengths, written));
  }
  return checked.at(argument::new_lengths);
}

/// Lists of pages: of a cache that has pages, with room for those of its longest row.
template <class Cache>
status check_pages(Cache const& cache, page_list const& lists) {
  if constexpr (has_pages<Cache>) {
    return first_of(check_that(lists.pages != nullptr && lists.counts != nullptr, errc::null_pointer),
                    check_aligned(lists.pages, lists.counts, lists.value_pages),
                    check_that(lists.capacity >= cache.most_pages(), errc::invalid_shape))
        .at(argument::pages);
  } else {
    return {errc::unsupported, 0, argument::pages};
  }
}

/// What every verb of a policy has in common.
template <class Exec, class Policy, class Cache>
status check_policy_call(Exec const& exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                         workspace scratch, int max_queries) {
  eviction_config const config = policy.config;
  return first_error([&] { return check_that(config.valid(), errc::invalid_config, argument::config); },
                     [&] { return cache.check().at(argument::cache); }, [&] { return check_list(list); },
                     [&] { return check_part(policy.scorer, cache.shape()).at(argument::scorer); },
                     [&] { return check_part(policy.budget, cache.shape()).at(argument::budget); },
                     [&] { return backend<Exec>::check(policy.scorer, cache.shape()).at(argument::judge_layers); },
                     [&] {
                       return check_scratch(
                           scratch, backend<Exec>::template bytes<Policy>(exec, cache.shape(), list, max_queries));
                     });
}

template <class Policy>
status check_policy_state(Policy const& policy, row_state const& state, cache_shape const& shape) {
  eviction_config const config = policy.config;
  return first_error(
      [&] { return check_state(state, shape, carried_statistics<typename Policy::reads>::size); },
      [&] { return check_that(state.capacity >= config.budget, errc::invalid_shape, argument::state_capacity); });
}

inline status check_slot(row_state const& state, int sequence) {
  return check_that(sequence >= 0 && sequence < state.num_sequences, errc::invalid_shape, argument::slot);
}

/// `observe` does without a state, but not with one that was given too little memory. It reads positions, which are those
/// of a group of any size.
inline status check_optional_state(row_state const& state, cache_shape shape) {
  shape.group = state.group;
  return state.empty() && !state.lacks_memory() ? status{} : check_state(state, shape, state.num_carried);
}

template <class Exec, class Policy, class Cache>
status check_batch(Exec const& exec, batch<Policy, Cache> const& rows, int max_queries) {
  return first_error(
      [&] { return check_policy_call(exec, rows.policy, rows.cache, rows.sequences, rows.scratch, max_queries); },
      [&] { return check_policy_state(rows.policy, rows.state, rows.cache.shape()); });
}

/// The same of tokens that go to another cache, and what it takes of that.
template <class Exec, class Policy, class Cache, class Target>
status check_moving(Exec const& exec, moving_batch<Policy, Cache, Target> const& moving, int max_queries,
                    std::int32_t const* new_lengths) {
  return first_error([&] { return check_batch(exec, moving.rows, max_queries); },
                     [&] { return check_target(moving.rows.cache, moving.target); },
                     [&] { return check_new_lengths(moving.rows.cache, new_lengths, Target::domain); },
                     [&] { return check_new_lengths(moving.target, new_lengths); });
}

/// A window that a verb observes by itself, or that was observed before: there is nothing that a chunk could continue.
template <class Query, log_base Base>
status check_whole_window(observation<Query, Base> const& window) {
  return first_of(check_that(!window.continues, errc::unsupported, argument::window), check_window(window));
}
template <class List>
status check_whole_window(observed<List> const& window) {
  return check_window(window);
}

template <class Query, log_base Base>
int max_queries(observation<Query, Base> const& window) {
  return window.max_queries;
}
template <class List>
int max_queries(observed<List> const&) {
  return 0;
}

template <class Window>
constexpr bool check_window_type() {
  static_assert(observation_window<Window>,
                "foresightkv: a window must be an observation<...> or an observed<statistics<...>>");
  return observation_window<Window>;
}

template <class Policy, class Window>
constexpr bool check_policy_window() {
  if constexpr (check_window_type<Window>()) {
    constexpr bool enough = is_observation<Window> || !needs_queries<typename Policy::scorer_type>();
    static_assert(
        enough,
        "foresightkv: this scorer reads the window's queries: hand over an observation, not observed statistics");
    return enough;
  } else {
    return false;
  }
}

}  // namespace foresightkv::inline v0::detail
