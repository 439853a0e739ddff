// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "support/replay.hpp"

namespace testing {

template <class Scorer>
using scored_policy = fkv::policy<fkv::eviction_config, Scorer, fkv::top_k, fkv::ordered>;

/// One layer of keys and the queries of its newest tokens, as baselines_reference files hold them.
struct baseline_tokens {
  int kv_heads, group, dim, tokens, queries;
  std::vector<float> k, v, q;

  explicit baseline_tokens(vector_file const& file)
      : kv_heads(file.integer("kv_heads")),
        group(file.integer("group")),
        dim(file.integer("head_dim")),
        tokens(file.extent("k", 1)),
        queries(file.extent("q", 1)),
        k(file.floats("k", {kv_heads, tokens, dim})),
        v(file.floats("v", {kv_heads, tokens, dim})),
        q(file.floats("q", {kv_heads * group, queries, dim})) {}

  [[nodiscard]] fkv::cache_shape shape() const {
    return {.num_kv_heads = kv_heads, .group = group, .key_head_dim = dim, .value_head_dim = dim, .capacity = tokens};
  }
};

/// What a scorer makes of a whole prompt: scores from the public verb, lists from an eviction down to the budget.
template <class Scorer>
struct baseline_result {
  owned_scores scores;
  owned_selection lists;

  baseline_result(baseline_tokens const& given, Scorer const& scorer, fkv::eviction_config const& config)
      : scores(given.shape(), given.tokens), lists(given.shape(), given.tokens) {
    using policy_type = scored_policy<Scorer>;
    fkv::cache_shape const shape = given.shape();
    owned_cache<float> cache(shape, given.tokens);
    std::copy(given.k.begin(), given.k.end(), cache.keys.begin());
    std::copy(given.v.begin(), given.v.end(), cache.values.begin());
    policy_type const policy{config, scorer, {}, {}, {}};
    owned_state<policy_type> state(shape, given.tokens);
    fkv::sequence_list const list{nullptr, nullptr, 1, given.tokens};
    auto const window = fkv::observation<float>::hnd(given.q.data(), shape, given.queries);
    auto work = workspace_for<policy_type>(shape, list, given.queries);
    guarded<std::int32_t> new_length(1, -1);
    REQUIRE(fkv::score(testing::exec, fkv::batch{policy, cache.view(), list, state.view, work.view()}, window,
                       scores.view())
                .ok());
    REQUIRE(fkv::evict(testing::exec, fkv::batch{policy, cache.view(), list, state.view, work.view()}, window,
                       {new_length.data(), lists.view()})
                .ok());
    CHECK(new_length[0] == config.budget);
    CHECK((work.memory.intact() && scores.values.intact() && lists.intact() && cache.intact() && state.intact()));
  }

  /// Differences from a stored tensor [kv_heads][width] of the first tokens' scores.
  [[nodiscard]] worst_difference difference(std::vector<float> const& stored, int heads, double factor = 1.0) const {
    worst_difference worst;
    int const width = static_cast<int>(stored.size()) / heads;
    for (int head = 0; head < heads; ++head)
      for (int slot = 0; slot < width; ++slot)
        worst.add(double{scores.at(head, slot)},
                  factor * double{stored[static_cast<std::size_t>(head * width + slot)]});
    return worst;
  }
};

/// Kept lists that differ from a stored tensor [kv_heads][budget].
inline int wrong_kept(owned_selection const& lists, vector_file const& file, std::string const& name, int tokens) {
  int const heads = file.extent(name, 0);
  int const budget = file.extent(name, 1);
  auto const stored = file.ints(name, {heads, budget});
  int wrong = 0;
  for (int head = 0; head < heads; ++head)
    wrong +=
        mismatches(lists.kept_of(head, tokens), stored.data() + static_cast<std::ptrdiff_t>(head) * budget, budget);
  return wrong;
}

template <int Window, int Kernel>
void check_reference_scorers(vector_file const& file, baseline_tokens const& given) {
  int const heads = given.kv_heads;
  int const budget = file.integer("budget");
  int const rest = given.tokens - Window;
  auto const lambda = static_cast<float>(file.number("mix_lambda"));
  auto const threshold = static_cast<float>(file.number("similarity_threshold"));
  double const snap_tolerance = file.number("tol_snapkv_abs");
  double const r_kv_tolerance = file.number("tol_rkv_abs");
  fkv::eviction_config const config{.budget = budget, .interval = given.tokens - budget, .recent_tokens = Window};

  using snap_scorer = fkv::snap_kv<Window, Kernel>;
  baseline_result<snap_scorer> const snap(given, {}, config);
  auto const snap_worst = snap.difference(file.floats("snapkv.keep_score", {heads, rest}), heads);
  INFO("snap_kv off by " << snap_worst.value());
  CHECK(snap_worst.within(snap_tolerance));
  CHECK(wrong_kept(snap.lists, file, "snapkv.kept_ties_evict_lowest", given.tokens) == 0);

  using r_scorer = fkv::r_kv<Window, Kernel>;
  baseline_result<r_scorer> const mixed(given, {.lambda = lambda, .threshold = threshold}, config);
  auto const worst = mixed.difference(file.floats("rkv.keep_score", {heads, rest}), heads);
  INFO("r_kv off by " << worst.value());
  CHECK(worst.within(r_kv_tolerance));
  CHECK(wrong_kept(mixed.lists, file, "rkv.kept", given.tokens) == 0);

  // Its two parts alone.
  baseline_result<r_scorer> const importance(given, {.lambda = 1.0f, .threshold = threshold}, config);
  auto const importance_worst = importance.difference(file.floats("rkv.importance", {heads, rest}), heads);
  INFO("importance off by " << importance_worst.value());
  CHECK(importance_worst.within(snap_tolerance));
  baseline_result<r_scorer> const redundancy(given, {.lambda = 0.0f, .threshold = threshold}, config);
  auto stored = file.floats("rkv.redundancy", {heads, given.tokens});
  for (int head = heads - 1; head >= 0; --head) {  // of the tokens that r_kv scores
    auto const first = stored.begin() + static_cast<std::ptrdiff_t>(head) * given.tokens;
    stored.erase(first + rest, first + given.tokens);
  }
  auto const redundancy_worst = redundancy.difference(stored, heads, -1.0);
  INFO("redundancy off by " << redundancy_worst.value());
  CHECK(redundancy_worst.within(r_kv_tolerance));
}

/// baselines_reference: R-KV, SnapKV (R-KV flavour) and StreamingLLM of the published repository.
inline void check_baselines_reference(fkv::io::safetensors_file const& stored) {
  vector_file const file(stored);
  baseline_tokens const given(file);
  int const window = file.integer("window");
  int const kernel = file.integer("kernel");
  if (window == 8 && kernel == 7) {
    check_reference_scorers<8, 7>(file, given);
  } else if (window == 8 && kernel == 5) {
    check_reference_scorers<8, 5>(file, given);
  } else if (window == 16 && kernel == 7) {
    check_reference_scorers<16, 7>(file, given);
  } else {
    FAIL_CHECK("no snap_kv is instantiated here for window " << window << ", kernel " << kernel);
  }
  int const budget = file.integer("budget");
  baseline_result<fkv::streaming_llm> const newest(given, {},
                                                   {.budget = budget,
                                                    .interval = given.tokens - budget,
                                                    .recent_tokens = 0,
                                                    .sink_tokens = file.integer("streaming_first_tokens")});
  CHECK(wrong_kept(newest.lists, file, "streamingllm.kept", given.tokens) == 0);
}

/// baselines_h2o_fork: accumulated attention over several calls. The first call observes all queries that the
/// published code kept, later ones those of the protected tokens. Its cache is in score order, ours in time order.
inline void check_baselines_h2o_fork(fkv::io::safetensors_file const& stored) {
  using policy_type = scored_policy<fkv::accumulated_sum>;
  vector_file const file(stored);
  recording const tokens = recording::read(file);
  int const heads = tokens.kv_heads;
  int const budget = file.integer("budget");
  int const interval = file.integer("interval");
  int const recent = file.integer("protected");
  int const prefill = file.integer("prefill");
  double const tolerance = file.number("tol_abs");
  policy_type const policy{{.budget = budget, .interval = interval, .recent_tokens = recent}, {}, {}, {}, {}};
  replay<policy_type> run(tokens, policy, std::max(prefill, budget + interval), layout::nhd);
  for (int call = 0; call < file.integer("calls"); ++call) {
    INFO("call " << call);
    std::string const prefix = "call" + std::to_string(call) + ".";
    run.append(prefill + call * interval);
    int const cached = run.length();
    auto const positions = file.ints(prefix + "cached_positions", {heads, cached});
    auto const keep = file.floats(prefix + "keep_score", {heads, cached - recent});
    std::vector<std::vector<int>> before;
    for (int head = 0; head < heads; ++head) {
      before.push_back(run.positions(head));
      while (static_cast<int>(before.back().size()) < cached)
        before.back().push_back(prefill + call * interval - cached + static_cast<int>(before.back().size()));
    }
    run.step(call == 0 ? std::min(prefill, file.integer("query_cache")) : recent);
    worst_difference worst;
    int wrong = 0;
    auto const kept = file.ints(prefix + "kept_positions_sorted", {heads, budget});
    for (int head = 0; head < heads; ++head) {
      auto const& slots = before[static_cast<std::size_t>(head)];
      for (int i = 0; i < cached - recent; ++i) {
        int const position = positions[static_cast<std::size_t>(head * cached + i)];
        auto const found = std::lower_bound(slots.begin(), slots.end(), position);
        REQUIRE((found != slots.end() && *found == position));
        worst.add(double{run.scores.at(head, static_cast<int>(found - slots.begin()))},
                  double{keep[static_cast<std::size_t>(head * (cached - recent) + i)]});
      }
      wrong += mismatches(run.positions(head), kept.data() + static_cast<std::ptrdiff_t>(head) * budget, budget);
    }
    INFO("scores off by " << worst.value());
    CHECK(worst.within(tolerance));
    CHECK(wrong == 0);
  }
}

/// One kvpress method that is a scorer of ours: its scores of the first `width` tokens, and its kept tokens.
template <class Scorer>
void check_kvpress_scorer(vector_file const& file, baseline_tokens const& given, std::string const& name,
                          Scorer const& scorer, double tolerance, fkv::eviction_config config, int width) {
  INFO(name);
  config.budget = file.integer("kept");
  config.interval = given.tokens - config.budget;
  baseline_result<Scorer> const result(given, scorer, config);
  auto stored = file.floats(name + ".keep_score", {given.kv_heads, given.tokens});
  worst_difference worst;
  for (int head = 0; head < given.kv_heads; ++head)
    for (int slot = 0; slot < width; ++slot)
      worst.add(double{result.scores.at(head, slot)},
                double{stored[static_cast<std::size_t>(head * given.tokens + slot)]});
  INFO("scores off by " << worst.value());
  CHECK((width == 0 || worst.within(tolerance)));
  CHECK(wrong_kept(result.lists, file, name + ".kept", given.tokens) == 0);
}

/// The same where scores accumulate: the prompt's queries first, then the scores.
inline void check_observed_attention(vector_file const& file, recording const& tokens, double tolerance) {
  using policy_type = scored_policy<fkv::h2o_per_query>;
  int const kept = file.integer("kept");
  policy_type const policy{{.budget = kept, .interval = tokens.tokens - kept, .recent_tokens = 0}, {}, {}, {}, {}};
  replay<policy_type> run(tokens, policy, tokens.tokens, layout::hnd);
  run.append(tokens.tokens);
  run.step(tokens.tokens);
  auto const stored = file.floats("observed_attention.keep_score", {tokens.kv_heads, tokens.tokens});
  worst_difference worst;
  for (int head = 0; head < tokens.kv_heads; ++head)
    for (int slot = 0; slot < tokens.tokens; ++slot)
      worst.add(double{run.scores.at(head, slot)},
                double{stored[static_cast<std::size_t>(head * tokens.tokens + slot)]});
  INFO("observed_attention off by " << worst.value());
  CHECK(worst.within(tolerance));
  CHECK(wrong_kept(run.lists, file, "observed_attention.kept", tokens.tokens) == 0);
}

/// kvpress's TOVA is the mean of ours over the KV heads; its newest token is always kept.
inline void check_kvpress_tova(vector_file const& file, baseline_tokens const& given, double tolerance) {
  using policy_type = scored_policy<fkv::tova>;
  int const heads = given.kv_heads;
  int const kept = file.integer("kept");
  fkv::eviction_config const config{.budget = kept, .interval = given.tokens - kept, .recent_tokens = 1};
  baseline_result<fkv::tova> const ours(given, {}, config);
  auto const stored = file.floats("tova.keep_score", {heads, given.tokens});
  owned_scores mean(given.shape(), given.tokens);
  worst_difference worst;
  for (int slot = 0; slot < given.tokens; ++slot) {
    double total = 0.0;
    for (int head = 0; head < heads; ++head) total += double{ours.scores.at(head, slot)};
    for (int head = 0; head < heads; ++head) {
      mean.at(head, slot) = static_cast<float>(total / heads);
      if (slot < given.tokens - 1)
        worst.add(total / heads, double{stored[static_cast<std::size_t>(head * given.tokens + slot)]});
    }
  }
  INFO("tova off by " << worst.value());
  CHECK(worst.within(tolerance));
  policy_type const policy{config, {}, {}, {}, {}};
  owned_cache<float> cache(given.shape(), given.tokens);
  owned_state<policy_type> const state(given.shape(), given.tokens);
  owned_selection lists(given.shape(), given.tokens);
  fkv::sequence_list const list{nullptr, nullptr, 1, given.tokens};
  auto work = workspace_for<policy_type>(given.shape(), list, 0);
  REQUIRE(fkv::select(testing::exec, fkv::batch{policy, cache.view(), list, state.view, work.view()}, mean.view(),
                      lists.view())
              .ok());
  CHECK(wrong_kept(lists, file, "tova.kept", given.tokens) == 0);
}

/// kvpress's SnapKV, composed: the window's mean attention, mean-pooled with zeros at the edges, the window protected.
template <int Kernel>
void check_kvpress_snap(vector_file const& file, baseline_tokens const& given, double tolerance) {
  using scorer = fkv::weighted_sum<fkv::mean_pool<Kernel, fkv::pool_edge::zeros, fkv::window_sum>>;
  int const window = file.integer("window");
  baseline_tokens newest = given;
  newest.queries = window;
  newest.q.clear();
  for (int head = 0; head < given.kv_heads * given.group; ++head) {
    auto const last = given.q.begin() + static_cast<std::ptrdiff_t>((head + 1) * given.queries) * given.dim;
    newest.q.insert(newest.q.end(), last - static_cast<std::ptrdiff_t>(window) * given.dim, last);
  }
  check_kvpress_scorer(file, newest, "snapkv", scorer{1.0f / static_cast<float>(window), {}}, tolerance,
                       {.recent_tokens = window}, given.tokens - window);
}

/// baselines_kvpress: the methods that are scorers of this library, from all queries of a prompt.
inline void check_baselines_kvpress(fkv::io::safetensors_file const& stored) {
  vector_file const file(stored);
  recording const tokens = recording::read(file);
  baseline_tokens const given(file);
  constexpr double probabilities = 1e-6;
  check_kvpress_scorer(file, given, "knorm", fkv::key_norm{}, 1e-5, {.recent_tokens = 0}, given.tokens);
  check_kvpress_scorer(file, given, "keydiff", fkv::key_diff{}, probabilities, {.recent_tokens = 0}, given.tokens);
  // Its scores only say kept or not.
  check_kvpress_scorer(file, given, "streaming_llm", fkv::streaming_llm{}, 0.0,
                       {.recent_tokens = 0, .sink_tokens = file.integer("n_sink")}, 0);
  check_observed_attention(file, tokens, probabilities);
  check_kvpress_tova(file, given, probabilities);
  int const kernel = file.integer("kernel");
  switch (kernel) {
    case 3:
      check_kvpress_snap<3>(file, given, probabilities);
      break;
    case 5:
      check_kvpress_snap<5>(file, given, probabilities);
      break;
    case 7:
      check_kvpress_snap<7>(file, given, probabilities);
      break;
    case 9:
      check_kvpress_snap<9>(file, given, probabilities);
      break;
    default:
      FAIL_CHECK("no mean_pool is instantiated here for kernel " << kernel);
  }
}

}  // namespace testing
