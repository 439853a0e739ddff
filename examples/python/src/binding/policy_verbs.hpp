// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/foresightkv.hpp>
#include <type_traits>

#include "policy.hpp"

namespace binding {

/// Reads what a policy reads and scores nothing: the verbs that do not score are compiled once for all that read alike.
template <class Reads>
struct reading {
  using reads = Reads;
  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const&) const {
    return 0.0f;
  }
};

inline fkv::judge_weights weights_of(policy_settings const& settings) {
  if (!settings.judge) return {};
  return settings.judge_copy ? settings.judge->weights(settings.judge_copy->elements<float>())
                             : settings.judge->weights();
}

/// A scorer from the settings.
template <class Scorer>
Scorer make_scorer(policy_settings const& settings) {
  if constexpr (requires(Scorer scorer) { scorer.weights; })
    return Scorer{weights_of(settings)};
  else if constexpr (std::is_same_v<Scorer, fkv::random>)
    return Scorer{settings.seed};
  else
    return Scorer{};
}

template <class Scorer, class Compaction>
struct compiled {
  using policy = fkv::policy<fkv::eviction_config, Scorer, selector_by_choice, Compaction>;

  static policy of(policy_settings const& settings) {
    return fkv::compose(settings.config, make_scorer<Scorer>(settings), selector_by_choice{settings.sampled},
                        Compaction{});
  }
  template <class Cache>
  static fkv::batch<policy, Cache> rows(policy_call const& call, Cache const& cache) {
    fkv::eviction_state<policy> state;
    static_cast<fkv::row_state&>(state) = call.state;
    return {of(call.settings), cache, call.sequences, state, call.scratch};
  }
  /// run(batch) for the cache's type.
  template <class Run>
  static fkv::status on(policy_call const& call, Run const& run) {
    return std::visit([&](auto const& cache) { return run(rows(call, cache)); }, call.cache);
  }
  /// run(batch, window): queries are of the cache's element type.
  template <class Run>
  static fkv::status on(policy_call const& call, any_window const& window, Run const& run) {
    return std::visit(
        [&](auto const& cache) -> fkv::status {
          using element = typename std::remove_cvref_t<decltype(cache)>::key_element;
          if (auto const* const queries = std::get_if<window_of<element>>(&window))
            return run(rows(call, cache), *queries);
          return {fkv::errc::unsupported, 0, fkv::argument::queries};
        },
        call.cache);
  }

  static std::size_t state_bytes(fkv::cache_shape const& shape, int capacity) {
    return fkv::state_bytes(policy{}, shape, capacity);
  }
  static fkv::row_state make_state(fkv::cache_shape const& shape, int capacity, fkv::workspace buffer) {
    return fkv::make_state(policy{}, shape, capacity, buffer);
  }
  static std::size_t evict_bytes(backend::execution const& exec, fkv::cache_shape const& shape,
                                 fkv::sequence_list const& list, int max_queries) {
    return fkv::evict_bytes(exec, policy{}, shape, list, max_queries);
  }
  static fkv::status evict(policy_call const& call, any_window const& window, fkv::eviction_output const& output) {
    return on(call, window,
              [&](auto const& rows, auto const& queries) { return fkv::evict(call.exec, rows, queries, output); });
  }
  static fkv::status score(policy_call const& call, any_window const& window, fkv::score_view const& scores) {
    return on(call, window,
              [&](auto const& rows, auto const& queries) { return fkv::score(call.exec, rows, queries, scores); });
  }
  static fkv::status carry(policy_call const& call, any_window const& window) {
    return on(call, window,
              [&](auto const& rows, auto const& queries) { return fkv::carry(call.exec, rows, queries); });
  }
  static fkv::status select(policy_call const& call, fkv::score_view const& scores, fkv::selection const& lists) {
    return on(call, [&](auto const& rows) { return fkv::select(call.exec, rows, scores, lists); });
  }
  static fkv::status compact(policy_call const& call, fkv::selection const& lists, std::int32_t* new_lengths) {
    return on(call, [&](auto const& rows) { return fkv::compact(call.exec, rows, lists, new_lengths); });
  }
  static fkv::status collect_due(policy_call const& call, std::int32_t* due_slots, std::int32_t* due_count) {
    return on(call, [&](auto const& rows) { return fkv::collect_due(call.exec, rows, due_slots, due_count); });
  }
  static fkv::status append(policy_call const& call, std::int32_t const* counts) {
    return on(call, [&](auto const& rows) { return fkv::append(call.exec, rows, counts); });
  }
  static fkv::status take_back(policy_call const& call, std::int32_t const* counts, std::int32_t* new_lengths) {
    return on(call, [&](auto const& rows) { return fkv::take_back(call.exec, rows, counts, new_lengths); });
  }
};

/// What all policies share whose scorers carry the same statistics.
template <class Carried, class Compaction>
policy_verbs verbs_carrying() {
  using mine = compiled<reading<Carried>, Compaction>;
  policy_verbs made{};
  made.state_bytes = mine::state_bytes;
  made.make_state = mine::make_state;
  made.evict_bytes = mine::evict_bytes;
  made.carry = mine::carry;
  made.select = mine::select;
  made.compact = mine::compact;
  made.collect_due = mine::collect_due;
  made.append = mine::append;
  made.take_back = mine::take_back;
  made.carries = Carried::size > 0;
  made.newest_queries = fkv::all_queries;
  return made;
}

template <class Scorer, class Compaction>
policy_verbs verbs_of() {
  using mine = compiled<Scorer, Compaction>;
  policy_verbs made = verbs_carrying<fkv::carried_statistics<typename Scorer::reads>, Compaction>();
  made.evict_bytes = mine::evict_bytes;
  made.evict = mine::evict;
  made.score = mine::score;
  made.newest_queries = fkv::newest_queries<typename mine::policy>;
  return made;
}

}  // namespace binding
