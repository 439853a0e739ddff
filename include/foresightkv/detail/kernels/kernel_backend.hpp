// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/kernels/call_memory.hpp>
#include <foresightkv/detail/kernels/evict_row.hpp>
#include <foresightkv/detail/kernels/launches.hpp>
#include <foresightkv/detail/kernels/golden_eviction.hpp>
#include <foresightkv/detail/kernels/lifecycle.hpp>
#include <foresightkv/detail/kernels/observe.hpp>
#include <foresightkv/detail/kernels/score.hpp>
#include <foresightkv/detail/kernels/visit.hpp>
#include <foresightkv/detail/observer.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// The verbs as sequences of kernels. Grids follow from the host's bounds alone, so that a captured call can be replayed
/// with other lengths and another list.
template <class Exec>
struct kernel_backend : lifecycle<Exec>, golden_kernels<Exec> {
  template <class Policy>
  static std::size_t bytes(Exec const&, cache_shape const& shape, sequence_list const& list, int max_queries) {
    arena counter;
    (void)call_memory<Policy>::take(counter, shape, list, max_queries);
    return counter.bytes();
  }

  /// Layers that stand in memory of the device are asked about by visit_kernel.
  template <class Scorer>
  static status check(Scorer const& scorer, cache_shape const& shape) {
    for (int layer = 0; shape.layers == nullptr && layer < shape.num_layers; ++layer)
      if (!covers_layer(scorer, layer)) return {errc::invalid_shape};
    return {};
  }

  /// 2 launches, 3 where the window brings no log-sum-exp.
  template <class Policy, class Cache, class Window>
  static status observe(Exec const& exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                        Window const& window, row_state const& state, float* out, int out_capacity, workspace scratch) {
    call<Policy, Cache> run(exec, policy, cache, list, state, scratch, window.max_queries);
    auto questions = run.questions({smaller(list.max_length, out_capacity)});
    questions.window = extent_of(window);
    run.visit(questions);
    run.template observe<window_statistics<typename Policy::reads>>(window, {out, out_capacity, true});
    return run.result();
  }

  /// As observe, and one launch.
  template <class Policy, class Cache, class Window>
  static status carry(Exec const& exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                      Window const& window, row_state const& state, workspace scratch) {
    call<Policy, Cache> run(exec, policy, cache, list, state, scratch, max_queries(window));
    auto questions = run.questions({list.max_length, state.capacity});
    questions.window = extent_of(window);
    run.visit(questions);
    carry_kernel<typename Policy::reads> body;
    body.rows = run.rows;
    body.observed = run.observed(window);
    run.launch(run.rows.blocks(1), body);
    return run.result();
  }

  /// As observe, and one launch.
  template <class Policy, class Cache, class Window>
  static status score(Exec const& exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                      Window const& window, row_state const& state, score_view const& scores, workspace scratch) {
    call<Policy, Cache> run(exec, policy, cache, list, state, scratch, max_queries(window));
    int const storable = state.num_carried > 0 ? state.capacity : no_limit;
    auto questions = run.questions({smaller(list.max_length, scores.capacity), storable});
    questions.window = extent_of(window);
    run.visit(questions);
    auto body = run.scoring(window, run.observed(window));
    body.scores = scores.data;
    body.scores_capacity = scores.capacity;
    body.scores_by_row = true;
    run.launch(run.rows.blocks(body.tiles()), body);
    return run.result();
  }

  /// 2 launches.
  template <class Policy, class Cache>
  static status select(Exec const& exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                       score_view const& scores, row_state const& state, selection const& lists, workspace scratch) {
    call<Policy, Cache> run(exec, policy, cache, list, state, scratch, 0);
    auto questions = run.questions({smaller(list.max_length, smaller(scores.capacity, lists.capacity))});
    questions.asks_budget = true;
    run.visit(questions);
    list_targets targets;
    targets.wanted = lists;
    targets.max_length = list.max_length;
    run.choose({scores.data, scores.capacity, true}, [&](auto const& chooser) { run.select(chooser, targets, nullptr); });
    return run.result();
  }

  /// 2 launches; 3 where statistics are carried.
  template <class Policy, class Cache>
  static status compact(Exec const& exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                        selection const& lists, row_state const& state, std::int32_t* new_lengths, workspace scratch) {
    call<Policy, Cache> run(exec, policy, cache, list, state, scratch, 0);
    auto questions = run.questions({smaller(list.max_length, lists.capacity), storable<Policy>(state)});
    questions.asks_budget = true;
    run.visit(questions, {lists, true, Policy::compaction_type::moves_tokens});
    if (state.num_carried > 0)
      run.launch(run.rows.blocks(1), recall_kernel{run.rows, run.memory.carried, list.max_length});
    auto body = run.compaction();
    body.kept = lists.kept;
    body.evicted = lists.evicted;
    body.evicted_count = lists.evicted_count;
    body.list_capacity = lists.capacity;
    body.lists_by_row = true;
    body.new_lengths = new_lengths;
    run.launch(run.rows.blocks(body.parts()), body);
    return run.result();
  }

  /// visit, observe (2 kernels without a log-sum-exp, 1 with it, 0 if nothing is read), score, evict; select and compact in
  /// place of evict where rows are too long for one block's registers.
  template <class Policy, class Cache, class Window>
  static status evict(Exec const& exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                      Window const& window, row_state const& state, std::int32_t* new_lengths, selection const& output,
                      bool dry_run, workspace scratch) {
    selection const wanted = output.capacity > 0 ? output : selection{};
    call<Policy, Cache> run(exec, policy, cache, list, state, scratch, max_queries(window));
    int const longest = wanted.capacity > 0 ? smaller(list.max_length, wanted.capacity) : list.max_length;
    auto questions = run.questions({longest, storable<Policy>(state)});
    questions.window = extent_of(window);
    questions.asks_budget = true;
    run.visit(questions);
    auto scoring = run.scoring(window, run.observed(window));
    scoring.carries = true;
    scoring.scores = run.memory.scores;
    scoring.scores_capacity = list.max_length;
    run.launch(run.rows.blocks(scoring.tiles()), scoring);
    run.choose({run.memory.scores, list.max_length, false},
               [&](auto const& chooser) { run.cut(chooser, wanted, new_lengths, !dry_run); });
    return run.result();
  }

  /// 2 launches.
  template <class Policy, class Cache>
  static status collect_due(Exec const& exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                            row_state const& state, std::int32_t* due_slots, std::int32_t* due_count) {
    eviction_config const config = policy.config;
    visit_kernel<typename Policy::budget_type, reader<statistics<>>> body;
    body.list = list;
    body.questions.lengths = lengths_of(cache);
    body.questions.state = state;
    body.questions.limits = {list.max_length};
    body.questions.config = config;
    body.questions.budget = policy.budget;
    body.questions.asks_budget = true;
    body.due = config.interval;
    body.accepted = due_slots;
    launches<Exec> run(exec);
    run(list.max_count, body);
    run(1, gather_kernel{due_slots, due_count, list.max_count});
    return run.result();
  }

 private:
  /// Longest row whose columns this policy stores: a compaction that moves tokens stores the kept ones only.
  template <class Policy>
  static int storable(row_state const& state) {
    return Policy::compaction_type::moves_tokens ? no_limit : state.capacity;
  }

  /// One call on its way through its kernels.
  template <class Policy, class Cache>
  struct call {
    using reads = typename Policy::reads;
    using scorer_type = typename Policy::scorer_type;
    using budget_type = typename Policy::budget_type;
    using window_list = window_statistics<reads>;

    Policy const& policy;
    Cache const& cache;
    sequence_list const& list;
    call_memory<Policy> memory;
    visited_rows rows;
    launches<Exec> launch;

    call(Exec const& exec, Policy const& rule, Cache const& tokens, sequence_list const& sequences,
         row_state const& state, workspace scratch, int max_queries)
        : policy(rule), cache(tokens), list(sequences), memory(carve(tokens, sequences, scratch, max_queries)),
          rows{lengths_of(tokens), state, memory.accepted, sequences.max_count}, launch(exec) {}

    static call_memory<Policy> carve(Cache const& tokens, sequence_list const& sequences, workspace scratch, int max_queries) {
      arena arrays(scratch);
      return call_memory<Policy>::take(arrays, tokens.shape(), sequences, max_queries);
    }
    [[nodiscard]] status result() const { return launch.result(); }

    [[nodiscard]] visit_questions<budget_type, scorer_type> questions(length_limits const& limits) const {
      visit_questions<budget_type, scorer_type> made;
      made.lengths = rows.lengths;
      made.state = rows.state;
      made.limits = limits;
      made.config = policy.config;
      made.budget = policy.budget;
      made.scorer = policy.scorer;
      return made;
    }
    void visit(visit_questions<budget_type, scorer_type> const& asked, list_question const& given = {}) {
      visit_kernel<budget_type, scorer_type> body;
      body.list = list;
      body.questions = asked;
      body.given = given;
      body.accepted = memory.accepted;
      body.kept_count = memory.kept_count;
      launch(list.max_count, body);
    }

    struct statistics_target {
      float* data;
      int capacity;
      bool by_row;
    };
    template <class List, class Query, log_base Base>
    void observe(observation<Query, Base> const& window, statistics_target const& out) {
      if constexpr (List::size > 0) {
        window_pass<Cache, Query, Base> const pass{rows, cache, window};
        observe_kernel<List, Cache, Query, Base> body{pass, nullptr, out.data, out.capacity, out.by_row, list.max_length};
        if (window.lse == nullptr) {
          lse_kernel<Cache, Query, Base> const first{pass, memory.lse};
          body.lse = memory.lse;
          launch(rows.blocks(first.tiles()) * cache.shape().group, first);
        }
        launch(rows.blocks(body.tiles()) * cache.shape().group, body);
      }
    }
    /// Window statistics of the call's rows: observed now, or found where they were observed before.
    template <class Query, log_base Base>
    observed_rows observed(observation<Query, Base> const& window) {
      observe<window_list>(window, {memory.observed, list.max_length, false});
      return {memory.observed, list.max_length, false};
    }
    template <class List>
    observed_rows observed(foresightkv::observed<List> const& window) {
      static_assert(std::same_as<List, window_list>,
                    "foresightkv: observed statistics must be those that the policy reads: window_statistics<reads>");
      return {window.statistics.data, window.statistics.capacity, true};
    }

    template <class Window>
    score_kernel<Cache, Window, reads, scorer_type> scoring(Window const& window, observed_rows const& seen) const {
      score_kernel<Cache, Window, reads, scorer_type> body;
      body.rows = rows;
      body.cache = cache;
      body.window = window;
      body.scorer = policy.scorer;
      body.config = policy.config;
      body.observed = seen;
      body.carried = memory.carried;
      body.temporary = memory.temporary;
      body.temporary_stride = memory.temporary_stride;
      body.max_length = list.max_length;
      return body;
    }

    [[nodiscard]] list_targets own_lists(selection const& wanted) const {
      return {wanted, memory.kept, memory.evicted, memory.evicted_count, memory.kept_count, list.max_length};
    }
    struct score_source {
      float const* data;
      int capacity;
      bool by_row;
    };
    /// start(chooser): which instance follows from the longest row that the host promised.
    template <class Start>
    void choose(score_source const& scores, Start const& start) {
      auto const with = [&](auto chooser) {
        chooser.rows = rows;
        chooser.config = policy.config;
        chooser.selector = policy.selector;
        chooser.budget = policy.budget;
        chooser.scores = scores.data;
        chooser.scores_capacity = scores.capacity;
        chooser.scores_by_row = scores.by_row;
        chooser.keys = memory.keys;
        chooser.max_length = list.max_length;
        start(chooser);
      };
      constexpr bool moves = Policy::compaction_type::moves_tokens;
      using selector_type = typename Policy::selector_type;
      if (list.max_length <= 128 * 8)
        with(row_chooser<selector_type, budget_type, moves, 128, 8, true>{});
      else if (list.max_length <= 256 * 8)
        with(row_chooser<selector_type, budget_type, moves, 256, 8, true>{});
      else if (list.max_length <= 256 * 16)
        with(row_chooser<selector_type, budget_type, moves, 256, 16, true>{});
      else if (list.max_length <= 512 * 32)
        with(row_chooser<selector_type, budget_type, moves, 512, 32, true>{});
      else
        with(row_chooser<selector_type, budget_type, moves, 512, 16, false>{});
    }
    template <class Chooser>
    void select(Chooser const& chooser, list_targets const& targets, std::int32_t* new_lengths) {
      select_kernel<Chooser> body;
      body.chooser = chooser;
      body.lists = targets;
      body.new_lengths = new_lengths;
      launch(rows.blocks(1), body);
    }

    /// Selects and compacts.
    template <class Chooser>
    void cut(Chooser const& chooser, selection const& wanted, std::int32_t* new_lengths, bool moves) {
      if constexpr (Chooser::keys_type::in_registers) {
        evict_kernel<Cache, typename Policy::compaction_type, Chooser> body;
        body.chooser = chooser;
        body.cache = cache;
        body.wanted = wanted;
        body.new_lengths = new_lengths;
        body.moves = moves;
        body.carried = memory.carried;
        body.slots = memory.kept;
        body.max_length = list.max_length;
        launch(rows.blocks(1), body);
      } else {
        select(chooser, own_lists(wanted), new_lengths);
        auto const body = compaction();
        if (moves) launch(rows.blocks(body.parts()), body);
      }
    }

    [[nodiscard]] compact_kernel<Cache, typename Policy::compaction_type> compaction() const {
      compact_kernel<Cache, typename Policy::compaction_type> body;
      body.rows = rows;
      body.cache = cache;
      body.kept = memory.kept;
      body.evicted = memory.evicted;
      body.evicted_count = memory.evicted_count;
      body.kept_count = memory.kept_count;
      body.list_capacity = list.max_length;
      body.carried = memory.carried;
      body.max_length = list.max_length;
      return body;
    }
  };
};

}  // namespace foresightkv::inline v0::detail::kernels
