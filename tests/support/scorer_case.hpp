// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "support/harness.hpp"

namespace testing {

/// One row of a case in double precision: what a naive scorer reads.
struct naive_row {
  int layer = 0;    // of the model
  int kv_head = 0;  // of the model
  int model_kv_heads = 0;
  std::uint32_t request = 0;
  std::uint32_t step = 0;
  int group = 0;
  int next_position = 0;
  double scale = 1.0;
  double soft_cap = 0.0;
  std::vector<int> position;  // negative: an empty slot
  std::vector<bool> candidate;
  std::vector<std::vector<double>> key, value;                // [slot][dim]
  std::vector<std::vector<std::vector<double>>> query;        // [r][j][dim]
  std::vector<std::vector<bool>> masked;                      // [r][j]
  std::vector<int> query_position;                            // [r]
  std::vector<std::vector<double>> accumulated, decayed;      // [slot][j]
  std::vector<std::vector<std::vector<double>>> probability;  // [r][j][slot]

  [[nodiscard]] std::size_t length() const { return position.size(); }
  [[nodiscard]] std::size_t queries() const { return query.size(); }
  [[nodiscard]] bool occupied(std::size_t slot) const { return position[slot] >= 0; }

  [[nodiscard]] static double dot(std::vector<double> const& a, std::vector<double> const& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  }
  [[nodiscard]] double logit(std::size_t r, std::size_t j, std::size_t slot) const {
    double const scaled = dot(query[r][j], key[slot]) * scale;
    return soft_cap > 0.0 ? soft_cap * std::tanh(scaled / soft_cap) : scaled;
  }
  /// Sum of f(probability) over the newest `width` queries.
  template <class Function>
  [[nodiscard]] double fold(std::size_t slot, std::size_t j, std::size_t width, Function const& function) const {
    double total = 0.0;
    for (std::size_t r = queries() - std::min(width, queries()); r < queries(); ++r)
      total += function(probability[r][j][slot]);
    return total;
  }
  [[nodiscard]] double sum(std::size_t slot, std::size_t j, std::size_t width = 1u << 30) const {
    return fold(slot, j, width, [](double p) { return p; });
  }
  template <class Value>
  [[nodiscard]] double group_mean(Value const& value) const {
    double total = 0.0;
    for (int j = 0; j < group; ++j) total += value(static_cast<std::size_t>(j));
    return total / group;
  }
  [[nodiscard]] double window_sum(std::size_t slot, std::size_t width = 1u << 30) const {
    return group_mean([&](std::size_t j) { return sum(slot, j, width); });
  }

  /// Softmax of every query over the occupied slots that it sees.
  void attend() {
    probability.assign(queries(), {});
    for (std::size_t r = 0; r < queries(); ++r)
      for (std::size_t j = 0; j < static_cast<std::size_t>(group); ++j) {
        std::vector<double> p(length(), 0.0);
        double largest = -1e300, total = 0.0;
        auto const seen = [&](std::size_t slot) { return occupied(slot) && position[slot] <= query_position[r]; };
        for (std::size_t slot = 0; slot < length(); ++slot)
          if (seen(slot)) largest = std::max(largest, logit(r, j, slot));
        for (std::size_t slot = 0; slot < length(); ++slot)
          if (seen(slot)) total += p[slot] = std::exp(logit(r, j, slot) - largest);
        for (double& value : p) value = total > 0.0 ? value / total : 0.0;
        probability[r].push_back(std::move(p));
      }
  }
};

/// A block whose threads run in a random order: what one element of a pass writes and another reads shows as a wrong
/// result. Has no bulk forms, so that scorers run as a device would run them. Host code, marked for both: scorers are.
struct shuffled_block {
  random_source* random;

  [[nodiscard]] std::vector<int> order(int count) const {
    std::vector<int> places(static_cast<std::size_t>(std::max(count, 0)));
    std::iota(places.begin(), places.end(), 0);
    for (std::size_t i = places.size(); i > 1; --i)
      std::swap(places[i - 1], places[static_cast<std::size_t>(random->integer(0, static_cast<int>(i) - 1))]);
    return places;
  }
  struct lanes {
    template <class Term>
    FORESIGHTKV_HOST_DEVICE float sum(int count, Term const& term) const {
      float total = 0.0f;
      for (int i = count - 1; i >= 0; --i) total += term(i);
      return total;
    }
    template <class Term>
    FORESIGHTKV_HOST_DEVICE float max(int count, Term const& term) const {
      float largest = count > 0 ? term(count - 1) : 0.0f;
      for (int i = count - 1; i >= 0; --i) largest = term(i) > largest ? term(i) : largest;
      return largest;
    }
    FORESIGHTKV_HOST_DEVICE void store(float& target, float value) const { target = value; }
  };
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
  template <class Body>
  FORESIGHTKV_HOST_DEVICE void for_each(int count, Body const& body) const {
    for (int const i : order(count)) body(i);
  }
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
  template <class Body>
  FORESIGHTKV_HOST_DEVICE void for_each_token(int count, Body const& body) const {
    for (int const i : order(count)) body(lanes{}, i);
  }
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
  template <class Term>
  FORESIGHTKV_HOST_DEVICE float sum(int count, Term const& term) const {
    return lanes{}.sum(count, term);
  }
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
  template <class Term>
  FORESIGHTKV_HOST_DEVICE float max(int count, Term const& term) const {
    return lanes{}.max(count, term);
  }
};

struct case_options {
  bool ordered = true;  ///< slots ascend in position; else they are shuffled and some are empty
  int layers = 2, sequences = 2, kv_heads = 2;
  int group = 2, key_dim = 16, value_dim = 16;
  int length = 64, queries = 12;
  int window_age = 0;       ///< positions between the window's end and the newest token's
  float key_offset = 0.0f;  ///< added to every dimension of a key: larger means more similar keys
  fkv::eviction_config config{.budget = 48, .interval = 16};
  bool capped = false;
  bool chosen_scale = false;
};

/// A case with extents that a vectorised loop may trip over.
inline case_options random_options(random_source& random, bool ordered) {
  case_options made;
  made.ordered = ordered;
  made.layers = random.integer(1, 2);
  made.sequences = random.integer(1, 2);
  made.kv_heads = random.integer(1, 3);
  made.group = random.integer(1, 16);
  made.key_dim = random.integer(1, 8) == 1 ? random.integer(257, 300) : random.integer(1, 140);
  made.value_dim = random.integer(1, 20);
  made.length = random.integer(1, 4) == 1 ? random.integer(1, 12) : random.integer(13, 180);
  made.queries = random.integer(1, 20);
  made.key_offset = random.chance(0.5) ? 0.0f : 0.7f;
  made.config.budget = std::max(1, made.length - random.integer(0, made.length / 2));
  made.config.interval = random.integer(1, made.config.budget);
  made.config.recent_tokens = random.integer(0, made.config.budget / 2);
  made.config.sink_tokens = random.integer(0, made.config.budget / 4);
  made.window_age = random.chance(0.3) ? random.integer(1, made.length) : 0;
  made.chosen_scale = random.chance(0.3);
  return made;
}

/// Keys, values, queries and a state of several rows, filled at random: rows from which tokens were evicted before, so
/// that positions have gaps.
template <class Element, class Query = float>
class scorer_case {
 public:
  scorer_case(case_options const& wanted, random_source& random)
      : options(wanted),
        shape{.num_layers = wanted.layers,
              .num_sequences = wanted.sequences,
              .num_kv_heads = wanted.kv_heads,
              .group = wanted.group,
              .key_head_dim = wanted.key_dim,
              .value_head_dim = wanted.value_dim,
              .capacity = wanted.length,
              .layers = model_layers(),
              .first_kv_head = 3,
              .total_kv_heads = 12},
        cache(shape, wanted.length, wanted.ordered ? layout::hnd : layout::nhd),
        queries(static_cast<std::size_t>(shape.num_rows() * wanted.group * wanted.queries * wanted.key_dim)),
        window_end(static_cast<std::size_t>(wanted.sequences), next_position() - wanted.window_age),
        scores(shape, wanted.length) {
    for (auto& value : cache.keys) value = fkv::element_traits<Element>::store(random.normal() + wanted.key_offset);
    random.fill_normal<Element>(cache.values);
    for (auto& value : queries) value = fkv::element_traits<Query>::store(1.5f * random.normal());
    for (int row = 0; row < shape.num_rows(); ++row) place_tokens(random);
    auto const columns = static_cast<std::size_t>(shape.num_rows() * wanted.length * wanted.group);
    for (std::size_t i = 0; i < columns; ++i) {
      accumulated.push_back(static_cast<float>(random.uniform(0.0, 3.0)));
      decayed.push_back(static_cast<float>(random.uniform(0.0, 3.0)));
    }
  }

  [[nodiscard]] fkv::observation<Query> window() const {
    auto made = fkv::observation<Query>::hnd(queries.data(), shape, options.queries);
    if (options.chosen_scale) made.softmax_scale = chosen_scale;
    if (options.capped) made.soft_cap = 2.5f;
    if (!lse.empty()) made = made.with_lse(lse.data());
    made.window_end = window_end.data();
    return made;
  }

  /// Runs the public verb; scores stand in `scores`.
  template <class Scorer>
  void score(Scorer const& scorer) {
    using policy_type = policy_of<Scorer>;
    policy_type const policy{options.config, scorer, {}, {}, {}};
    owned_state<policy_type> state = make_state<policy_type>();
    fkv::sequence_list const list{nullptr, nullptr, shape.num_sequences, options.length};
    auto work = workspace_for<policy_type>(shape, list, options.queries);
    scores = owned_scores(shape, options.length);
    REQUIRE(fkv::score(testing::exec, fkv::batch{policy, cache.view(), list, state.view, work.view()}, window(),
                       scores.view())
                .ok());
    for (int sequence = 0; sequence < shape.num_sequences; ++sequence) REQUIRE(state.view.flags[sequence] == 0);
    CHECK((work.memory.intact() && scores.values.intact() && state.intact() && cache.intact()));
  }

  /// Runs the scorer's own source in `block` on the host's rows, with statistics from `observe`.
  template <class Scorer, class Block>
  void score_in(Scorer const& scorer, Block const& block) {
    using policy_type = policy_of<Scorer>;
    using reads = typename policy_type::reads;
    using window_list = fkv::window_statistics<reads>;
    owned_state<policy_type> state = make_state<policy_type>();
    owned_statistics<window_list> observed(shape, options.length);
    fkv::sequence_list const list{nullptr, nullptr, shape.num_sequences, options.length};
    if constexpr (window_list::size > 0) {
      owned_workspace work(fkv::observe_bytes<window_list>(testing::exec, shape, list, options.queries));
      REQUIRE(fkv::observe(testing::exec, cache.view(), list, window(), state.view, observed.view(), work.view()).ok());
    }
    auto const tokens = cache.view();
    auto const queries_view = window();
    std::size_t const stride = static_cast<std::size_t>(std::max({options.length, options.key_dim, options.value_dim}));
    scores = owned_scores(shape, options.length);
    for (int row = 0; row < shape.num_rows(); ++row) {
      guarded<float> scratch(stride * static_cast<std::size_t>(fkv::detail::scratch_rows<Scorer>()));
      using cache_type = typename owned_cache<Element>::view_type;
      fkv::detail::row_view<cache_type, fkv::observation<Query>, reads> view;
      view.cache = &tokens;
      view.window = &queries_view;
      view.at = index(row);
      view.tokens = options.length;
      view.positions = fkv::detail::positions_of(state.view, row);
      view.protected_from = next_position() - options.config.recent();
      view.sink_tokens = options.config.sink_tokens;
      view.window_queries = options.queries;
      view.first_query = first_query();
      view.scale = static_cast<float>(scale());
      view.cap = queries_view.soft_cap;
      view.request = state.view.request_id[view.at.sequence];
      view.evictions = state.view.step[row];
      view.observed = observed.values.data() +
                      static_cast<std::ptrdiff_t>(row * options.length * window_list::size * options.group);
      view.carried = state.view.num_carried > 0 ? state.view.carried_at(row, 0) : nullptr;
      view.scratch_base = scratch.data();
      view.scratch_stride = stride;
      fkv::detail::evaluate(scorer, block, view, &scores.at(row, 0));
      CHECK(scratch.intact());
    }
    CHECK(scores.values.intact());
  }

  [[nodiscard]] fkv::row_index index(int row) const {
    return {row / (shape.num_kv_heads * shape.num_sequences), row / shape.num_kv_heads % shape.num_sequences,
            row % shape.num_kv_heads};
  }
  [[nodiscard]] double scale() const {
    return options.chosen_scale ? double{chosen_scale} : 1.0 / std::sqrt(static_cast<double>(options.key_dim));
  }
  [[nodiscard]] int next_position() const { return 3 * options.length + 7; }
  [[nodiscard]] int first_query() const { return next_position() - options.window_age - options.queries; }

  [[nodiscard]] naive_row naive(int row) {
    fkv::row_index const at = index(row);
    auto const view = cache.view();
    auto const window = this->window();
    naive_row made;
    made.layer = shape.model_layer(at.layer);
    made.kv_head = shape.model_kv_head(at.kv_head);
    made.model_kv_heads = shape.model_kv_heads();
    made.request = 40u + static_cast<std::uint32_t>(at.sequence);
    made.step = 1u + static_cast<std::uint32_t>(row);
    made.group = options.group;
    made.next_position = next_position();
    made.scale = scale();
    for (int slot = 0; slot < options.length; ++slot) {
      int const position = positions[static_cast<std::size_t>(row * options.length + slot)];
      made.position.push_back(position);
      made.candidate.push_back(position >= options.config.sink_tokens &&
                               position < next_position() - options.config.recent());
      made.key.push_back(widened(view.key(at, slot), options.key_dim));
      made.value.push_back(widened(view.value(at, slot), options.value_dim));
      auto const first = static_cast<std::ptrdiff_t>((row * options.length + slot) * options.group);
      made.accumulated.emplace_back(accumulated.begin() + first, accumulated.begin() + first + options.group);
      made.decayed.emplace_back(decayed.begin() + first, decayed.begin() + first + options.group);
    }
    for (int r = 0; r < options.queries; ++r) {
      made.query_position.push_back(first_query() + r);
      made.query.emplace_back();
      made.masked.emplace_back();
      for (int j = 0; j < options.group; ++j) {
        int const head = at.kv_head * options.group + j;
        made.query.back().push_back(widened(window.query(at, head, r), options.key_dim));
        made.masked.back().push_back(!lse.empty() && !std::isfinite(window.log_sum_exp(at, head, r)));
      }
    }
    made.soft_cap = double{window.soft_cap};
    made.attend();
    return made;
  }

  /// Leaves no token to evict: all but the newest are sinks.
  void protect_all() {
    int const n = options.length;
    options.config = {.budget = n, .interval = 1, .recent_tokens = 1, .sink_tokens = n - 1};
    for (std::size_t i = 0; i < positions.size(); ++i) {
      int const slot = static_cast<int>(i) % n;
      positions[i] = slot == n - 1 ? next_position() - 1 : slot;
    }
  }

  template <class Scorer>
  using policy_of = fkv::policy<fkv::eviction_config, Scorer, fkv::top_k, fkv::ordered>;

  case_options options;
  fkv::cache_shape shape;
  owned_cache<Element> cache;
  std::vector<Query> queries;
  std::vector<std::int32_t> window_end;     // [sequence]
  std::vector<float> lse;                   // as the queries without their last extent; empty: not given
  std::vector<int> positions;               // [row][slot]
  std::vector<float> accumulated, decayed;  // [row][slot][j]
  owned_scores scores;

 private:
  /// On the heap: a device may have to read them.
  static int const* model_layers() {
    static std::vector<int> const layers{4, 9};
    return layers.data();
  }
  static constexpr float chosen_scale = 0.21f;

  template <class Stored>
  static std::vector<double> widened(Stored const* from, int count) {
    std::vector<double> made;
    for (int i = 0; i < count; ++i) made.push_back(double{fkv::to_float(from[i])});
    return made;
  }

  /// Different positions, the last of them the newest; ordered, or shuffled with a few empty slots.
  void place_tokens(random_source& random) {
    std::vector<int> all(static_cast<std::size_t>(next_position() - 1));
    std::iota(all.begin(), all.end(), 0);
    std::vector<int> row;
    for (int slot = 0; slot + 1 < options.length; ++slot) {
      auto const pick = static_cast<std::size_t>(random.integer(0, static_cast<int>(all.size()) - 1));
      row.push_back(all[pick]);
      all.erase(all.begin() + static_cast<std::ptrdiff_t>(pick));
    }
    row.push_back(next_position() - 1);
    if (options.ordered) {
      std::sort(row.begin(), row.end());
    } else {
      for (std::size_t slot = 0; slot + 1 < row.size(); ++slot)
        if (random.chance(0.15)) row[slot] = -1;
    }
    positions.insert(positions.end(), row.begin(), row.end());
  }

  template <class Policy>
  [[nodiscard]] owned_state<Policy> make_state() const {
    using carried = typename fkv::eviction_state<Policy>::carried_list;
    owned_state<Policy> state(shape, options.length);
    for (int row = 0; row < shape.num_rows(); ++row) {
      state.view.step[row] = 1u + static_cast<std::uint32_t>(row);
      state.view.seen_length[row] = options.length;
      state.view.next_position[row] = next_position();
      for (int slot = 0; slot < options.length; ++slot) {
        auto const token = static_cast<std::size_t>(row * options.length + slot);
        state.view.position[state.view.column(row, slot)] = positions[token];
        for (int j = 0; j < options.group; ++j) {
          auto const value = token * static_cast<std::size_t>(options.group) + static_cast<std::size_t>(j);
          if constexpr (carried::template contains<fkv::accumulated>)
            state.view.carried_at(row, slot)[carried::template index<fkv::accumulated>() * options.group + j] =
                accumulated[value];
          if constexpr (carried::template contains<fkv::decayed>)
            state.view.carried_at(row, slot)[carried::template index<fkv::decayed>() * options.group + j] =
                decayed[value];
        }
      }
    }
    for (int sequence = 0; sequence < shape.num_sequences; ++sequence)
      state.view.request_id[sequence] = 40u + static_cast<std::uint32_t>(sequence);
    return state;
  }
};

/// Largest difference of a case's scores from a naive scorer's, over the occupied slots; relative above 1.
template <class Case, class Naive>
double score_error(Case& tokens, Naive const& naive) {
  double worst = 0.0;
  for (int row = 0; row < tokens.shape.num_rows(); ++row) {
    naive_row const exact = tokens.naive(row);
    std::vector<double> const expected = naive(exact);
    if (expected.empty()) continue;  // the naive scorer cannot tell either
    REQUIRE(expected.size() == exact.length());
    for (std::size_t slot = 0; slot < exact.length(); ++slot) {
      if (!exact.occupied(slot)) continue;
      double const got = double{tokens.scores.at(row, static_cast<int>(slot))};
      double const error = std::fabs(got - expected[slot]) / std::max(1.0, std::fabs(expected[slot]));
      worst = error <= worst ? worst : error;  // NaN stays
    }
  }
  return worst;
}

/// Compares a scorer with a naive one: through the public verb, and in a shuffled block.
template <class Case, class Scorer, class Naive>
void check_case(Case& tokens, Scorer const& scorer, Naive const& naive, double tolerance, random_source& random) {
  CAPTURE(tokens.options.length);
  CAPTURE(tokens.options.key_dim);
  CAPTURE(tokens.options.group);
  CAPTURE(tokens.options.queries);
  tokens.score(scorer);
  CHECK(score_error(tokens, naive) <= tolerance);
  tokens.score_in(scorer, shuffled_block{&random});
  CHECK(score_error(tokens, naive) <= tolerance);
}

/// The same on random cases.
///
/// naive(naive_row) -> a score for every slot; ordered: whether the scorer needs time order
template <class Element, class Query = float, class Scorer, class Naive>
void check_scorer_on(Scorer const& scorer, Naive const& naive, double tolerance, bool ordered, std::uint64_t seed) {
  for (std::uint64_t round = 0; round < 6; ++round) {
    CAPTURE(seed + round);
    random_source random(seed + round);
    scorer_case<Element, Query> tokens(random_options(random, ordered || round % 2 == 0), random);
    check_case(tokens, scorer, naive, tolerance, random);
  }
}

/// The same in three storage types.
template <class Scorer, class Naive>
void check_scorer(Scorer const& scorer, Naive const& naive, double tolerance, bool ordered = false) {
  check_scorer_on<float>(scorer, naive, tolerance, ordered, 100);
  check_scorer_on<fkv::half, fkv::half>(scorer, naive, tolerance, ordered, 200);
  check_scorer_on<fkv::bfloat16, fkv::bfloat16>(scorer, naive, tolerance, ordered, 300);
}

/// Scores of every slot from a function of (row, slot).
template <class PerToken>
auto each_token(PerToken const& per_token) {
  return [per_token](naive_row const& row) {
    std::vector<double> scores;
    for (std::size_t slot = 0; slot < row.length(); ++slot) scores.push_back(per_token(row, slot));
    return scores;
  };
}

}  // namespace testing
