// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include <foresightkv/caches/dense.hpp>
#include <foresightkv/foresightkv.hpp>
#include <foresightkv/verbs/score.hpp>

#include "support/policy_bench.hpp"
#include "support/random_judges.hpp"
#include "support/vector_file.hpp"

namespace fkv = foresightkv;
using testing::history;

namespace {

constexpr fkv::eviction_config loose{.budget = 4, .interval = 1, .recent_tokens = 2, .sink_tokens = 1};

template <class Scorer>
using score_policy = fkv::policy<fkv::eviction_config, Scorer, fkv::top_k, fkv::slot_list>;

}  // namespace

namespace {

/// Says back one thing that a token knows.
struct probe {
  using reads = fkv::statistics<fkv::sum, fkv::accumulated>;
  enum class question {
    slot,
    position,
    next_position,
    layer,
    kv_head,
    model_kv_heads,
    key_head_dim,
    value_head_dim,
    group,
    key,
    value,
    sum,
    mean,
    carried,
    lane_sum,
    lane_max
  };
  question what = question::slot;
  int dim = 0;

  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const& lanes, Token const& token) const {
    auto const number = [](auto value) { return static_cast<float>(value); };
    switch (what) {
      case question::slot:
        return number(token.slot());
      case question::position:
        return number(token.position());
      case question::next_position:
        return number(token.next_position());
      case question::layer:
        return number(token.layer());
      case question::kv_head:
        return number(token.kv_head());
      case question::model_kv_heads:
        return number(token.model_kv_heads());
      case question::key_head_dim:
        return number(token.key_head_dim());
      case question::value_head_dim:
        return number(token.value_head_dim());
      case question::group:
        return number(token.group());
      case question::key:
        return token.key(dim);
      case question::value:
        return token.value(dim);
      case question::sum:
        return token.statistic(fkv::sum{}, dim);
      case question::mean:
        return token.mean(fkv::accumulated{});
      case question::carried:
        return token.statistic(fkv::accumulated{}, dim);
      case question::lane_sum:
        return lanes.sum(dim, [&](int i) { return number((i + 1) * (token.slot() + 1)); });
      case question::lane_max:
        return lanes.max(dim, [&](int i) { return number((i * 7) % (dim + 1) - token.slot() - dim); });
    }
    return 0.0f;
  }
};

}  // namespace

TEST_CASE("score: what a token tells a scorer") {
  using bench = testing::policy_bench<score_policy<probe>, fkv::bfloat16>;
  using question = probe::question;
  bench made(1, {loose, {}, {}, {}, {}}, 40, 7);
  std::vector<int> const model_layers{9, 4};
  made.shape.layers = model_layers.data();
  made.shape.first_kv_head = 5;
  made.shape.total_kv_heads = 11;
  made.rebuild();
  made.build(7);
  made.place(history::filled);
  REQUIRE(made.observe().ok());
  auto const ask = [&](question what, int dim, auto const& expected) {
    CAPTURE(static_cast<int>(what));
    CAPTURE(dim);
    made.policy.scorer = {what, dim};
    REQUIRE(made.score(made.observed()).ok());
    int wrong = 0;
    made.each_row([&](fkv::row_index at) {
      for (int slot = 0; slot < made.length(at); ++slot)
        wrong += made.scores.at(made.shape.row(at), slot) != static_cast<float>(expected(at, slot));
    });
    CHECK(wrong == 0);
  };
  auto const row = [&](fkv::row_index at) { return static_cast<std::size_t>(made.shape.row(at)); };
  auto const cache = made.cache.view();
  int const last_head = made.shape.group - 1;
  ask(question::slot, 0, [&](fkv::row_index, int slot) { return slot; });
  ask(question::position, 0,
      [&](fkv::row_index at, int slot) { return made.positions[row(at)][static_cast<std::size_t>(slot)]; });
  ask(question::next_position, 0, [&](fkv::row_index at, int) { return made.row_end[row(at)]; });
  ask(question::layer, 0, [&](fkv::row_index at, int) { return model_layers[static_cast<std::size_t>(at.layer)]; });
  ask(question::kv_head, 0, [&](fkv::row_index at, int) { return 5 + at.kv_head; });
  ask(question::model_kv_heads, 0, [&](fkv::row_index, int) { return 11; });
  ask(question::key_head_dim, 0, [&](fkv::row_index, int) { return made.shape.key_head_dim; });
  ask(question::value_head_dim, 0, [&](fkv::row_index, int) { return made.shape.value_head_dim; });
  ask(question::group, 0, [&](fkv::row_index, int) { return made.shape.group; });
  for (int const dim : {0, made.shape.key_head_dim - 1})
    ask(question::key, dim, [&](fkv::row_index at, int slot) { return fkv::to_float(cache.key(at, slot)[dim]); });
  for (int const dim : {0, made.shape.value_head_dim - 1})
    ask(question::value, dim, [&](fkv::row_index at, int slot) { return fkv::to_float(cache.value(at, slot)[dim]); });
  auto const carried = [&](fkv::row_index at, int slot, int j) {
    return slot < made.state.seen(made.shape.row(at)) ? made.state.view.carried_at(made.shape.row(at), slot)[j] : 0.0f;
  };
  for (int const j : {0, last_head}) {
    ask(question::sum, j,
        [&](fkv::row_index at, int slot) { return made.statistics.at(made.shape.row(at), slot, 0, j); });
    ask(question::carried, j, [&](fkv::row_index at, int slot) { return carried(at, slot, j); });
  }
  ask(question::mean, 0, [&](fkv::row_index at, int slot) {
    float total = 0.0f;
    for (int j = 0; j <= last_head; ++j) total += carried(at, slot, j);
    return total / static_cast<float>(last_head + 1);
  });
  for (int const count : {0, 1, 2, 15, 16, 17, 33, 70}) {  // small whole numbers: sums are exact in any order
    ask(question::lane_sum, count, [&](fkv::row_index, int slot) { return (slot + 1) * count * (count + 1) / 2; });
    ask(question::lane_max, count, [&](fkv::row_index, int slot) {
      int largest = count > 0 ? -1000000 : 0;
      for (int i = 0; i < count; ++i) largest = std::max(largest, (i * 7) % (count + 1) - slot - count);
      return largest;
    });
  }
}

namespace {

/// A row scorer: the mean of its neighbours' norms, through two borrowed rows, minus 100 where it may not go.
struct neighbour_scorer {
  using reads = fkv::statistics<>;
  static constexpr bool needs_time_order = true;
  static constexpr int scratch_rows = 2;

  template <class Block, class Row>
  FORESIGHTKV_HOST_DEVICE void operator()(Block const& block, Row const& row, float* scores) const {
    float* const norm = row.scratch(0);
    float* const shifted = row.scratch(1);
    block.for_each_token(row.length(), [&](auto const& lanes, int slot) {
      lanes.store(norm[slot],
                  lanes.sum(row.key_head_dim(), [&](int d) { return row.key(slot, d) * row.key(slot, d); }));
    });
    block.for_each(row.length(), [&](int slot) { shifted[slot] = slot > 0 ? norm[slot - 1] : 0.0f; });
    float const largest = block.max(row.length(), [&](int slot) { return norm[slot]; });
    block.for_each(row.length(), [&](int slot) {
      scores[slot] = (norm[slot] + shifted[slot]) / (1.0f + largest) - (row.candidate(slot) ? 0.0f : 100.0f);
    });
  }
};

}  // namespace

TEST_CASE("score: a row scorer of the user's own, with scratch rows") {
  using policy_type = fkv::policy<fkv::eviction_config, neighbour_scorer, fkv::top_k, fkv::ordered>;
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    CAPTURE(seed);
    testing::policy_bench<policy_type> made(seed, {loose, {}, {}, {}, {}}, 90, 1);
    made.place(seed % 2 == 0 ? history::pristine : history::ordered);
    REQUIRE(made.score(made.window.view()).ok());
    testing::worst_difference worst;
    made.each_row([&](fkv::row_index at) {
      auto const tokens = made.tokens_of(at);
      double largest = 0.0;
      for (auto const& key : tokens.key) largest = std::max(largest, oracle::dot(key, key));
      for (std::size_t slot = 0; slot < tokens.length(); ++slot) {
        double const own = oracle::dot(tokens.key[slot], tokens.key[slot]);
        double const before = slot > 0 ? oracle::dot(tokens.key[slot - 1], tokens.key[slot - 1]) : 0.0;
        bool const free =
            oracle::candidate(loose, tokens.position[slot], made.row_end[static_cast<std::size_t>(made.shape.row(at))]);
        worst.add(made.scores.at(made.shape.row(at), static_cast<int>(slot)),
                  (own + before) / (1.0 + largest) - (free ? 0.0 : 100.0));
      }
    });
    CHECK(worst.value() <= 2e-5);
  }
}

namespace {

using mixed_policy = score_policy<testing::mixed_scorer>;
using mixed_bench = testing::policy_bench<mixed_policy>;

mixed_bench three_sequences(std::uint64_t seed) {
  mixed_bench made(seed, {loose, {}, {}, {}, {}}, 40, 9);
  while (made.shape.num_sequences < 3) made = mixed_bench(made.random.bits(), {loose, {}, {}, {}, {}}, 40, 9);
  made.place(history::ordered);
  return made;
}

}  // namespace

TEST_CASE("score: a window and its statistics give the same bits; the state and other rows stay as they were") {
  mixed_bench made = three_sequences(2);
  made.slots = {2, 0};
  auto const state = made.state;
  auto const blank = made.scores;
  REQUIRE(made.score(made.window.view()).ok());
  auto const from_window = made.scores;
  made.scores = blank;
  REQUIRE(made.observe().ok());
  REQUIRE(made.score(made.observed()).ok());
  CHECK(made.scores.values.same_bytes(from_window.values));
  CHECK(testing::same_state(made.state.view, state.view));
  made.each_row([&](fkv::row_index at) {
    bool const same = made.same_row(blank.values, made.scores.values, at, made.shape.capacity);
    CHECK(same == (at.sequence == 1 || made.length(at) == 0));
  });
}

TEST_CASE("score: data that breaks a rule flags its sequence and leaves its scores alone") {
  mixed_bench const made = three_sequences(3);
  mixed_bench sound = made;
  REQUIRE(sound.score(sound.window.view()).ok());
  auto const rule = [&](fkv::sequence_flag expected, auto const& spoil) {
    mixed_bench broken = made;
    spoil(broken);
    REQUIRE(broken.score(broken.window.view()).ok());
    CHECK(broken.state.view.flags[0] == 0);
    CHECK(broken.state.view.flags[1] == static_cast<std::uint32_t>(expected));
    CHECK(broken.state.view.flags[2] == 0);
    bool right = true;
    made.each_row([&](fkv::row_index at) {
      auto const& like = at.sequence == 1 ? made.scores.values : sound.scores.values;
      right = right && made.same_row(broken.scores.values, like, at, made.shape.capacity);
    });
    CHECK(right);
  };
  fkv::row_index const last_row{made.shape.num_layers - 1, 1, made.shape.num_kv_heads - 1};
  rule(fkv::sequence_flag::bad_length, [&](mixed_bench& b) { b.cache.length({0, 1, 0}) = 41; });
  rule(fkv::sequence_flag::bad_window, [&](mixed_bench& b) {
    b.window.has_counts = true;
    b.window.query_count[1] = 10;
  });
  rule(fkv::sequence_flag::length_mismatch,
       [&](mixed_bench& b) { b.state.view.seen_length[made.shape.row(last_row)] = made.length(last_row) + 1; });
}

TEST_CASE("score: a long row needs columns for what it carries, and none where it carries nothing") {
  fkv::cache_shape const shape{.num_layers = 1,
                               .num_sequences = 1,
                               .num_kv_heads = 2,
                               .group = 2,
                               .key_head_dim = 5,
                               .value_head_dim = 3,
                               .capacity = 50};
  mixed_bench made(4, {loose, {}, {}, {}, {}}, shape, 4);
  made.place(0, history::pristine, 50);
  made.state = {made.shape, 20};
  REQUIRE(made.score(made.window.view()).ok());
  CHECK(made.state.view.flags[0] == static_cast<std::uint32_t>(fkv::sequence_flag::state_overflow));
  testing::policy_bench<score_policy<fkv::window_sum>> light(4, {loose, {}, {}, {}, {}}, shape, 4);
  light.place(0, history::pristine, 50);
  light.state = {light.shape, 20};
  REQUIRE(light.score(light.window.view()).ok());
  CHECK(light.state.view.flags[0] == 0);
  CHECK(light.scores.at(1, 49) > 0.0f);
}

TEST_CASE("score: what the host can see is refused before anything is written") {
  using judge_policy = score_policy<fkv::foresight<>>;
  testing::policy_bench<judge_policy> made(5, {loose, {}, {}, {}, {}}, 30, 6);
  made.place(history::ordered);
  fkv::judge_shape const judge_shape{made.shape.num_layers, made.shape.num_kv_heads, made.shape.group,
                                     made.shape.key_head_dim, made.shape.value_head_dim};
  testing::random_judges const judges(judge_shape, made.random);
  made.policy.scorer.weights = judges.view();
  auto const blank = made.scores.values;
  auto const list = made.list();
  auto const cache = made.cache.view();
  auto const window = made.window.view();
  auto const state = made.state.view;
  auto const scores = made.scores.view();
  auto work = testing::workspace_for<judge_policy>(made.shape, list, 6);
  auto const change = [](auto value, auto const& edit) {
    edit(value);
    return value;
  };
  auto const refused = [&](fkv::errc expected, auto const& policy, auto const& tokens,
                           fkv::sequence_list const& visited, auto const& seen, auto const& columns,
                           fkv::score_view const& out, fkv::workspace scratch) {
    CHECK(fkv::score(testing::exec, fkv::batch{policy, tokens, visited, columns, scratch}, seen, out).code == expected);
    CHECK(made.scores.values.same_bytes(blank));
    CHECK(state.flags[0] == 0);
  };
  using fkv::errc;
  auto const& policy = made.policy;
  auto const judge = [&](auto const& edit) { return change(policy, [&](auto& p) { edit(p.scorer.weights); }); };
  refused(errc::null_pointer, judge([](auto& w) { w.packed = nullptr; }), cache, list, window, state, scores,
          work.view());
  refused(errc::misaligned, judge([](auto& w) {
            w.packed = reinterpret_cast<float const*>(reinterpret_cast<std::uintptr_t>(w.packed) + 2);
          }),
          cache, list, window, state, scores, work.view());
  refused(errc::invalid_shape, judge([](auto& w) { w.shape.group += 1; }), cache, list, window, state, scores,
          work.view());
  refused(errc::invalid_shape, judge([](auto& w) { w.shape.key_head_dim += 1; }), cache, list, window, state, scores,
          work.view());
  refused(errc::invalid_shape, judge([](auto& w) { w.shape.value_head_dim += 1; }), cache, list, window, state, scores,
          work.view());
  refused(errc::invalid_shape, judge([](auto& w) { w.shape.num_kv_heads += 1; }), cache, list, window, state, scores,
          work.view());
  refused(errc::invalid_shape, judge([](auto& w) { w.shape.num_layers -= 1; }), cache, list, window, state, scores,
          work.view());
  std::vector<int> const far_layers{0, 99}, no_layers{-1, 0};
  for (auto const& layers : {far_layers, no_layers}) {
    auto const other = change(cache, [&](auto& c) { c.extents.layers = layers.data(); });
    if (layers == far_layers && made.shape.num_layers == 1) continue;
    if (testing::reads_device_data) {
      refused(errc::invalid_shape, policy, other, list, window, state, scores, work.view());
      continue;
    }
    // A device's list of layers is device data: the sequence is flagged.
    CHECK(fkv::score(testing::exec, fkv::batch{policy, other, list, state, work.view()}, window, scores).ok());
    CHECK(made.scores.values.same_bytes(blank));
    for (auto const sequence : made.slots) {
      CHECK(state.flags[sequence] == static_cast<std::uint32_t>(fkv::sequence_flag::missing_judge));
      state.flags[sequence] = 0;
    }
  }
  refused(errc::invalid_config, change(policy, [](auto& p) { p.config.sink_tokens = -1; }), cache, list, window, state,
          scores, work.view());
  refused(errc::null_pointer, policy,
          change(cache,
                 [](auto& c) {
                   c.value_data = nullptr;
                   c.value_layers = nullptr;
                 }),
          list, window, state, scores, work.view());
  refused(errc::invalid_shape, policy, cache, change(list, [](auto& l) { l.max_count = -1; }), window, state, scores,
          work.view());
  refused(errc::null_pointer, policy, cache, list, change(window, [](auto& w) { w.queries = nullptr; }), state, scores,
          work.view());
  refused(errc::unsupported, policy, cache, list, change(window, [](auto& w) { w.continues = true; }), state, scores,
          work.view());
  refused(errc::invalid_shape, policy, cache, list, window, change(state, [](auto& s) { s.capacity = 3; }), scores,
          work.view());
  refused(errc::null_pointer, policy, cache, list, window, change(state, [](auto& s) { s.flags = nullptr; }), scores,
          work.view());
  refused(errc::null_pointer, policy, cache, list, window, state, {nullptr, 30}, work.view());
  refused(errc::invalid_shape, policy, cache, list, window, state, {scores.data, -1}, work.view());
  refused(errc::workspace_too_small, policy, cache, list, window, state, scores,
          {work.memory.data(), work.memory.size() - 1});
}

namespace {

template <class Scorer>
using in_order_policy = fkv::policy<fkv::eviction_config, Scorer, fkv::top_k, fkv::ordered>;

/// A cache whose elements have scales against one whose elements were multiplied by them: powers of two, so that no
/// element is rounded.
template <template <class> class Storage, class Scorer, class Element>
void compare_scaled(Scorer const& scorer, bool in_order) {
  testing::policy_bench<in_order_policy<Scorer>, Element> scaled(31, {loose, scorer, {}, {}, {}}, 70, 9);
  scaled.place(in_order ? history::ordered : history::filled);
  auto const& shape = scaled.shape;
  constexpr bool by_token = Storage<Element>::token_bytes > 0;
  auto const count =
      static_cast<std::size_t>(by_token ? shape.num_rows() * shape.capacity : shape.num_layers * shape.num_kv_heads);
  testing::guarded<float> key_scales(count), value_scales(count);
  for (std::size_t i = 0; i < count; ++i) {
    key_scales[i] = i % 2 == 0 ? 0.25f : 2.0f;
    value_scales[i] = i % 3 == 0 ? 4.0f : 0.5f;
  }
  scaled.cache.order = testing::layout::hnd;
  using cache_type = fkv::dense_cache<Storage<Element>>;
  auto const view =
      cache_type::hnd(scaled.cache.keys.data(), scaled.cache.values.data(), scaled.cache.lengths.data(), shape)
          .with_scales(key_scales.data(), value_scales.data());
  auto plain = scaled;
  plain.each_row([&](fkv::row_index at) {
    auto const multiply = [](Element* first, int dims, float factor) {
      for (int d = 0; d < dims; ++d) first[d] = fkv::element_traits<Element>::store(fkv::to_float(first[d]) * factor);
    };
    for (int slot = 0; slot < plain.length(at); ++slot) {
      multiply(plain.cache.view().key(at, slot), shape.key_head_dim, view.keys(at).scale(slot));
      multiply(plain.cache.view().value(at, slot), shape.value_head_dim, view.values(at).scale(slot));
    }
  });
  auto const score = [](auto& made, auto const& cache) {
    auto work = testing::workspace_for<in_order_policy<Scorer>>(made.shape, made.list(), made.window.max_queries);
    REQUIRE(fkv::score(testing::exec, fkv::batch{made.policy, cache, made.list(), made.state.view, work.view()},
                       made.window.view(), made.scores.view())
                .ok());
  };
  score(plain, plain.cache.view());
  score(scaled, view);
  testing::worst_difference worst;  // not the same bits: each cache type has code of its own, contracted its own way
  plain.each_row([&](fkv::row_index at) {
    for (int slot = 0; slot < plain.length(at); ++slot) {
      double const expected = plain.scores.at(shape.row(at), slot);
      double const size = std::max(1.0, std::fabs(expected));
      worst.add(scaled.scores.at(shape.row(at), slot) / size, expected / size);
    }
  });
  CHECK(worst.value() <= 1e-5);
}

template <template <class> class Storage, class Element>
void compare_scaled_scorers() {
  compare_scaled<Storage, fkv::window_sum, Element>({}, false);
  compare_scaled<Storage, fkv::key_norm, Element>({}, false);
  compare_scaled<Storage, fkv::key_diff, Element>({}, false);
  compare_scaled<Storage, fkv::snap_kv<>, Element>({}, true);
  compare_scaled<Storage, fkv::r_kv<>, Element>({}, true);
  testing::random_source random(4);
  testing::policy_bench<in_order_policy<fkv::window_sum>, Element> const extents(31, {loose, {}, {}, {}, {}}, 70, 9);
  fkv::cache_shape const& shape = extents.shape;
  testing::random_judges const judges(
      {shape.num_layers, shape.num_kv_heads, shape.group, shape.key_head_dim, shape.value_head_dim}, random);
  compare_scaled<Storage, fkv::foresight<>, Element>({judges.view()}, false);
}

}  // namespace

TEST_CASE_TEMPLATE("score: a cache with scales by head is one whose elements carry them", Element, float,
                   fkv::bfloat16) {
  compare_scaled_scorers<fkv::scaled_by_head, Element>();
}

TEST_CASE_TEMPLATE("score: a cache with scales by token is one whose elements carry them", Element, float,
                   fkv::bfloat16) {
  compare_scaled_scorers<fkv::scaled_by_token, Element>();
}
