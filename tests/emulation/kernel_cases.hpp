// SPDX-License-Identifier: Apache-2.0
#pragma once

// Calls that between them run every kernel body through all that it can do, on a given emulated context. For tests that
// run the same call under many schedules, with faults, and under ThreadSanitizer.

#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include <foresightkv/golden/eviction.hpp>
#include <foresightkv/training/ranking_hinge.hpp>

#include "support/compaction_bench.hpp"
#include "support/execution.hpp"
#include "support/golden_oracle.hpp"
#include "support/paged_memory.hpp"
#include "support/policy_bench.hpp"
#include "support/random_judges.hpp"
#include "support/select_bench.hpp"

namespace testing {

/// A call and all that it wrote. The same bytes whatever the schedule.
struct kernel_case {
  std::string name;
  std::function<std::vector<std::byte>(execution const&)> run;
};

/// A call that the library refuses is a broken case; what a context reports passes through.
inline void require_ok(fkv::status done) {
  if (!done.ok()) throw std::runtime_error(done.message());
}

/// Collects the bytes of everything that a call may have written.
class written {
 public:
  template <class Element>
  void add(guarded<Element> const& values) {
    add(values.data(), values.size());
  }
  template <class Element>
  void add(std::vector<Element> const& values) {
    add(values.data(), values.size());
  }
  template <class Element>
  void add(Element const* values, std::size_t count) {
    auto const* const first = reinterpret_cast<std::byte const*>(values);
    bytes.insert(bytes.end(), first, first + count * sizeof(Element));
  }
  template <class Bench>
  void add_bench(Bench const& made) {
    add(made.cache.keys);
    add(made.cache.values);
    add(made.state.memory);
    add(made.statistics.values);
    add(made.scores.values);
    add(made.lists.kept);
    add(made.lists.evicted);
    add(made.lists.evicted_count);
    add(made.lists.evicted_positions);
    add(made.new_lengths);
  }
  std::vector<std::byte> bytes;
};

namespace cases {

/// How large the rows are: a block of real threads is thousands of times slower than one of fibers.
struct extent {
  bool small = false;

  [[nodiscard]] fkv::eviction_config config() const {
    return small ? fkv::eviction_config{.budget = 34, .interval = 8, .recent_tokens = 6, .sink_tokens = 2}
                 : fkv::eviction_config{.budget = 130, .interval = 40, .recent_tokens = 20, .sink_tokens = 3};
  }
  [[nodiscard]] int length(int tokens) const { return small ? tokens / 4 : tokens; }
  [[nodiscard]] int queries(int count) const { return small ? 3 : count; }
  [[nodiscard]] fkv::cache_shape shape(int capacity, int dim) const {
    int const few = small ? 1 : 2;
    return {.num_layers = 1,
            .num_sequences = few,
            .num_kv_heads = few,
            .group = few,
            .key_head_dim = dim,
            .value_head_dim = 12,
            .capacity = capacity};
  }
};

/// A scorer of both kinds, combined: softmaxes, sums, borrowed rows, statistics of every kind.
using mixed = fkv::weighted_sum<fkv::standardised<fkv::group_sum<fkv::accumulated>>, fkv::softmax<fkv::key_diff>,
                                fkv::group_max<fkv::last<8>>>;

/// Reads a statistic of every kind, a token at a time.
struct spread {
  using reads = fkv::statistics<fkv::maximum, fkv::minimum, fkv::sum, fkv::last<1>, fkv::last<8>, fkv::last<32>,
                                fkv::sum_of_squares>;
  template <class Lanes, class Token>
  float operator()(Lanes const&, Token const& token) const {
    return token.mean(fkv::maximum{}) + token.mean(fkv::minimum{}) + token.mean(fkv::sum{}) +
           token.mean(fkv::last<1>{}) + token.mean(fkv::last<8>{}) - token.mean(fkv::last<32>{}) +
           token.mean(fkv::sum_of_squares{});
  }
};

template <class Scorer, class Selector, class Compaction>
using policy_of = fkv::policy<fkv::eviction_config, Scorer, Selector, Compaction>;

template <class Policy, class Element = float>
policy_bench<Policy, Element> bench_of(extent const& size, execution const& exec,
                                       typename Policy::scorer_type const& scorer, int tokens, int queries,
                                       int dim = 20) {
  policy_bench<Policy, Element> made(7, Policy{size.config(), scorer, {}, {}, {}}, size.shape(size.length(tokens), dim),
                                     size.queries(queries));
  made.exec = exec;
  return made;
}

template <class Bench>
std::vector<std::byte> bytes_of(Bench const& made) {
  written all;
  all.add_bench(made);
  return all.bytes;
}

template <class Scorer, class Selector, class Compaction, class Element = float>
kernel_case evict(extent size, std::string name, Scorer const& scorer, history before, int tokens, int queries = 37) {
  return {std::move(name), [=](execution const& exec) {
            auto made =
                bench_of<policy_of<Scorer, Selector, Compaction>, Element>(size, exec, scorer, tokens, queries, 40);
            for (int sequence = 0; sequence < made.shape.num_sequences; ++sequence)
              made.place(sequence, before, made.shape.capacity - sequence);
            require_ok(made.evict(made.window.view()));
            return bytes_of(made);
          }};
}

inline void give(fkv::foresight<>& judge, fkv::judge_weights const& weights) { judge.weights = weights; }
using one_term = fkv::weighted_sum<fkv::foresight<>>;
inline void give(one_term& sum, fkv::judge_weights const& weights) { sum = one_term{1.0f, {weights}}; }

template <class Scorer, class Element>
kernel_case judge(extent size, std::string name, int tokens, int queries) {
  return {std::move(name), [=](execution const& exec) {
            using policy_type = policy_of<Scorer, fkv::top_k, fkv::fill_holes>;
            auto made = bench_of<policy_type, Element>(size, exec, {}, tokens, queries);
            random_judges const judges({1, made.shape.num_kv_heads, made.shape.group, 20, 12}, made.random);
            give(made.policy.scorer, judges.view());
            for (int sequence = 0; sequence < made.shape.num_sequences; ++sequence)
              made.place(sequence, history::filled, made.shape.capacity);
            require_ok(made.evict(made.window.view()));
            return bytes_of(made);
          }};
}

inline kernel_case stages(extent size, mixed const& scorer) {
  return {"stages one by one", [=](execution const& exec) {
            auto made = bench_of<policy_of<mixed, fkv::top_k, fkv::ordered>>(size, exec, scorer, 190, 33);
            made.place(0, history::ordered, made.shape.capacity);
            require_ok(made.observe());
            require_ok(made.carry(made.observed()));
            require_ok(made.score(made.observed()));
            require_ok(made.select());
            require_ok(made.compact());
            return bytes_of(made);
          }};
}

/// Rows of many equal scores, some longer than what fits into registers of one block or, without clusters, of several.
template <class Selector>
kernel_case select(std::string name, int length, bool clusters = true) {
  return {std::move(name), [=](execution exec) {
            exec.clusters = clusters;
            using policy_type = select_policy<Selector>;
            select_bench<policy_type> made(11, small_shape(2, length));
            made.place(0, history::pristine, length);
            for (float& score : made.scores.values) score = static_cast<float>(made.random.integer(0, 40)) - 20.0f;
            made.budgets[0] = length - length / 3;
            made.policy.budget.budgets = made.budgets.data();
            auto work = owned_workspace(fkv::evict_bytes(exec, policy_type{}, made.shape, made.list(), 0));
            require_ok(
                fkv::select(exec, fkv::batch{made.policy, made.cache.view(), made.list(), made.state.view, work.view()},
                            made.scores.view(), made.lists.view()));
            written all;
            all.add(made.lists.kept);
            all.add(made.lists.evicted);
            all.add(made.lists.evicted_count);
            return all.bytes;
          }};
}

/// Rows of many equal scores and empty slots, chosen by smaller clusters than those of the verbs.
template <class Selector, int Threads, int Items, int Cluster>
kernel_case select_in_cluster(std::string name, int length) {
  return {std::move(name), [=](execution const& exec) {
            namespace kernels = fkv::detail::kernels;
            using chooser_type =
                kernels::row_chooser<Selector, fkv::per_sequence, false, Threads, Items, true, Cluster>;
            select_bench<select_policy<Selector, fkv::slot_list>> made(17, small_shape(2, length));
            made.place(0, history::holes, length);
            for (float& score : made.scores.values) score = static_cast<float>(made.random.integer(0, 12)) - 6.0f;
            made.budgets[0] = length / 3;
            std::vector<std::int32_t> const accepted{0};
            std::vector<std::int32_t> new_length{-7};
            chooser_type chooser;
            auto const cache = made.cache.view();
            auto const lengths = lengths_by_place(cache);
            chooser.rows = {cache.shape(), cache.domain, made.state.view, accepted.data(), lengths.data(), 1};
            chooser.config = made.policy.config;
            chooser.budget.budgets = made.budgets.data();
            chooser.scores = made.scores.values.data();
            chooser.scores_capacity = length;
            chooser.scores_by_row = true;
            chooser.max_length = length;
            kernels::list_targets targets;
            targets.wanted = made.lists.view();
            targets.max_length = length;
            kernels::select_kernel<chooser_type> const body{chooser, targets, new_length.data()};
            require_ok(kernels::launcher<execution>::run(exec, 2 * Cluster, body));
            written all;
            all.add(made.lists.kept);
            all.add(made.lists.evicted);
            all.add(made.lists.evicted_count);
            all.add(made.lists.evicted_positions);
            all.add(new_length);
            return all.bytes;
          }};
}

/// More sequences than a block has threads, listed in no order, some twice.
inline kernel_case due(extent size) {
  return {
      "collect_due: a long list", [=](execution const& exec) {
        using policy_type = policy_of<fkv::key_norm, fkv::top_k, fkv::ordered>;
        int const entries = size.small ? 24 : 800;
        auto extents = size.shape(size.length(200), 1);
        extents.num_sequences = entries - entries / 8;
        policy_bench<policy_type> made(12, policy_type{size.config(), {}, {}, {}, {}}, extents, 1);
        made.place(history::pristine);
        std::vector<std::int32_t> slots, listed(static_cast<std::size_t>(entries), -5), count(1, -5);
        for (int i = 0; i < entries; ++i) slots.push_back(made.random.integer(0, extents.num_sequences - 1));
        require_ok(fkv::collect_due(
            exec, fkv::batch{made.policy, made.cache.view(), {slots.data(), nullptr, entries, 200}, made.state.view},
            listed.data(), count.data()));
        written all;
        all.add(listed.data(), static_cast<std::size_t>(count[0]));
        all.add(count);
        return all.bytes;
      }};
}

/// Lists that name slots out of order in some rows.
inline kernel_case broken_lists() {
  return {"compact: lists that do not fit", [](execution const& exec) {
            compaction_bench<fkv::ordered> made(13, 90);
            made.place(history::ordered);
            for (int& budget : made.budgets) budget = 20;
            made.policy.budget.budgets = made.budgets.data();
            for (float& score : made.scores.values) score = made.random.normal();
            made.exec = exec;
            require_ok(made.select());
            made.each_row([&](fkv::row_index at) {
              int const row = made.shape.row(at);
              if (at.sequence == 0 && made.lists.count(row) > 2) made.lists.evicted[made.lists.view().at(row) + 1] = 0;
            });
            require_ok(made.compact());
            return bytes_of(made);
          }};
}

/// Tokens join and leave, sequences are copied, saved, restored and started anew.
inline kernel_case lifecycle(extent size) {
  return {
      "append, fork, save, restore, reset", [=](execution const& exec) {
        using policy_type = policy_of<fkv::accumulated_sum, fkv::top_k, fkv::slot_list>;
        auto extents = size.shape(size.length(180), 4);
        extents.num_sequences = 4;
        policy_bench<policy_type> made(16, policy_type{size.config(), {}, {}, {}, {}}, extents, 1);
        for (int sequence = 0; sequence < 4; ++sequence)
          made.place(sequence, sequence == 3 ? history::pristine : history::holes, extents.capacity - 4);
        fkv::row_state const& state = made.state.view;
        for (int row = 0; row < extents.num_rows(); ++row) {  // as if every token had been seen
          auto const slots = made.positions[static_cast<std::size_t>(row)].size();
          std::copy_n(made.positions[static_cast<std::size_t>(row)].data(), slots,
                      state.position + state.column(row, 0));
          std::fill_n(state.carried_at(row, 0), slots * static_cast<std::size_t>(state.num_carried * state.group),
                      1.5f);
          state.seen_length[row] = static_cast<int>(slots);
          state.next_position[row] = made.row_end[static_cast<std::size_t>(row)];
        }
        std::vector<std::int32_t> const counts{30, -2, 3, 2}, back{0, 5, -9, -1}, sources{0, 1, 3}, targets{1, 2, 3};
        std::vector<std::byte> saved(fkv::save_bytes(state));
        auto const change = [&](std::vector<std::int32_t> const& by) {  // the cache has changed already
          for (std::size_t s = 0; s < 4; ++s)
            made.cache.lengths[s] =
                state.seen_length[state.row({0, static_cast<int>(s), 0})] + (s == 3 ? by[s] : std::max(by[s], 0));
          require_ok(
              fkv::append(exec, fkv::batch{made.policy, made.cache.view(), made.list(), made.state.view}, by.data()));
        };
        change(counts);
        change(back);
        require_ok(fkv::save(exec, state, 2, {saved.data(), saved.size()}));
        require_ok(fkv::fork(exec, state, {sources.data(), targets.data(), 3}));
        require_ok(fkv::restore(exec, state, 0, {saved.data(), saved.size()}));
        saved[8] ^= std::byte{1};
        require_ok(fkv::restore(exec, state, 1, {saved.data(), saved.size()}));
        made.slots = {3, 3};
        require_ok(fkv::reset(exec, state, made.list()));
        written all;
        all.add(made.state.memory);
        all.add(saved);
        return all.bytes;
      }};
}

/// Pages of one token: a table that names a page twice, one whose pages others read too, and lists of freed pages.
inline kernel_case pages() {
  return {
      "evict: pages", [](execution const& exec) {
        using policy_type = policy_of<fkv::key_norm, fkv::top_k, fkv::ordered>;
        extent const size;
        auto extents = size.shape(200, 12);
        extents.num_sequences = 3;
        policy_bench<policy_type> made(19, policy_type{size.config(), {}, {}, {}, {}}, extents, 1);
        for (int sequence = 0; sequence < 3; ++sequence) made.place(sequence, history::pristine, 200 - sequence);
        paged_memory<float> memory(made.random, extents, 1, paging::nhd);
        memory.load(made.cache);
        memory.owners = guarded<std::int32_t>(static_cast<std::size_t>(memory.num_pages), 1);
        memory.entry({0, 0, 0}, 150) = memory.entry({0, 0, 0}, 77);
        memory.owners[static_cast<std::size_t>(memory.entry({0, 1, 0}, 111))] = 2;
        owned_page_list freed(3, 200);
        auto work = workspace_for<policy_type>(extents, made.list(), 1, exec);
        require_ok(fkv::evict(exec, fkv::batch{made.policy, memory.view(), made.list(), made.state.view, work.view()},
                              made.window.view(), {.new_lengths = made.new_lengths.data(), .freed = freed.view()}));
        written all;
        all.add(made.state.memory);
        all.add(made.new_lengths);
        all.add(memory.keys);
        all.add(memory.values);
        all.add(freed.pages);
        all.add(freed.counts);
        return all.bytes;
      }};
}

/// Drafts are taken back, from holes in pages of one token: some pages are others' too, and of one sequence no row may
/// lose what another one has lost already. Then from rows whose slots stay, of which the state has seen a part.
inline kernel_case take_back(extent size) {
  return {"take_back: pages, and slots that stay", [=](execution const& exec) {
            auto extents = size.shape(size.length(240), 12);
            extents.num_sequences = 4;
            int const length = extents.capacity - 2;
            written all;
            auto const run = [&](auto& made, auto const& cache, std::vector<std::int32_t> const& counts) {
              using policy_type = typename std::remove_reference_t<decltype(made)>::policy_type;
              auto work = workspace_for<policy_type>(extents, made.list(), 0, exec);
              fkv::batch const rows{made.policy, cache, made.list(), made.state.view, work.view()};
              require_ok(fkv::take_back(exec, rows, counts.data(), made.new_lengths.data()));
              all.add(made.state.memory);
              all.add(made.new_lengths);
            };
            using filled = policy_of<fkv::accumulated_sum, fkv::top_k, fkv::fill_holes>;
            policy_bench<filled> made(29, filled{size.config(), {}, {}, {}, {}}, extents, 1);
            for (int s = 0; s < 4; ++s) made.place(s, history::filled, length);
            fkv::row_state const& state = made.state.view;
            for (int row = 0; row < extents.num_rows(); ++row) {  // every row has its newest tokens in other slots
              for (int slot = 0; slot < length; ++slot)
                state.position[state.column(row, slot)] = (slot * 7 + row) % length;
              std::fill_n(state.carried_at(row, 0), length * state.group, 0.25f);
              for (int slot = 0; slot < length; ++slot) state.carried_at(row, slot)[0] = static_cast<float>(slot);
              state.seen_length[row] = state.next_position[row] = length;
            }
            state.position[state.column(state.row({0, 2, extents.num_kv_heads - 1}), 5)] = 0;
            paged_memory<float> memory(made.random, extents, 1, paging::nhd);
            memory.load(made.cache);
            memory.owners = guarded<std::int32_t>(static_cast<std::size_t>(memory.num_pages), 1);
            memory.owners[static_cast<std::size_t>(memory.entry({0, 1, 0}, length / 2))] = 2;
            run(made, memory.view(), {length / 4, length / 4, length, 3});
            all.add(memory.keys);
            all.add(memory.values);
            using empty = policy_of<fkv::accumulated_sum, fkv::top_k, fkv::slot_list>;
            policy_bench<empty> slots(31, empty{size.config(), {}, {}, {}, {}}, extents, 1);
            for (int s = 0; s < 4; ++s) slots.place(s, history::holes, length - s);
            run(slots, slots.cache.view(), {1, length / 3, 4, -1});
            return all.bytes;
          }};
}

/// Into pages of one token: a row without room, a table that names a page twice, pages that others read too, a row that
/// keeps more than it has room for; one row is copied as bytes, one by one becomes int8.
inline kernel_case into_pages(extent size) {
  return {"into: pages, and int8", [=](execution const& exec) {
            using policy_type = policy_of<fkv::accumulated_sum, fkv::top_k, fkv::ordered>;
            using int8_cache = fkv::dense_cache<fkv::scaled_by_token<std::int8_t>>;
            int const longest = size.length(300), budget = longest - 40;
            auto extents = size.shape(longest, 20);
            extents.num_sequences = 6;
            extents.value_head_dim = 20;
            policy_bench<policy_type> made(23, policy_type{size.config(), {}, {}, {}, {}}, extents, 9);
            made.policy.config.budget = budget;
            for (int sequence = 0; sequence < 6; ++sequence) made.place(sequence, history::ordered, longest - sequence);
            auto again = made;
            paged_memory<float> memory(made.random, extents, 1, paging::nhd);
            std::fill(memory.lengths.begin(), memory.lengths.end(), longest - 10);
            memory.publish();
            memory.owners = guarded<std::int32_t>(static_cast<std::size_t>(memory.num_pages), 1);
            memory.lengths[0] = -1;
            memory.entry({0, 1, 0}, longest - 50) = memory.entry({0, 1, 0}, longest / 4);
            memory.owners[static_cast<std::size_t>(memory.entry({0, 2, 0}, longest - 60))] = 2;
            memory.lengths[3] = budget - 1;
            owned_page_list freed(6, longest);
            owned_workspace work(fkv::evict_into_bytes(exec, policy_type{}, extents, made.list(), 9));
            auto const rows_of = [&](auto& bench) {
              return fkv::batch{bench.policy, bench.cache.view(), bench.list(), bench.state.view, work.view()};
            };
            require_ok(fkv::evict(exec, rows_of(made).into(memory.view()), made.window.view(),
                                  {.new_lengths = made.new_lengths.data(), .freed = freed.view()}));
            auto const tokens = static_cast<std::size_t>(extents.num_rows() * extents.capacity);
            guarded<std::int8_t> keys(tokens * 20), values(tokens * 20);
            guarded<float> key_scales(tokens), value_scales(tokens);
            guarded<std::int32_t> const rooms(6, longest - 10);
            auto const target = int8_cache::hnd(keys.data(), values.data(), rooms.data(), extents)
                                    .with_scales(key_scales.data(), value_scales.data());
            require_ok(fkv::score(exec, rows_of(again), again.window.view(), again.scores.view()));
            require_ok(fkv::select(exec, rows_of(again), again.scores.view(), again.lists.view()));
            require_ok(fkv::compact(exec, rows_of(again).into(target), again.lists.view(), again.new_lengths.data()));
            written all;
            all.add_bench(made);
            all.add(memory.keys);
            all.add(memory.values);
            all.add(freed.pages);
            all.add(freed.counts);
            all.add_bench(again);
            all.add(keys);
            all.add(values);
            all.add(key_scales);
            all.add(value_scales);
            return all.bytes;
          }};
}

/// Counts pairs of many equal labels, at a few distances.
inline kernel_case hinge(bool small) {
  return {"ranking_hinge", [=](execution const& exec) {
            int const rows = small ? 2 : 5, n = small ? 40 : 300;
            guarded<float> scores(static_cast<std::size_t>(rows * n)), labels(scores.size()), gradient(scores.size());
            random_source random(18);
            for (float& score : scores) score = 0.01f * random.normal();
            for (float& label : labels) label = static_cast<float>(random.integer(0, 9));
            std::fill_n(labels.begin(), n, 3.0f);  // a row without pairs
            fkv::training::ranking_rows<float> const input{scores.data(), labels.data(), rows, n};
            fkv::training::hinge_config const config{.num_shifts = 7};
            std::vector<fkv::training::hinge_result> result(1);
            owned_workspace work(fkv::training::ranking_hinge_bytes(exec, input, config));
            require_ok(fkv::training::ranking_hinge(exec, config, input, gradient.data(), result.data(), work.view()));
            written all;
            all.add(gradient);
            all.add(&result[0].loss, 1);
            all.add(&result[0].active, 1);
            all.add(&result[0].pairs, 1);
            return all.bytes;
          }};
}

/// Streams from queries and keys, or takes block means of many equal values.
inline kernel_case golden(std::string name, bool streams, int budget, fkv::golden_reduction reduction) {
  return {std::move(name), [=](execution const& exec) {
            fkv::golden_config const config{.budget = budget, .interval = budget / 2, .reduction = reduction};
            int const tokens = 3 * budget + 9, steps = config.steps(tokens);
            auto const given = golden_oracle::random_problem({2, 2, streams ? tokens : 0, 40}, 14);
            guarded<float> means(static_cast<std::size_t>(streams ? 0 : 2 * steps * tokens));
            random_source random(15);
            for (float& mean : means) mean = static_cast<float>(random.integer(0, 40));
            auto const view = fkv::golden_means::block_major(means.data(), 2, tokens, steps);
            auto const rows = static_cast<std::size_t>(2 * steps);
            guarded<float> labels(rows * static_cast<std::size_t>(budget)),
                future(rows * static_cast<std::size_t>(tokens));
            guarded<std::int32_t> evicted(rows * static_cast<std::size_t>(config.interval)), positions(evicted.size());
            fkv::golden_output const output{labels.data(), evicted.data(), positions.data(), future.data()};
            owned_workspace work(streams ? fkv::golden_eviction_bytes(exec, config, given.shape)
                                         : fkv::golden_eviction_bytes(exec, config, view));
            require_ok(streams ? fkv::golden_eviction(exec, config, given.input(), output, work.view())
                               : fkv::golden_eviction(exec, config, view, output, work.view()));
            written all;
            all.add(labels);
            all.add(future);
            all.add(evicted);
            all.add(positions);
            return all.bytes;
          }};
}

}  // namespace cases

/// All calls; the small ones are for blocks of real threads.
inline std::vector<kernel_case> kernel_cases(bool small = false) {
  using fkv::sampled_top_k, fkv::top_k, cases::evict;
  cases::extent const size{small};
  cases::mixed const mixed{0.5f, {}, 1.0f, {}, 0.3f, {}};
  std::vector<kernel_case> all;
  all.push_back(evict<cases::mixed, top_k, fkv::ordered>(size, "evict: mixed, ordered", mixed, history::ordered, 290));
  all.push_back(evict<cases::mixed, sampled_top_k, fkv::slot_list>(size, "evict: mixed, sampled, slot_list", mixed,
                                                                   history::holes, 150));
  all.push_back(evict<fkv::r_kv<>, top_k, fkv::ordered>(size, "evict: r_kv", {}, history::ordered, 150));
  all.push_back(evict<fkv::window_sum, top_k, fkv::fill_holes>(size, "evict: window_sum", {}, history::pristine, 200));
  all.push_back(cases::judge<fkv::foresight<>, float>(size, "evict: judge, fill_holes", 171, 21));
  all.push_back(cases::judge<fkv::foresight<>, fkv::bfloat16>(size, "evict: judge on matrix units", 230, 90));
  all.push_back(cases::judge<cases::one_term, fkv::half>(size, "evict: judge as a term, on matrix units", 300, 9));
  all.push_back(evict<cases::spread, top_k, fkv::ordered, fkv::half>(size, "evict: statistics on matrix units", {},
                                                                     history::pristine, 230, 70));
  all.push_back(evict<fkv::accumulated_sum, top_k, fkv::fill_holes>(size, "evict: accumulated_sum, empty slots filled",
                                                                    {}, history::holes, 200));
  all.push_back(cases::stages(size, mixed));
  all.push_back(cases::due(size));
  all.push_back(cases::lifecycle(size));
  all.push_back(cases::take_back(size));
  all.push_back(cases::hinge(small));
  if (!small) all.push_back(cases::broken_lists());
  if (!small) all.push_back(cases::pages());
  all.push_back(cases::into_pages(size));
  using fkv::golden_reduction;
  if (!small) {
    all.push_back(cases::golden("golden_eviction: streaming", true, 72, golden_reduction::mean));
    all.push_back(cases::golden("golden_eviction: streaming, maximum", true, 40, golden_reduction::maximum));
    all.push_back(cases::golden("golden_eviction: in memory", false, 9000, golden_reduction::mean));
  }
  all.push_back(cases::golden("golden_eviction: in registers", false, small ? 300 : 1200, golden_reduction::mean));
  all.push_back(cases::select<top_k>("select: in registers", small ? 300 : 2040));
  all.push_back(cases::select_in_cluster<sampled_top_k, 64, 8, 2>("select: sampled, in a cluster", 900));
  if (small) return all;
  all.push_back(cases::select_in_cluster<top_k, 64, 4, 4>("select: in a cluster of four", 1000));
  all.push_back(cases::select<sampled_top_k>("select: sampled, in registers", 4000));
  all.push_back(cases::select<sampled_top_k>("select: sampled, in memory", 20000, false));
  return all;
}

}  // namespace testing
