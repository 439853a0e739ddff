// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/kernels/call_memory.hpp>
#include <foresightkv/detail/kernels/evict_row.hpp>
#include <foresightkv/detail/kernels/freed_pages.hpp>
#include <foresightkv/detail/kernels/into.hpp>
#include <foresightkv/detail/kernels/launches.hpp>
#include <foresightkv/detail/kernels/lifecycle.hpp>
#include <foresightkv/detail/kernels/observe.hpp>
#include <foresightkv/detail/kernels/score.hpp>
#include <foresightkv/detail/kernels/take_back.hpp>
#include <foresightkv/detail/kernels/tensor_judge.hpp>
#include <foresightkv/detail/kernels/tensor_observe.hpp>
#include <foresightkv/detail/kernels/visit.hpp>
#include <foresightkv/detail/observer.hpp>
#include <foresightkv/eviction_output.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// The verbs as sequences of kernels. Grids follow from the host's bounds alone, so that a captured call can be
/// replayed with other lengths and another list.
template <class Exec>
struct kernel_backend : lifecycle<Exec> {
  template <class Policy>
  static std::size_t bytes(Exec const&, cache_shape const& shape, sequence_list const& list, int max_queries) {
    arena counter;
    (void)call_memory<Policy>::take(counter, shape, list, max_queries);
    return counter.bytes();
  }

  template <class Policy>
  static std::size_t bytes_into(Exec const& exec, cache_shape const& shape, sequence_list const& list,
                                int max_queries) {
    return bytes<Policy>(exec, shape, list, max_queries);
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
    chunk_question chunk{};
    if (window.continues && Policy::reads::size > 0)
      chunk = {out, out_capacity, Policy::reads::size * cache.shape().group, run.memory.begun};
    run.visit(questions, {}, chunk);
    run.observe(window, {out, out_capacity, true}, no_stage{});
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

  /// As observe; one launch more where the scorer sees whole rows or no statistic is observed.
  template <class Policy, class Cache, class Window>
  static status score(Exec const& exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                      Window const& window, row_state const& state, score_view const& scores, workspace scratch) {
    call<Policy, Cache> run(exec, policy, cache, list, state, scratch, max_queries(window));
    int const storable = state.num_carried > 0 ? state.capacity : no_limit;
    auto questions = run.questions({smaller(list.max_length, scores.capacity), storable});
    questions.window = extent_of(window);
    run.visit(questions);
    auto stage = run.scoring(window);
    stage.scores = scores.data;
    stage.scores_capacity = scores.capacity;
    stage.scores_by_row = true;
    run.score(window, stage);
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
    run.choose({scores.data, scores.capacity, true},
               [&](auto const& chooser) { run.select(chooser, targets, nullptr); });
    return run.result();
  }

  /// 2 launches; 3 where statistics are carried. In their cache, or into a target.
  template <class Policy, class Cache, class Target = in_place>
  static status compact(Exec const& exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                        selection const& lists, row_state const& state, std::int32_t* new_lengths, workspace scratch,
                        Target const& target = {}) {
    call<Policy, Cache> run(exec, policy, cache, list, state, scratch, 0);
    auto questions = run.questions({smaller(list.max_length, lists.capacity), storable<Policy>(state)});
    questions.asks_budget = true;
    bool const moves = Policy::compaction_type::moves_tokens;
    run.visit(questions, {lists, true, moves}, {}, moves ? token_writes::of_lists : token_writes::none, target);
    if (state.num_carried > 0)
      run.launch(run.rows.blocks(1), fetch_carried_kernel{run.rows, run.memory.carried, list.max_length});
    if constexpr (!is_in_place<Target>) {
      run.move_into(target, {lists.kept, lists.capacity, true, run.memory.kept_count}, new_lengths, true);
      return run.result();
    }
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

  /// 3 launches.
  template <class Policy, class Cache>
  static status take_back(Exec const& exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                          std::int32_t const* counts, row_state const& state, std::int32_t* new_lengths,
                          workspace scratch) {
    call<Policy, Cache> run(exec, policy, cache, list, state, scratch, 0);
    run.visit(run.questions({list.max_length}));
    auto const& memory = run.memory;
    newest_lists const lists{counts, memory.evicted, memory.evicted_count, memory.kept_count, list.max_length};
    take_newest_back<typename Policy::compaction_type>(run.launch, run.rows, cache, lists, new_lengths);
    return run.result();
  }

  /// visit, observe (2 kernels without a log-sum-exp, 1 with it), evict: a scorer that sees a token at a time runs in
  /// observe, one that sees a row in evict. If nothing is observed, score comes in place of observe. Where rows are too
  /// long for one block's registers, (score), select and compact come in place of evict. Into a target: always so, with
  /// into in place of compact.
  template <class Policy, class Cache, class Window, class Target = in_place>
  static status evict(Exec const& exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                      Window const& window, row_state const& state, eviction_output const& output, workspace scratch,
                      Target const& target = {}) {
    selection const wanted = output.lists.capacity > 0 ? output.lists : selection{};
    call<Policy, Cache> run(exec, policy, cache, list, state, scratch, max_queries(window));
    int const longest = wanted.capacity > 0 ? smaller(list.max_length, wanted.capacity) : list.max_length;
    auto questions = run.questions({longest, storable<Policy>(state)});
    questions.window = extent_of(window);
    questions.asks_budget = true;
    bool const moves = Policy::compaction_type::moves_tokens && !output.dry_run;
    run.visit(questions, {}, {}, moves ? token_writes::of_budget : token_writes::none, target);
    auto stage = run.scoring(window);
    stage.carries = true;
    stage.scores = run.memory.scores;
    stage.scores_capacity = list.max_length;
    auto const list_pages = [&](auto const& tokens, std::int32_t const* sequences) {
      if (output.freed.counts != nullptr)
        list_freed(run.launch, tokens, {sequences, nullptr, list.max_count}, output.new_lengths, output.freed);
    };
    if constexpr (is_in_place<Target>) {
      run.evict(window, stage, {wanted, output.new_lengths, !output.dry_run});
      list_pages(cache, run.memory.accepted);
    } else {
      run.score(window, stage);
      run.choose({stage.scores, stage.scores_capacity, false},
                 [&](auto const& chooser) { run.select(chooser, run.own_lists(wanted), nullptr); });
      run.move_into(target, {run.memory.kept, list.max_length, false, run.memory.kept_count}, output.new_lengths,
                    !output.dry_run);
      list_pages(target, run.memory.begun);
    }
    return run.result();
  }

  /// 1 launch.
  template <class Cache>
  static status freed_pages(Exec const& exec, Cache const& cache, sequence_list const& list,
                            std::int32_t const* new_lengths, page_list const& out) {
    launches<Exec> run(exec);
    list_freed(run, cache, list, new_lengths, out);
    return run.result();
  }

  /// 2 launches.
  template <class Policy, class Cache>
  static status collect_due(Exec const& exec, Policy const& policy, Cache const& cache, sequence_list const& list,
                            row_state const& state, std::int32_t* due_slots, std::int32_t* due_count) {
    eviction_config const config = policy.config;
    visit_kernel<Cache, typename Policy::budget_type, reader<statistics<>>> body;
    body.list = list;
    body.questions.cache = cache;
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
        : policy(rule),
          cache(tokens),
          list(sequences),
          memory(carve(tokens, sequences, scratch, max_queries)),
          rows{tokens.shape(), Cache::domain, state, memory.accepted, memory.lengths, sequences.max_count},
          launch(exec) {}

    static call_memory<Policy> carve(Cache const& tokens, sequence_list const& sequences, workspace scratch,
                                     int max_queries) {
      arena arrays(scratch);
      return call_memory<Policy>::take(arrays, tokens.shape(), sequences, max_queries);
    }
    [[nodiscard]] status result() const { return launch.result(); }

    [[nodiscard]] visit_questions<Cache, budget_type, scorer_type> questions(length_limits const& limits) const {
      visit_questions<Cache, budget_type, scorer_type> made;
      made.cache = cache;
      made.state = rows.state;
      made.limits = limits;
      made.config = policy.config;
      made.budget = policy.budget;
      made.scorer = policy.scorer;
      return made;
    }
    template <class Target = in_place>
    void visit(visit_questions<Cache, budget_type, scorer_type> const& asked, list_question const& given = {},
               chunk_question const& chunk = {}, token_writes writes = token_writes::none, Target const& target = {}) {
      visit_kernel<Cache, budget_type, scorer_type, Target> body;
      body.list = list;
      body.questions = asked;
      body.given = given;
      body.chunk = chunk;
      body.writes = writes;
      body.target = target;
      body.accepted = memory.accepted;
      body.lengths = memory.lengths;
      body.kept_count = memory.kept_count;
      launch(list.max_count, body);
    }

    /// Observes a window into `out`, and runs what comes after in the same kernel: on tensor cores where the types, the
    /// dimension and the statistics allow it.
    template <class Query, log_base Base, class After>
    void observe(observation<Query, Base> const& window, statistics_rows<float> const& out, After const& after) {
      if constexpr (window_list::size > 0) {
        using pass_type = window_pass<Cache, Query, Base>;
        pass_type pass{rows, cache, window};
        if (window.lse == nullptr) pass.sums = {memory.sums, list.max_length, window.max_queries};
        if (window.continues) pass.begun = memory.begun;
        if constexpr (!std::is_void_v<pass_element<pass_type>> && folds<window_list>::mergeable) {
          bool const done = with_tensor_dims<fixed_key_head_dim<Cache>()>(
              cache.shape().key_head_dim, [&](auto dims) { observe_on<decltype(dims)::value>(pass, out, after); });
          if (done) return;
        }
        lse_kernel<Cache, Query, Base> const first{pass};
        if (window.lse == nullptr) launch(rows.blocks(first.blocks_per_row()), first);
        observe_kernel<window_list, Cache, Query, Base, After> const body{pass, out, after, list.max_length};
        launch(rows.blocks(body.tiles()), body);
      }
    }
    template <int Dims, class Pass, class After>
    void observe_on(Pass const& pass, statistics_rows<float> const& out, After const& after) {
      tensor_lse_kernel<Dims, Pass> const first{pass};
      if (pass.window.lse == nullptr) launch(rows.blocks(first.blocks_per_row()), first);
      auto const with = [&](auto const& sink) {
        tensor_observe_kernel<Dims, Pass, std::remove_cvref_t<decltype(sink)>> const body{pass, sink, list.max_length};
        launch(rows.blocks(body.tiles()), body);
      };
      // The judge's values are multiplied in the type of queries and keys.
      using element = pass_element<Pass>;
      if constexpr (is_judged<After> && std::same_as<tensor_element<element, value_element<Cache>>, element>)
        with(judge_sink<After>{after});
      else
        with(statistics_sink<window_list, Pass, After>{pass, out, after});
    }

    /// Window statistics of the call's rows: observed now, or found where they were observed before.
    template <class Query, log_base Base>
    observed_rows observed(observation<Query, Base> const& window) {
      observe(window, {memory.observed, list.max_length, false}, no_stage{});
      return {memory.observed, list.max_length, false};
    }
    template <class List>
    observed_rows observed(foresightkv::observed<List> const& window) {
      static_assert(std::same_as<List, window_list>,
                    "foresightkv: observed statistics must be those that the policy reads: window_statistics<reads>");
      return {window.statistics.data, window.statistics.capacity, true};
    }

    template <class Window>
    using stage_of = score_stage<Cache, Window, reads, scorer_type>;
    template <class Window>
    [[nodiscard]] stage_of<Window> scoring(Window const& window) const {
      stage_of<Window> stage;
      stage.rows = rows;
      stage.cache = cache;
      stage.window = window;
      stage.scorer = policy.scorer;
      stage.config = policy.config;
      stage.observed = {memory.observed, list.max_length, false};
      stage.carried = memory.carried;
      stage.temporary = memory.temporary;
      stage.temporary_stride = memory.temporary_stride;
      stage.max_length = list.max_length;
      return stage;
    }
    /// A scorer that sees a token at a time runs where the token's statistics are made.
    template <class Window>
    void score(Window const& window, stage_of<Window> stage) {
      if constexpr (is_observation<Window> && window_list::size > 0 && !stage_of<Window>::whole_rows) {
        observe(window, {memory.observed, list.max_length, false}, stage);
      } else {
        stage.observed = observed(window);
        score_kernel<stage_of<Window>> const body{stage};
        launch(rows.blocks(body.tiles()), body);
      }
    }

    [[nodiscard]] list_targets own_lists(selection const& wanted) const {
      return {wanted, memory.kept, memory.evicted, memory.evicted_count, memory.kept_count, list.max_length};
    }
    struct score_source {
      float const* data;
      int capacity;
      bool by_row;
    };
    template <int Threads, int Items, bool InRegisters = true, int Cluster = 1>
    using chooser_of = row_chooser<typename Policy::selector_type, budget_type, Policy::compaction_type::moves_tokens,
                                   Threads, Items, InRegisters, Cluster>;
    using longest_chooser = chooser_of<512, 32>;
    template <int Cluster>
    using cluster_chooser = chooser_of<512, 32, true, Cluster>;
    using memory_chooser = chooser_of<512, 16, false>;

    template <class Chooser, class Start>
    void choose_by(score_source const& scores, Start const& start) {
      Chooser chooser;
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
    }
    /// start(chooser), by the first of these instances that has room for a row of so many tokens; the last has for any.
    template <class First, class... Others, class Start>
    void choose_among(int longest, score_source const& scores, Start const& start) {
      if constexpr (sizeof...(Others) > 0)
        if (longest > First::longest) return choose_among<Others...>(longest, scores, start);
      choose_by<First>(scores, start);
    }
    /// Which instance follows from the longest row that the host promised.
    template <class Start>
    void choose(score_source const& scores, Start const& start) {
      if (list.max_length > longest_chooser::longest) return choose_long(scores, start);
      choose_among<chooser_of<128, 8>, chooser_of<256, 8>, chooser_of<256, 16>, longest_chooser>(list.max_length,
                                                                                                 scores, start);
    }
    /// The same for rows that are too long for one block's registers.
    template <class Start>
    void choose_long(score_source const& scores, Start const& start) {
      int const longest = launch.clusters() ? list.max_length : no_limit;
      choose_among<cluster_chooser<2>, cluster_chooser<4>, cluster_chooser<8>, memory_chooser>(longest, scores, start);
    }
    template <class Chooser>
    void select(Chooser const& chooser, list_targets const& targets, std::int32_t* new_lengths) {
      select_kernel<Chooser> body;
      body.chooser = chooser;
      body.lists = targets;
      body.new_lengths = new_lengths;
      launch(rows.blocks(Chooser::cluster), body);
    }

    /// What an eviction writes beside cache and state.
    struct cut_target {
      selection wanted;
      std::int32_t* new_lengths;
      bool moves;
    };
    /// Selects and compacts; before that a block may do something else for its row.
    template <class Chooser, class Before>
    void cut(Chooser const& chooser, cut_target const& target, Before const& before) {
      if constexpr (Chooser::keys_type::in_registers && Chooser::cluster == 1) {
        evict_kernel<Cache, typename Policy::compaction_type, Chooser, Before> body;
        body.chooser = chooser;
        body.cache = cache;
        body.before = before;
        body.wanted = target.wanted;
        body.new_lengths = target.new_lengths;
        body.moves = target.moves;
        body.carried = memory.carried;
        body.slots = memory.kept;
        body.max_length = list.max_length;
        launch(rows.blocks(1), body);
      } else {
        select(chooser, own_lists(target.wanted), target.new_lengths);
        auto const body = compaction();
        if (target.moves) launch(rows.blocks(body.parts()), body);
      }
    }
    /// Scores and cuts all rows.
    template <class Window>
    void evict(Window const& window, stage_of<Window> stage, cut_target const& target) {
      score_source const scores{stage.scores, stage.scores_capacity, false};
      auto const cut_alone = [&](auto const& chooser) { cut(chooser, target, no_stage{}); };
      if constexpr (!stage_of<Window>::whole_rows) {
        score(window, stage);
        choose(scores, cut_alone);
      } else if (list.max_length > longest_chooser::longest) {
        score(window, stage);
        choose_long(scores, cut_alone);
      } else {
        stage.observed = observed(window);
        auto const score_and_cut = [&](auto const& chooser) { cut(chooser, target, stage); };
        choose_among<chooser_of<256, 16>, longest_chooser>(list.max_length, scores, score_and_cut);
      }
    }

    template <class Target>
    void move_into(Target const& target, kept_lists const& kept, std::int32_t* new_lengths, bool copies) {
      into_kernel<Cache, Target> body;
      body.rows = rows;
      body.rows.domain = Target::domain;
      body.cache = cache;
      body.target = target;
      body.kept = kept;
      body.carried = memory.carried;
      body.max_length = list.max_length;
      body.new_lengths = new_lengths;
      body.moved = memory.begun;
      body.copies = copies;
      launch(rows.blocks(body.parts()), body);
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
