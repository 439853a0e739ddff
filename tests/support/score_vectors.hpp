// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "support/no_scorer.hpp"
#include "support/run_vectors.hpp"

namespace testing {

/// The judge on statistics that the file gives: six observed ones, two carried ones.
template <class Element>
void check_judge_scores(vector_file const& file) {
  using policy_type = judge_policy<fkv::paper>;
  using window_list = fkv::window_statistics<policy_type::reads>;
  int const heads = file.integer("kv_heads");
  int const group = file.integer("group");
  int const dim = file.integer("head_dim");
  int const tokens = file.integer("tokens");
  fkv::cache_shape const shape{.num_layers = 1,
                               .num_sequences = 1,
                               .num_kv_heads = heads,
                               .group = group,
                               .key_head_dim = dim,
                               .value_head_dim = dim,
                               .capacity = tokens};
  auto const keys = file.floats("k", {heads, tokens, dim});
  auto const values = file.floats("v", {heads, tokens, dim});
  auto const features = file.floats("stats", {heads, tokens, 8 * group});
  owned_cache<Element> cache(shape, tokens);
  bool exact = true;  // what the file holds is rounded already
  for (std::size_t i = 0; i < keys.size(); ++i) {
    cache.keys[i] = fkv::element_traits<Element>::store(keys[i]);
    cache.values[i] = fkv::element_traits<Element>::store(values[i]);
    exact = exact && fkv::to_float(cache.keys[i]) == keys[i] && fkv::to_float(cache.values[i]) == values[i];
  }
  REQUIRE(exact);

  owned_state<policy_type> state(shape, tokens);
  owned_statistics<window_list> observed(shape, tokens);
  auto const observed_width = static_cast<std::size_t>(6 * group);
  auto const carried_width = static_cast<std::size_t>(2 * group);
  REQUIRE(window_list::size == 6);
  for (int head = 0; head < heads; ++head) {
    state.view.seen_length[head] = tokens;
    state.view.next_position[head] = tokens;
    for (int slot = 0; slot < tokens; ++slot) {
      auto const token = static_cast<std::size_t>(head * tokens + slot);
      float const* const row = features.data() + token * (observed_width + carried_width);
      std::copy_n(row, observed_width, observed.values.data() + token * observed_width);
      std::copy_n(row + observed_width, carried_width, state.view.carried_at(head, slot));
      state.view.position[state.view.column(head, slot)] = slot;
    }
  }

  int const evict = file.has("evicted") ? file.extent("evicted", 1) : 0;
  packed_weights const weights(file, heads, group, dim);
  policy_type const policy{{.budget = tokens - evict, .interval = 1, .recent_tokens = 0}, {weights.view()}, {}, {}, {}};
  fkv::sequence_list const list{nullptr, nullptr, 1, tokens};
  auto work = workspace_for<policy_type>(shape, list, 0);
  owned_scores scores(shape, tokens);
  owned_selection lists(shape, tokens);
  fkv::observed<window_list> const window{observed.view()};
  REQUIRE(
      fkv::score(testing::exec, fkv::batch{policy, cache.view(), list, state.view, work.view()}, window, scores.view())
          .ok());
  REQUIRE(fkv::select(testing::exec, fkv::batch{policy, cache.view(), list, state.view, work.view()}, scores.view(),
                      lists.view())
              .ok());

  auto const compare = [&](std::string const& name, double tolerance) {
    worst_difference worst;
    auto const drop = file.floats(name, {heads, tokens});
    for (std::size_t i = 0; i < drop.size(); ++i) worst.add(scores.values[i], -drop[i]);
    INFO(name << " off by " << worst.value());
    CHECK(worst.within(tolerance));
  };
  bool const rounded = !std::is_same_v<Element, float>;
  compare("drop_score", file.number(rounded ? "tol_abs_vs_bf16" : "tol_abs"));
  compare("drop_score_float64", file.number(rounded ? "tol_abs_vs_float64" : "tol_abs"));
  if (evict > 0) {
    auto const evicted = file.ints("evicted", {heads, evict});
    for (int head = 0; head < heads; ++head)
      CHECK(mismatches(lists.evicted_of(head), evicted.data() + head * evict, evict) == 0);
  }
}

inline void check_judge_forward(fkv::io::safetensors_file const& stored) {
  vector_file const file(stored);
  if (file.text("dtype") == "bfloat16") return check_judge_scores<fkv::bfloat16>(file);
  check_judge_scores<float>(file);
}

/// Rows of scores as KV heads, one sequence slot per budget.
template <class Selector>
struct selection_bench {
  using policy_type = fkv::policy<fkv::eviction_config, no_scorer, Selector, fkv::ordered, fkv::per_sequence>;

  fkv::cache_shape shape;
  owned_cache<float> cache;
  owned_state<policy_type> state;
  owned_scores scores;
  owned_selection lists;
  std::vector<std::int32_t> budgets;

  selection_bench(int num_rows, int num_sequences, int tokens)
      : shape{.num_layers = 1,
              .num_sequences = num_sequences,
              .num_kv_heads = num_rows,
              .group = 1,
              .key_head_dim = 1,
              .value_head_dim = 1,
              .capacity = tokens},
        cache(shape, tokens),
        state(shape, tokens),
        scores(shape, tokens),
        lists(shape, tokens),
        budgets(static_cast<std::size_t>(num_sequences), tokens) {}

  void select() {
    policy_type const policy{{.budget = 1, .interval = 1, .recent_tokens = 0}, {}, {}, {}, {budgets.data()}};
    fkv::sequence_list const list{nullptr, nullptr, shape.num_sequences, shape.capacity};
    auto work = workspace_for<policy_type>(shape, list, 0);
    REQUIRE(fkv::select(testing::exec, fkv::batch{policy, cache.view(), list, state.view, work.view()}, scores.view(),
                        lists.view())
                .ok());
    CHECK((lists.intact() && work.memory.intact() && state.intact()));
  }
};

inline void check_selection(fkv::io::safetensors_file const& stored) {
  vector_file const file(stored);
  int const rows = file.extent("drop_score", 0);
  int const tokens = file.extent("drop_score", 1);
  auto const counts = file.integers("k");
  auto const drop = file.floats("drop_score", {rows, tokens});
  selection_bench<fkv::top_k> bench(rows, static_cast<int>(counts.size()), tokens);
  for (std::size_t s = 0; s < counts.size(); ++s) {
    bench.budgets[s] = tokens - counts[s];
    for (std::size_t i = 0; i < drop.size(); ++i) bench.scores.values[s * drop.size() + i] = -drop[i];
  }
  bench.select();
  for (std::size_t s = 0; s < counts.size(); ++s) {
    INFO("k = " << counts[s]);
    for (int row = 0; row < rows; ++row) {
      INFO("row " << row);
      auto const evicted = bench.lists.evicted_of(static_cast<int>(s) * rows + row);
      if (counts[s] == 0) {
        CHECK(evicted.empty());
        continue;
      }
      auto const expected = file.ints("evicted_k" + std::to_string(counts[s]), {rows, counts[s]});
      CHECK(mismatches(evicted, expected.data() + row * counts[s], counts[s]) == 0);
    }
  }
}

/// Frequencies of single tokens and pairs over many requests, within 5 standard errors of the exact
/// probabilities.
inline void check_sampling(fkv::io::safetensors_file const& stored) {
  vector_file const file(stored);
  int const tokens = file.integer("tokens");
  int const sampled = file.integer("sampled");
  auto const drop = file.floats("drop_score", {tokens});
  auto const inclusion = file.floats("inclusion_exact", {tokens});
  auto const pairs = file.floats("pair_exact", {tokens, tokens});
  auto const pool = file.ints("pool", {file.integer("pool")});
  constexpr int heads = 8;
  constexpr int sequences = 500;
  constexpr int steps = 50;
  REQUIRE(file.integer("pool") == std::min(2 * sampled, tokens));  // the published rule
  selection_bench<fkv::sampled_top_k> bench(heads, sequences, tokens);
  for (std::size_t i = 0; i < bench.scores.values.size(); ++i)
    bench.scores.values[i] = -drop[i % static_cast<std::size_t>(tokens)];
  for (int s = 0; s < sequences; ++s) {
    bench.budgets[static_cast<std::size_t>(s)] = tokens - sampled;
    bench.state.view.request_id[s] = static_cast<std::uint32_t>(s);
    bench.state.view.seed[s] = 0x5EEDu;
  }
  std::vector<long> singles(inclusion.size()), doubles(pairs.size());
  long draws = 0;
  long odd = 0;  // rows that do not lose as many tokens as they should
  for (int step = 0; step < steps; ++step) {
    // Step 0 is a pristine row; later steps read the position column, which says the same.
    for (int row = 0; row < bench.shape.num_rows(); ++row) {
      bench.state.view.step[row] = static_cast<std::uint32_t>(step);
      bench.state.view.seen_length[row] = tokens;
      bench.state.view.next_position[row] = tokens;
      for (int slot = 0; slot < tokens; ++slot) bench.state.view.position[bench.state.view.column(row, slot)] = slot;
    }
    bench.select();
    for (int row = 0; row < bench.shape.num_rows(); ++row, ++draws) {
      auto const evicted = bench.lists.evicted_of(row);
      odd += evicted.size() != static_cast<std::size_t>(sampled);
      for (int a : evicted) {
        ++singles[static_cast<std::size_t>(a)];
        for (int b : evicted) doubles[static_cast<std::size_t>(a * tokens + b)] += a != b;
      }
    }
  }
  auto const errors = [&](double probability, long count) {
    double const observed = static_cast<double>(count) / static_cast<double>(draws);
    double const deviation = std::sqrt(probability * (1.0 - probability) / static_cast<double>(draws));
    if (deviation == 0.0) return observed == probability ? 0.0 : 1e9;
    return std::fabs(observed - probability) / deviation;
  };
  CHECK(odd == 0);
  double single_error = 0.0;
  double pair_error = 0.0;
  for (int a = 0; a < tokens; ++a) {
    auto const place = static_cast<std::size_t>(a);
    bool const inside = std::find(pool.begin(), pool.end(), a) != pool.end();
    CHECK((inside || singles[place] == 0));
    single_error = std::max(single_error, errors(inclusion[place], singles[place]));
    for (int b = 0; b < tokens; ++b) {
      auto const both = static_cast<std::size_t>(a * tokens + b);
      if (a != b) pair_error = std::max(pair_error, errors(pairs[both], doubles[both]));
    }
  }
  INFO("standard errors: single " << single_error << ", pair " << pair_error);
  CHECK(single_error <= 5.0);
  CHECK(pair_error <= 5.0);
}

}  // namespace testing
