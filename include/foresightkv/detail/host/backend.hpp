// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/backend.hpp>
#include <foresightkv/detail/host/judge.hpp>
#include <foresightkv/detail/host/lifecycle.hpp>
#include <foresightkv/detail/host/row_operations.hpp>
#include <foresightkv/detail/host/row_task.hpp>
#include <foresightkv/eviction_output.hpp>
#include <utility>

namespace foresightkv::inline v0::detail {

/// The verbs on the host: rows in parallel, each row on one thread.
template <>
struct backend<host_execution> : host::lifecycle {
  template <class Policy>
  static std::size_t bytes(host_execution exec, cache_shape const& shape, sequence_list const& list, int) {
    arena counter;
    (void)host::call_scratch<Policy>::take(counter, exec, shape, list);
    return counter.bytes();
  }

  /// Of an eviction into another cache: beside that, what is chosen of a sequence before any of its rows moves.
  template <class Policy>
  static std::size_t bytes_into(host_execution exec, cache_shape const& shape, sequence_list const& list, int) {
    arena counter;
    (void)host::call_scratch<Policy>::take(counter, exec, shape, list);
    (void)take_chosen<Policy>(counter, shape, list);
    return counter.bytes();
  }

  /// Data that a device cannot check before a launch, but the host can.
  template <class Scorer>
  static status check(Scorer const& scorer, cache_shape const& shape) {
    for (int layer = 0; layer < shape.num_layers; ++layer)
      if (!covers_layer(scorer, shape.model_layer(layer))) return {errc::invalid_shape};
    return {};
  }

  /// Runs body(row_task, row_scratch) on every row of every sequence that `accept`.
  template <class Policy, class Cache, class Accept, class Body>
  static host::visit for_each_row(host_execution exec, Policy const& policy, Cache const& cache,
                                  sequence_list const& list, row_state const& state, workspace memory,
                                  Accept const& accept, Body const& body) {
    arena arrays(memory);
    auto const scratch = host::call_scratch<Policy>::take(arrays, exec, cache.shape(), list);
    host::visit const plan = host::plan_visit(list, cache.shape(), state, scratch.sequences, accept);
    host::parallel_for(scratch.threads, plan.num_rows(cache.shape()), [&](int task, int thread) {
      host::row_scratch<Policy> const mine = scratch.of(thread);
      host::row_task<Policy, Cache> const row(policy, cache, state, plan.row(cache.shape(), task));
      body(row, mine);
    });
    return plan;
  }

  template <class Policy, class Cache, class Window>
  static status observe(host_execution exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                        Window const& window, row_state const& state, float* out, int out_capacity, workspace memory) {
    constexpr int size = window_statistics<typename Policy::reads>::size;
    auto const accept = [&](int sequence) {
      return host::check_lengths(cache, sequence, {smaller(list.max_length, out_capacity)}, state) &&
             host::check_queries(cache, extent_of(window), sequence, state) &&
             host::check_tables(cache, sequence, state);
    };
    auto const row_floats = static_cast<std::ptrdiff_t>(out_capacity) * size * cache.shape().group;
    (void)for_each_row(exec, policy, cache, list, state, memory, accept, [&](auto const& row, auto const& scratch) {
      bool const sound = host::observe_row<window_statistics<typename Policy::reads>>(
          cache, row.at, row.length, row.positions, window, scratch.observe, out + row.row * row_floats);
      if (!sound) host::set_flag(state, row.at.sequence, sequence_flag::not_finite);
    });
    return {};
  }

  template <class Policy, class Cache, class Window>
  static status carry(host_execution exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                      Window const& window, row_state const& state, workspace memory) {
    auto const accept = [&](int sequence) {
      return host::check_lengths(cache, sequence, {list.max_length, state.capacity}, state) &&
             host::check_queries(cache, extent_of(window), sequence, state) &&
             host::check_tables(cache, sequence, state);
    };
    (void)for_each_row(exec, policy, cache, list, state, memory, accept, [&](auto const& row, auto const& scratch) {
      float const* const observed = row.window_of(window, scratch);
      (void)row.carry(observed, scratch);
      row.settle(scratch.carried);
    });
    return {};
  }

  template <class Policy, class Cache, class Window>
  static status score(host_execution exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                      Window const& window, row_state const& state, score_view const& scores, workspace memory) {
    auto const accept = [&](int sequence) {
      return host::check_lengths(
                 cache, sequence,
                 {smaller(list.max_length, scores.capacity), state.num_carried > 0 ? state.capacity : no_limit},
                 state) &&
             host::check_queries(cache, extent_of(window), sequence, state) &&
             host::check_tables(cache, sequence, state);
    };
    (void)for_each_row(exec, policy, cache, list, state, memory, accept, [&](auto const& row, auto const& scratch) {
      float const* const observed = row.window_of(window, scratch);
      row.fetch_carried(scratch.carried);
      row.score(window, observed, scratch.carried, scratch, scores.row(row.row));
    });
    return {};
  }

  template <class Policy, class Cache>
  static status select(host_execution exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                       score_view const& scores, row_state const& state, selection const& lists, workspace memory) {
    auto const accept = [&](int sequence) {
      int const limit = smaller(list.max_length, smaller(scores.capacity, lists.capacity));
      return host::check_lengths(cache, sequence, {limit}, state) &&
             check_budget_data(policy, cache, sequence, state) && host::check_tables(cache, sequence, state);
    };
    (void)for_each_row(exec, policy, cache, list, state, memory, accept, [&](auto const& row, auto const& scratch) {
      row.choose(scores.row(row.row), lists, scratch, [](auto const&...) {});
    });
    return {};
  }

  /// In their cache, or into a target.
  template <class Policy, class Cache, class Target = in_place>
  static status compact(host_execution exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                        selection const& lists, row_state const& state, std::int32_t* new_lengths, workspace memory,
                        [[maybe_unused]] Target const& target = {}) {
    auto const moved = [&](row_index at) {
      int const row = cache.shape().row(at);
      return first_moved(lists.evicted + lists.at(row), lists.evicted_count[row]);
    };
    auto const kept_of = [&](row_index at) {
      return host::row_task<Policy, Cache>(policy, cache, state, at).kept(lists);
    };
    auto const owns = [&](int sequence) {
      if constexpr (is_in_place<Target>)
        return host::check_owners<typename Policy::compaction_type>(cache, sequence, state, moved);
      else
        return host::check_target_data(target, sequence, true, state) &&
               host::check_fit(cache, target, sequence, state, kept_of);
    };
    auto const accept = [&](int sequence) {
      int const limit = smaller(list.max_length, lists.capacity);
      return host::check_lengths(cache, sequence, {limit, storable<Policy>(state)}, state) &&
             check_budget_data(policy, cache, sequence, state) && check_lists(policy, cache, lists, sequence, state) &&
             host::check_tables(cache, sequence, state) && owns(sequence);
    };
    (void)for_each_row(exec, policy, cache, list, state, memory, accept, [&](auto const& row, auto const& scratch) {
      auto const base = lists.at(row.row);
      int const num_evicted = lists.evicted_count[row.row];
      if constexpr (!is_in_place<Target>) {
        row.fetch_carried(scratch.carried);
        row.move_into(target, lists.kept + base, row.kept(lists), scratch.carried);
        return row.store_length(new_lengths, row.length_after(row.kept(lists)), Target::domain);
      }
      if (num_evicted == 0) return row.store_length(new_lengths, row.length);
      int const num_kept = row.occupied() - num_evicted;
      row.fetch_carried(scratch.carried);
      row.compact(lists.kept + base, num_kept, lists.evicted + base, num_evicted, scratch.carried);
      row.store_length(new_lengths, Policy::compaction_type::moves_tokens ? num_kept : row.length);
    });
    return {};
  }

  template <class Policy, class Cache>
  static status take_back(host_execution exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                          std::int32_t const* counts, row_state const& state, std::int32_t* new_lengths,
                          workspace memory) {
    using row_type = host::row_task<Policy, Cache>;
    auto const of_row = [&](auto ask) {
      return [&, ask](row_index at) {
        row_type const row(policy, cache, state, at);
        return ask(row, row.newest(counts[at.sequence]));
      };
    };
    bool const moves = Policy::compaction_type::moves_tokens;  // slots that stay must be as empty as each other
    auto const after = of_row([](auto const& row, auto const& newest) {
      return std::pair(row.length_without(newest), moves ? 0 : row.num_leaving(newest));
    });
    auto const hole = of_row([](auto const& row, auto const& newest) { return row.first_hole(newest); });
    auto const can_go = [&](int sequence) {
      bool all = true;
      host::every_row(state, sequence, [&](row_index at) {
        sequence_flag const flag = row_type(policy, cache, state, at).newest(counts[sequence]).flag;
        if (flag != no_flag) host::set_flag(state, sequence, flag);
        all = all && flag == no_flag;
      });
      return all;
    };
    auto const accept = [&](int sequence) {
      return host::check_lengths(cache, sequence, {list.max_length}, state) &&
             host::check_tables(cache, sequence, state) && can_go(sequence) &&
             host::check_agreement(cache, sequence, state, after) &&
             host::check_owners<typename Policy::compaction_type>(cache, sequence, state, hole);
    };
    (void)for_each_row(exec, policy, cache, list, state, memory, accept, [&](auto const& row, auto const& scratch) {
      newest_tokens const newest = row.newest(counts[row.at.sequence]);
      int const new_length = row.length_without(newest);
      row.store_length(new_lengths, new_length);
      row.take_back(newest, new_length, scratch);
    });
    return {};
  }

  template <class Policy, class Cache, class Window>
  static status evict(host_execution exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                      Window const& window, row_state const& state, eviction_output const& output, workspace memory) {
    selection const lists = output.lists.capacity > 0 ? output.lists : selection{};
    std::int32_t* const new_lengths = output.new_lengths;
    bool const dry_run = output.dry_run;
    auto const moved = [&](row_index at) {
      return first_moved(policy.budget, eviction_config(policy.config), cache.shape(), at, cache.length(at));
    };
    auto const accept = [&](int sequence) {
      int const limit = lists.capacity > 0 ? smaller(list.max_length, lists.capacity) : list.max_length;
      return host::check_lengths(cache, sequence, {limit, storable<Policy>(state)}, state) &&
             host::check_queries(cache, extent_of(window), sequence, state) &&
             check_budget_data(policy, cache, sequence, state) && host::check_tables(cache, sequence, state) &&
             (dry_run || host::check_owners<typename Policy::compaction_type>(cache, sequence, state, moved));
    };
    auto const cut = [&](auto const& row, auto const& scratch) {
      if (row.excess(row.occupied()) <= 0) {
        row.keep_all(lists, scratch);
        row.store_length(new_lengths, row.length);
        return;
      }
      float const* const observed = row.window_of(window, scratch);
      float const* const carried = row.carry(observed, scratch);
      row.score(window, observed, carried, scratch, scratch.scores);
      row.store_length(new_lengths, row.length);  // of a row that cannot be stored as it is chosen to be
      row.choose(scratch.scores, lists, scratch, [&](int num_kept, int num_evicted) {
        bool const moves = Policy::compaction_type::moves_tokens;
        row.store_length(new_lengths, moves ? num_kept : row.length);
        if (!dry_run && num_evicted > 0) row.compact(scratch.kept, num_kept, scratch.evicted, num_evicted, carried);
      });
    };
    host::visit const done = for_each_row(exec, policy, cache, list, state, memory, accept, cut);
    if (output.freed.counts != nullptr)
      for (int i = 0; i < done.count; ++i) list_freed(cache, done.sequences[i], new_lengths, output.freed);
    return {};
  }

  /// A sequence at a time: all of its rows are chosen before one of them moves.
  template <class Policy, class Cache, class Window, class Target>
  static status evict(host_execution exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                      Window const& window, row_state const& state, eviction_output const& output, workspace memory,
                      Target const& target) {
    selection const lists = output.lists.capacity > 0 ? output.lists : selection{};
    auto const accept = [&](int sequence) {
      int const limit = lists.capacity > 0 ? smaller(list.max_length, lists.capacity) : list.max_length;
      return host::check_lengths(cache, sequence, {limit}, state) &&
             host::check_queries(cache, extent_of(window), sequence, state) &&
             check_budget_data(policy, cache, sequence, state) && host::check_tables(cache, sequence, state) &&
             host::check_target_data(target, sequence, !output.dry_run, state);
    };
    arena arrays(memory);
    cache_shape const& shape = cache.shape();
    auto const scratch = host::call_scratch<Policy>::take(arrays, exec, shape, list);
    host::chosen_rows const chosen = take_chosen<Policy>(arrays, shape, list);
    host::visit const plan = host::plan_visit(list, shape, state, scratch.sequences, accept);
    for (int i = 0; i < plan.count; ++i) {
      host::visit const one{plan.sequences + i, 1};
      auto const each_row = [&](auto const& body) {
        host::parallel_for(scratch.threads, one.num_rows(shape), [&](int task, int thread) {
          auto mine = scratch.of(thread);
          mine.kept = chosen.kept_of(task);
          mine.carried = chosen.carried_of(task);
          body(host::row_task<Policy, Cache>(policy, cache, state, one.row(shape, task)), mine, chosen.counts[task]);
        });
      };
      each_row([&](auto const& row, auto const& mine, int& count) { count = choose(row, window, lists, mine); });
      auto const count_of = [&](row_index at) { return chosen.counts[at.layer * shape.num_kv_heads + at.kv_head]; };
      if (!host::check_fit(cache, target, plan.sequences[i], state, count_of)) continue;
      each_row([&](auto const& row, auto const& mine, int count) {
        row.store_length(output.new_lengths, row.length_after(count), Target::domain);
        if (!output.dry_run) row.move_into(target, mine.kept, count, mine.carried);
      });
      if (output.freed.counts != nullptr) list_freed(target, plan.sequences[i], output.new_lengths, output.freed);
    }
    return {};
  }

  template <class Cache>
  static status freed_pages(host_execution, Cache const& cache, sequence_list const& list,
                            std::int32_t const* new_lengths, page_list const& out) {
    host::every_sequence(list, cache.shape().num_sequences, row_state{},
                         [&](int sequence) { list_freed(cache, sequence, new_lengths, out); });
    return {};
  }

  template <class Policy, class Cache>
  static status collect_due(host_execution, Policy const& policy, Cache const& cache, sequence_list const& list,
                            row_state const& state, std::int32_t* due_slots, std::int32_t* due_count) {
    cache_shape const& shape = cache.shape();
    eviction_config const config = policy.config;
    auto const accept = [&](int sequence) {
      if (!host::check_lengths(cache, sequence, {list.max_length}, state) ||
          !check_budget_data(policy, cache, sequence, state) || !host::check_tables(cache, sequence, state))
        return false;
      for (int layer = 0; layer < shape.num_layers; ++layer)
        for (int head = 0; head < shape.num_kv_heads; ++head) {
          host::row_task<Policy, Cache> const row(policy, cache, state, {layer, sequence, head});
          if (row.excess(row.occupied()) >= config.interval) return true;
        }
      return false;
    };
    *due_count = host::plan_visit(list, shape, state, due_slots, accept).count;
    return {};
  }

 private:
  template <class Policy>
  static host::chosen_rows take_chosen(arena& memory, cache_shape const& shape, sequence_list const& list) {
    return host::chosen_rows::take(memory, shape, host::padded_bound(list.max_length),
                                   carried_statistics<typename Policy::reads>::size);
  }
  /// How many tokens of a row stay: see chosen_rows. List and carried statistics stand in scratch.
  template <class Row, class Window, class Scratch>
  static int choose(Row const& row, Window const& window, selection const& lists, Scratch const& scratch) {
    if (row.excess(row.occupied()) <= 0) return row.keep_all(lists, scratch), kept_whole;
    float const* const observed = row.window_of(window, scratch);
    float const* const carried = row.carry(observed, scratch);
    row.score(window, observed, carried, scratch, scratch.scores);
    int count = kept_too_many;
    row.choose(scratch.scores, lists, scratch,
               [&](int num_kept, int num_evicted) { count = num_evicted > 0 ? num_kept : kept_whole; });
    return count;
  }

  template <class Cache>
  static void list_freed(Cache const& cache, int sequence, std::int32_t const* new_lengths, page_list const& out) {
    if constexpr (has_pages<Cache>)
      for (int table = 0; table < cache.tables_per_sequence(); ++table)
        cache.list_freed(one_lane{}, sequence, table, new_lengths, out);
  }

  /// Longest row whose columns this policy stores: a compaction that moves tokens stores the kept ones only.
  template <class Policy>
  static int storable(row_state const& state) {
    return Policy::compaction_type::moves_tokens ? no_limit : state.capacity;
  }

  /// Lists come from memory that another call wrote, or did not: a flagged sequence has none.
  template <class Policy, class Cache>
  static bool check_lists(Policy const& policy, Cache const& cache, selection const& lists, int sequence,
                          row_state const& state) {
    return host::check_rows(cache.shape(), sequence, state, [&](row_index at) {
      return host::row_task<Policy, Cache>(policy, cache, state, at).fits(lists) ? no_flag : sequence_flag::bad_length;
    });
  }

  template <class Policy, class Cache>
  static bool check_budget_data(Policy const& policy, Cache const& cache, int sequence, row_state const& state) {
    return host::check_rows(cache.shape(), sequence, state, [&](row_index at) {
      return check_budget_of(policy.budget, eviction_config(policy.config), cache.shape(), state, at, cache.length(at));
    });
  }
};

}  // namespace foresightkv::inline v0::detail
