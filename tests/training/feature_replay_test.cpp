// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <foresightkv/foresightkv.hpp>
#include <foresightkv/training/feature_replay.hpp>

#include "support/harness.hpp"
#include "support/replay_problem.hpp"
#include "support/training_vectors.hpp"

namespace fkv = foresightkv;
namespace training = fkv::training;
using fkv::errc;
using testing::replay_problem;
using testing::replay_rows;
using testing::replayed;
using training::replay_config;
using training::replay_guide;

namespace {

/// The regimes that the tests go through: the published one, a prompt, a wider recent window with sinks.
constexpr replay_config published{{.budget = 48, .interval = 16}, 0};
constexpr replay_config prompted{{.budget = 32, .interval = 16}, 112};
constexpr replay_config protected_tokens{{.budget = 48, .interval = 16, .recent_tokens = 21, .sink_tokens = 3}, 80};

/// One KV head of a replay in double precision, token by token: statistics from the definition.
class naive_head {
 public:
  naive_head(replay_problem<float> const& given, int head) : given_(given), head_(head) {}

  void arrive(int first, int last) {
    for (int token = first; token < last; ++token) cached_.push_back({token, {}, {}});
  }
  /// Attention of the queries [first, last) over what is cached, folded into the carried statistics.
  void observe(int first, int last) {
    for (auto& token : cached_)
      for (int j = 0; j < given_.group; ++j) token.window[at(j)].clear();
    for (int j = 0; j < given_.group; ++j)
      for (int query = first; query < last; ++query) attend(j, query);
    for (auto& token : cached_)
      for (int j = 0; j < given_.group; ++j) {
        double const sum = summed(token.window[at(j)], last - first);
        token.accumulated[at(j)] += sum;
        token.decayed[at(j)] = 0.9 * token.decayed[at(j)] + sum;
      }
  }
  void evict(std::int32_t const* positions, int count) {
    std::erase_if(cached_, [&](auto const& token) {
      return std::find(positions, positions + count, token.position) != positions + count;
    });
  }

  [[nodiscard]] int size() const { return static_cast<int>(cached_.size()); }
  [[nodiscard]] int position(int slot) const { return cached_[at(slot)].position; }

  /// The eight statistics of a slot, feature after feature; `widths` are those of the third to sixth.
  [[nodiscard]] std::vector<double> statistics(int slot, std::array<int, 4> const& widths) const {
    auto const& token = cached_[at(slot)];
    std::vector<double> all;
    auto const each = [&](auto const& value) {
      for (int j = 0; j < given_.group; ++j) all.push_back(value(at(j)));
    };
    each([&](std::size_t j) { return *std::max_element(token.window[j].begin(), token.window[j].end()); });
    each([&](std::size_t j) { return *std::min_element(token.window[j].begin(), token.window[j].end()); });
    for (int const width : widths) each([&](std::size_t j) { return summed(token.window[j], width); });
    each([&](std::size_t j) { return token.accumulated[j]; });
    each([&](std::size_t j) { return token.decayed[j]; });
    return all;
  }

 private:
  struct token {
    int position;
    std::array<double, 3> accumulated, decayed;
    std::array<std::vector<double>, 3> window{};  // probabilities, oldest query first
  };

  static std::size_t at(int index) { return static_cast<std::size_t>(index); }
  static double summed(std::vector<double> const& values, int newest) {
    double sum = 0.0;
    for (std::size_t i = 0; i < values.size(); ++i)
      if (values.size() - i <= at(newest)) sum += values[i];
    return sum;
  }

  void attend(int j, int query) {
    std::vector<double> weights;
    double total = 0.0;
    for (auto const& token : cached_) {
      double logit = 0.0;
      for (int dim = 0; dim < given_.key_dim; ++dim)
        logit += static_cast<double>(
                     given_.queries[at(((head_ * given_.group + j) * given_.tokens + query) * given_.key_dim + dim)]) *
                 static_cast<double>(given_.keys[at((head_ * given_.tokens + token.position) * given_.key_dim + dim)]);
      weights.push_back(token.position <= query ? std::exp(logit / std::sqrt(static_cast<double>(given_.key_dim)))
                                                : 0.0);
      total += weights.back();
    }
    for (std::size_t i = 0; i < cached_.size(); ++i) cached_[i].window[at(j)].push_back(weights[i] / total);
  }

  replay_problem<float> const& given_;
  int head_;
  std::vector<token> cached_;
};

/// Follows a replay's evictions and compares every row with the definition.
void check_rows(replay_problem<float> const& given, replay_rows const& got, std::array<int, 4> const& widths) {
  auto const& config = given.config;
  int const interval = config.eviction.interval;
  testing::worst_difference statistics;
  for (int head = 0; head < given.kv_heads; ++head) {
    naive_head naive(given, head);
    naive.arrive(0, config.first_length() - interval);
    naive.observe(0, config.first_length() - interval);
    naive.arrive(config.first_length() - interval, config.first_length());
    for (int step = 0; step < config.steps(given.tokens); ++step) {
      int const next = config.next_token(step), count = config.candidates(step), gone = config.evictions(step);
      naive.observe(next - interval, next);
      REQUIRE(naive.size() == config.length(step));
      auto const row = given.kv_heads * config.candidates_before(step) + static_cast<std::size_t>(head * count);
      auto const went = given.kv_heads * config.evictions_before(step) + static_cast<std::size_t>(head * gone);
      float const* const future =
          given.future.data() + (std::ptrdiff_t{head} * given.future_rows + next / interval - 2) * given.tokens;
      for (int c = 0; c < count; ++c) {
        auto const place = row + static_cast<std::size_t>(c);
        int const position = naive.position(config.eviction.sink_tokens + c);
        REQUIRE(got.positions[place] == position);
        CHECK(got.labels[place] == future[position]);
        auto const expected = naive.statistics(config.eviction.sink_tokens + c, widths);
        for (std::size_t i = 0; i < expected.size(); ++i)
          statistics.add(static_cast<double>(got.statistics[place * expected.size() + i]) / std::max(1.0, expected[i]),
                         expected[i] / std::max(1.0, expected[i]));
      }
      for (int i = 0; i < gone; ++i) {
        auto const place = went + static_cast<std::size_t>(i);
        CHECK(got.evicted_positions[place] == got.positions[row + static_cast<std::size_t>(got.evicted[place])]);
      }
      naive.evict(got.evicted_positions.data() + went, gone);
      naive.arrive(next, std::min(next + interval, given.tokens));
    }
  }
  CHECK(statistics.within(2e-6));
}

/// Evictions of `evict` with these judges on a cache that holds copies, [step][kv_head] positions.
template <class Features, class Selector>
std::vector<std::int32_t> evicted_by_engine(replay_problem<float> const& given, replay_guide const& guide) {
  auto const& config = given.config;
  fkv::cache_shape const shape{.num_kv_heads = given.kv_heads,
                               .group = given.group,
                               .key_head_dim = given.key_dim,
                               .value_head_dim = given.value_dim,
                               .capacity = config.first_length()};
  int const number = given.layer().layer;
  auto numbered = shape;
  numbered.layers = &number;
  fkv::judge_shape judges{4, given.kv_heads, given.group, given.key_dim, given.value_dim};
  std::vector<float> weights(fkv::packed_judge_floats(judges));
  std::copy(given.weights.begin(), given.weights.end(), weights.end() - std::ssize(given.weights));
  auto const policy =
      fkv::compose(config.eviction, fkv::foresight<Features>{{weights.data(), judges}}, Selector{}, fkv::ordered{});
  using policy_type = std::remove_cvref_t<decltype(policy)>;
  testing::owned_cache<float> cache(numbered, 0);
  testing::owned_state<policy_type> state(numbered, shape.capacity);
  state.view.request_id[0] = guide.rollout;
  state.view.seed[0] = guide.seed;
  testing::owned_selection lists(numbered, shape.capacity);
  fkv::sequence_list const visit{nullptr, nullptr, 1, shape.capacity};
  auto scratch = testing::workspace_for<policy_type>(numbered, visit, config.first_length());
  int length = 0;
  auto const append = [&](int first, int last) {
    for (int head = 0; head < given.kv_heads; ++head)
      for (int token = first; token < last; ++token) {
        std::copy_n(given.keys.data() + (head * given.tokens + token) * given.key_dim, given.key_dim,
                    cache.view().key({0, 0, head}, length + token - first));
        std::copy_n(given.values.data() + (head * given.tokens + token) * given.value_dim, given.value_dim,
                    cache.view().value({0, 0, head}, length + token - first));
      }
    length += last - first;
    cache.length({}) = length;
  };
  auto const window = [&](int first, int last) {
    auto seen = fkv::observation<float>::hnd(given.queries.data() + first * given.key_dim, numbered, last - first);
    seen.strides.head = std::int64_t{given.tokens} * given.key_dim;
    return seen;
  };
  int const interval = config.eviction.interval, prompt = config.first_length() - interval;
  append(0, prompt);
  REQUIRE(fkv::carry(fkv::host, fkv::batch{policy, cache.view(), visit, state.view, scratch.view()}, window(0, prompt))
              .ok());
  append(prompt, config.first_length());
  std::vector<std::int32_t> all;
  for (int step = 0; step < config.steps(given.tokens); ++step) {
    int const next = config.next_token(step);
    REQUIRE(fkv::evict(fkv::host, fkv::batch{policy, cache.view(), visit, state.view, scratch.view()},
                       window(next - interval, next), {.new_lengths = &length, .lists = lists.view()})
                .ok());
    for (int head = 0; head < given.kv_heads; ++head) {
      auto const went = lists.positions_of(head);
      all.insert(all.end(), went.begin(), went.end());
    }
    append(next, std::min(next + interval, given.tokens));
  }
  CHECK(state.view.flags[0] == 0);
  return all;
}

std::vector<std::int32_t> list_of(testing::guarded<std::int32_t> const& values) {
  return {values.data(), values.data() + values.size()};
}

}  // namespace

TEST_CASE("feature_replay: teacher forcing follows golden's own schedule and labels") {
  replay_problem<float> const given(published, 1);
  auto const got = replayed<fkv::paper>(given, {});
  fkv::golden_config const golden{.budget = 48, .interval = 16};
  auto const count = static_cast<std::size_t>(golden.steps(given.tokens) * given.kv_heads);
  REQUIRE(count > 0);
  std::vector<float> labels(count * 48);
  std::vector<std::int32_t> evicted(count * 16), positions(count * 16);
  std::vector<std::byte> memory(fkv::golden_eviction_bytes(fkv::host, golden, given.golden_input().shape));
  REQUIRE(fkv::golden_eviction(fkv::host, golden, given.golden_input(),
                               {labels.data(), evicted.data(), positions.data(), nullptr},
                               {memory.data(), memory.size()})
              .ok());
  CHECK(std::equal(labels.begin(), labels.end(), got.labels.data(), got.labels.data() + got.labels.size()));
  CHECK(list_of(got.evicted) == evicted);
  CHECK(list_of(got.evicted_positions) == positions);
}

TEST_CASE("feature_replay: statistics and labels agree with the definition, in every regime") {
  for (auto const& config : {published, prompted, protected_tokens})
    for (bool const on_policy : {false, true}) {
      CAPTURE(config.start);
      CAPTURE(on_policy);
      replay_problem<float> const given(config, 2);
      replay_guide guide;
      if (on_policy) guide.weights = given.weights.data();
      check_rows(given, replayed<fkv::paper>(given, guide), {16, 16, 8, 32});
      // Every sub-window of the published training code is the whole window.
      check_rows(given, replayed<fkv::reference_checkpoint>(given, guide), {16, 16, 16, 16});
    }
}

TEST_CASE("feature_replay: golden evicts the lowest labels, the lowest index first among equals") {
  replay_problem<float> given(prompted, 3);
  for (float& value : given.future) value = std::floor(20.0f * value);  // many ties
  auto const got = replayed<fkv::paper>(given, {});
  for (int step = 0; step < given.config.steps(given.tokens); ++step)
    for (int head = 0; head < given.kv_heads; ++head) {
      int const count = given.config.candidates(step), gone = given.config.evictions(step);
      float const* const labels =
          got.labels.data() + given.kv_heads * given.config.candidates_before(step) + head * count;
      std::vector<std::int32_t> order(static_cast<std::size_t>(count));
      for (int i = 0; i < count; ++i) order[static_cast<std::size_t>(i)] = i;
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return labels[a] < labels[b]; });
      std::sort(order.begin(), order.begin() + gone);
      std::int32_t const* const went =
          got.evicted.data() + given.kv_heads * given.config.evictions_before(step) + head * gone;
      CHECK(std::equal(went, went + gone, order.begin()));
    }
}

TEST_CASE("feature_replay: a judge evicts what `evict` evicts with it") {
  for (auto const& config : {published, prompted, protected_tokens}) {
    CAPTURE(config.start);
    replay_problem<float> const given(config, 4);
    replay_guide const guide{.weights = given.weights.data()};
    CHECK(list_of(replayed<fkv::paper>(given, guide).evicted_positions) ==
          evicted_by_engine<fkv::paper, fkv::top_k>(given, guide));
    CHECK(list_of(replayed<fkv::reference_checkpoint>(given, guide).evicted_positions) ==
          evicted_by_engine<fkv::reference_checkpoint, fkv::top_k>(given, guide));
  }
}

TEST_CASE("feature_replay: rollouts are drawn as sampled_top_k draws, another one for another number") {
  replay_problem<float> const given(published, 5);
  replay_guide guide{.weights = given.weights.data(), .sampled = true, .seed = 11, .rollout = 0};
  auto const first = replayed<fkv::paper>(given, guide);
  CHECK(list_of(first.evicted_positions) == evicted_by_engine<fkv::paper, fkv::sampled_top_k>(given, guide));
  CHECK(replayed<fkv::paper>(given, guide).same(first));
  guide.rollout = 1;
  auto const second = replayed<fkv::paper>(given, guide);
  CHECK(list_of(second.evicted_positions) == evicted_by_engine<fkv::paper, fkv::sampled_top_k>(given, guide));
  CHECK_FALSE(second.same(first));
}

TEST_CASE("feature_replay: the same bits whatever the number of threads") {
  replay_problem<float> const given(prompted, 6);
  for (float const* weights : {static_cast<float const*>(nullptr), given.weights.data()})
    CHECK(replayed<fkv::paper>(given, {.weights = weights}, fkv::host.threads(1))
              .same(replayed<fkv::paper>(given, {.weights = weights}, fkv::host.threads(3))));
}

TEST_CASE("feature_replay: narrow storage and padded strides read as what they hold") {
  replay_problem<fkv::half> const narrow(published, 7);
  replay_problem<float> wide(published, 7);
  auto const widen = [](auto const& from, auto& to) {
    std::transform(from.begin(), from.end(), to.begin(),
                   [](fkv::half value) { return fkv::element_traits<fkv::half>::load(value); });
  };
  widen(narrow.queries, wide.queries);
  widen(narrow.keys, wide.keys);
  widen(narrow.values, wide.values);
  wide.future = narrow.future;
  replay_guide const guide{.weights = narrow.weights.data()};
  auto const expected = replayed<fkv::paper>(narrow, guide);
  CHECK(replayed<fkv::paper>(wide, guide).same(expected));

  // Tokens of a head lie `tokens` apart in a layout [token][head][dim].
  auto const turned = [](auto const& from, int heads, int tokens, int dim) {
    auto to = from;
    for (int head = 0; head < heads; ++head)
      for (int token = 0; token < tokens; ++token)
        std::copy_n(from.begin() + (head * tokens + token) * dim, dim, to.begin() + (token * heads + head) * dim);
    return to;
  };
  auto const queries = turned(wide.queries, wide.kv_heads * wide.group, wide.tokens, wide.key_dim);
  auto const keys = turned(wide.keys, wide.kv_heads, wide.tokens, wide.key_dim);
  auto const values = turned(wide.values, wide.kv_heads, wide.tokens, wide.value_dim);
  auto layer = wide.layer();
  layer.queries = queries.data();
  layer.keys = keys.data();
  layer.values = values.data();
  layer.query_strides = {wide.key_dim, wide.kv_heads * wide.group * wide.key_dim};
  layer.key_strides = {wide.key_dim, wide.kv_heads * wide.key_dim};
  layer.value_strides = {wide.value_dim, wide.kv_heads * wide.value_dim};
  replay_rows rows(wide);
  std::vector<std::byte> memory(training::feature_replay_bytes<fkv::paper>(fkv::host, wide.config, layer));
  REQUIRE(training::feature_replay<fkv::paper>(fkv::host, wide.config, layer, wide.future_view(), guide, rows.view(),
                                               {memory.data(), memory.size()})
              .ok());
  CHECK(rows.same(expected));
}

TEST_CASE("feature_replay: a sequence no longer than its start has no step and needs nothing") {
  training::recorded_layer<float> layer{
      .kv_heads = 2, .group = 3, .tokens = 64, .key_head_dim = 12, .value_head_dim = 5};
  CHECK(published.steps(64) == 0);
  CHECK(training::feature_replay_bytes<fkv::paper>(fkv::host, published, layer) == 0);
  CHECK(training::feature_replay<fkv::paper>(fkv::host, published, layer, {}, {}, {}, {}).ok());
}

TEST_CASE("feature_replay: errors leave every output as it was") {
  replay_problem<float> const given(published, 8);
  replay_rows rows(given);
  auto const before = rows;
  std::vector<std::byte> memory(training::feature_replay_bytes<fkv::paper>(fkv::host, published, given.layer()));
  auto config = published;
  auto layer = given.layer();
  auto future = given.future_view();
  auto output = rows.view();
  fkv::workspace scratch{memory.data(), memory.size()};
  auto const code = [&] {
    return training::feature_replay<fkv::paper>(fkv::host, config, layer, future, {}, output, scratch).code;
  };
  auto const expect = [&](auto&& spoil, errc expected) {
    auto const kept_config = config;
    auto const kept_layer = layer;
    auto const kept_future = future;
    auto const kept_output = output;
    auto const kept_scratch = scratch;
    spoil();
    CHECK(code() == expected);
    CHECK(rows.same(before));
    config = kept_config;
    layer = kept_layer;
    future = kept_future;
    output = kept_output;
    scratch = kept_scratch;
  };
  expect([&] { config.start = 63; }, errc::invalid_config);  // below budget + interval
  expect([&] { config.start = 65; }, errc::invalid_config);  // no block border
  expect([&] { config.eviction.budget = 0; }, errc::invalid_config);
  expect([&] { layer.kv_heads = 0; }, errc::invalid_shape);
  expect([&] { layer.tokens = -1; }, errc::invalid_shape);
  expect([&] { layer.softmax_scale = std::numeric_limits<float>::infinity(); }, errc::invalid_shape);
  expect([&] { layer.queries = nullptr; }, errc::null_pointer);
  expect([&] { layer.values = nullptr; }, errc::null_pointer);
  expect([&] { future.data = nullptr; }, errc::null_pointer);
  expect([&] { future.rows -= 1; }, errc::invalid_shape);
  expect([&] { future.first_block = 5; }, errc::invalid_shape);
  expect([&] { future.tokens -= 1; }, errc::invalid_shape);
  expect([&] { output.positions = nullptr; }, errc::null_pointer);
  expect([&] { output.statistics = nullptr; }, errc::null_pointer);
  expect([&] { output.labels = nullptr; }, errc::null_pointer);
  expect([&] { scratch.size -= 1; }, errc::workspace_too_small);
  expect([&] { scratch.data = nullptr; }, errc::null_pointer);
  CHECK(code() == errc::ok);
}
