// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include <foresightkv/caches/dense.hpp>
#include <foresightkv/combinators/weighted_sum.hpp>
#include <foresightkv/scorers/foresight.hpp>
#include <foresightkv/verbs/evict.hpp>
#include <foresightkv/verbs/observe.hpp>
#include <foresightkv/verbs/score.hpp>

#include "support/policy_bench.hpp"
#include "support/random_judges.hpp"
#include "support/vector_file.hpp"

namespace fkv = foresightkv;
using testing::history;
using testing::random_source;

namespace {

constexpr fkv::eviction_config loose{.budget = 4, .interval = 1, .recent_tokens = 2, .sink_tokens = 1};

template <class Scorer>
using score_policy = fkv::policy<fkv::eviction_config, Scorer, fkv::top_k, fkv::slot_list>;

/// The judge through its generic form, token by token: no bulk form knows this type.
struct plain_judge {
  using reads = fkv::foresight<>::reads;
  fkv::foresight<> judge{};

  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const& lanes, Token const& token) const {
    return judge(lanes, token);
  }
};

void give(fkv::foresight<>& judge, fkv::judge_weights const& weights) { judge.weights = weights; }
/// As a term of a scorer that sees whole rows.
using one_term = fkv::weighted_sum<fkv::foresight<>>;
void give(one_term& sum, fkv::judge_weights const& weights) { sum = one_term{1.0f, {weights}}; }

/// A cache of some layers and heads of a larger model.
template <class Element, class Scorer = fkv::foresight<>>
void check_judge(std::uint64_t seed, int longest = 60, int most_queries = 40) {
  CAPTURE(seed);
  using bulk_bench = testing::policy_bench<score_policy<Scorer>, Element>;
  random_source choice(seed);
  bulk_bench made(seed, {loose, {}, {}, {}, {}}, choice.integer(longest / 15, longest),
                  choice.integer(0, most_queries));
  std::vector<int> const model_layers{3, 1};
  made.shape.layers = model_layers.data();
  made.shape.first_kv_head = 1;
  made.shape.total_kv_heads = made.shape.num_kv_heads + 2;
  made.rebuild();
  made.build(made.window.max_queries);
  made.place(static_cast<history>(choice.integer(0, 3)));
  testing::random_judges const judges(
      {4, made.shape.model_kv_heads(), made.shape.group, made.shape.key_head_dim, made.shape.value_head_dim},
      made.random);
  give(made.policy.scorer, judges.view());
  REQUIRE(made.score(made.window.view()).ok());

  testing::policy_bench<score_policy<plain_judge>, Element> plain(seed, {loose, {{judges.view()}}, {}, {}, {}},
                                                                  made.shape, 0);
  plain.cache = made.cache;
  plain.window = made.window;
  plain.positions = made.positions;
  for (int row = 0; row < made.shape.num_rows(); ++row) {
    auto const count = static_cast<std::size_t>(made.shape.capacity);
    auto const width = count * static_cast<std::size_t>(2 * made.shape.group);
    plain.state.view.seen_length[row] = made.state.view.seen_length[row];
    plain.state.view.next_position[row] = made.state.view.next_position[row];
    plain.state.view.step[row] = made.state.view.step[row];
    std::copy_n(made.state.view.position + made.state.view.column(row, 0), count,
                plain.state.view.position + plain.state.view.column(row, 0));
    std::copy_n(made.state.view.carried_at(row, 0), width, plain.state.view.carried_at(row, 0));
  }
  REQUIRE(plain.score(plain.window.view()).ok());

  testing::worst_difference generic, exact;
  constexpr oracle::statistic features[] = {{oracle::fold::maximum, 0}, {oracle::fold::minimum, 0},
                                            {oracle::fold::sum, 0},     {oracle::fold::last, 16},
                                            {oracle::fold::last, 8},    {oracle::fold::last, 32}};
  made.each_row([&](fkv::row_index at) {
    int const row = made.shape.row(at);
    auto const judge = judges.head(model_layers[static_cast<std::size_t>(at.layer)], at.kv_head + 1);
    auto const tokens = made.tokens_of(at);
    std::vector<oracle::window> seen;
    for (int j = 0; j < made.shape.group; ++j)
      seen.push_back(made.window.seen(at, j, tokens, made.row_end[static_cast<std::size_t>(row)]));
    for (std::size_t slot = 0; slot < tokens.length(); ++slot) {
      if (tokens.position[slot] < 0) continue;
      int const place = static_cast<int>(slot);
      oracle::numbers inputs;
      for (auto const& feature : features)
        for (auto const& head : seen) inputs.push_back(oracle::evaluate(feature, head, slot));
      for (int i = 0; i < 2 * made.shape.group; ++i)
        inputs.push_back(place < made.state.seen(row) ? double{made.state.view.carried_at(row, place)[i]} : 0.0);
      generic.add(plain.scores.at(row, place), made.scores.at(row, place));
      exact.add(-judge.drop_score(tokens.key[slot], tokens.value[slot], inputs), made.scores.at(row, place));
    }
  });
  CHECK(exact.value() <= 5e-5);
  CHECK(generic.value() <= 5e-5);
}

}  // namespace

TEST_CASE("foresight: the judge against the oracle and its own generic form, float") {
  for (std::uint64_t seed = 0; seed < 16; ++seed) check_judge<float>(seed);
}

TEST_CASE("foresight: the judge against the oracle and its own generic form, half") {
  for (std::uint64_t seed = 20; seed < 32; ++seed) check_judge<fkv::half>(seed);
}

TEST_CASE("foresight: the judge over windows of several tiles") {
  for (std::uint64_t seed = 40; seed < 44; ++seed) {
    check_judge<fkv::bfloat16>(seed, 250, 150);
    check_judge<fkv::half>(seed + 4, 250, 150);
  }
}

TEST_CASE("foresight: the judge as a term of another scorer") {
  for (std::uint64_t seed = 50; seed < 54; ++seed) {
    check_judge<float, one_term>(seed);
    check_judge<fkv::bfloat16, one_term>(seed + 4);
    check_judge<fkv::float8_e4m3, one_term>(seed + 8, 300);
  }
}

TEST_CASE("foresight: what each feature policy reads") {
  using fkv::accumulated, fkv::decayed, fkv::last, fkv::maximum, fkv::minimum, fkv::sum;
  static_assert(std::is_same_v<fkv::foresight<>::reads, fkv::foresight<fkv::paper>::reads>);
  static_assert(
      std::is_same_v<fkv::paper::reads,
                     fkv::statistics<maximum, minimum, sum, last<16>, last<8>, last<32>, accumulated, decayed>>);
  static_assert(
      std::is_same_v<fkv::reference_checkpoint::reads, fkv::statistics<maximum, minimum, sum, accumulated, decayed>>);
  static_assert(std::is_same_v<fkv::reference_evaluation::reads, fkv::statistics<maximum, minimum, sum, accumulated>>);
  int features = 0;
  fkv::reference_checkpoint::for_each([&](auto) { ++features; });
  CHECK(features == fkv::judge_shape::features);
}

TEST_CASE("foresight: covers the layers that it has weights for") {
  fkv::foresight<> scorer;
  scorer.weights.shape.num_layers = 3;
  CHECK_FALSE(scorer.covers(-1));
  CHECK(scorer.covers(0));
  CHECK(scorer.covers(2));
  CHECK_FALSE(scorer.covers(3));
}

namespace {

/// Two KV heads of four query heads, on one GPU or, of each head twice, on four ranks with two query heads each.
struct shared_heads {
  using policy_type = fkv::policy<fkv::eviction_config, fkv::foresight<>, fkv::sampled_top_k, fkv::fill_holes>;
  using reads = fkv::window_statistics<policy_type::reads>;
  static constexpr int capacity = 90, queries = 12, dim = 16;
  static constexpr fkv::cache_shape whole{.num_layers = 2,
                                          .num_sequences = 2,
                                          .num_kv_heads = 2,
                                          .group = 4,
                                          .key_head_dim = dim,
                                          .value_head_dim = dim,
                                          .capacity = capacity};
  struct rank {
    fkv::cache_shape shape;
    testing::owned_cache<float> cache;
    testing::guarded<float> queries;  // [layer][sequence][query head][query][dim]
    testing::owned_statistics<reads> statistics;
    testing::owned_state<policy_type> state;
    testing::owned_selection lists;
    testing::guarded<std::int32_t> new_lengths{2};
  };

  random_source random{71};
  testing::random_judges judges{{2, 2, 4, dim, dim}, random};
  policy_type policy{{.budget = 40, .interval = 20, .recent_tokens = 5}, {judges.view()}, {}, {}, {}};
  std::vector<std::vector<float>> all_queries;  // [query head of the model], [layer][sequence][query][dim]
  rank single = make(whole);

  shared_heads() {
    for (int head = 0; head < 8; ++head) {
      all_queries.emplace_back(2 * 2 * queries * dim);
      random.fill_normal<float>(all_queries.back(), 0.5f);
    }
    single.cache.fill(random);
    take_queries(single, 0);
  }
  [[nodiscard]] static rank make(fkv::cache_shape const& shape) {
    return {shape,
            {shape, 70},
            testing::guarded<float>(static_cast<std::size_t>(4 * shape.num_kv_heads * shape.group * queries * dim)),
            {shape, capacity},
            {whole_group(shape), 60},
            {shape, capacity}};
  }
  [[nodiscard]] static fkv::cache_shape whole_group(fkv::cache_shape shape) {
    shape.group = 4;
    return shape;
  }
  void take_queries(rank& to, int first_head) const {
    int const heads = to.shape.num_kv_heads * to.shape.group;
    for (int place = 0; place < 4; ++place)
      for (int head = 0; head < heads; ++head)
        std::copy_n(all_queries[static_cast<std::size_t>(first_head + head)].data() + place * queries * dim,
                    queries * dim, to.queries.data() + (place * heads + head) * queries * dim);
  }
  /// A rank's share: its KV head, and a half of that head's query heads.
  [[nodiscard]] rank share(int number) {
    fkv::cache_shape shape = whole;
    shape.num_kv_heads = 1;
    shape.group = 2;
    shape.first_kv_head = number / 2;
    shape.total_kv_heads = 2;
    rank made = make(shape);
    take_queries(made, 2 * number);
    auto const from = single.cache.view(), to = made.cache.view();
    for (int layer = 0; layer < 2; ++layer)
      for (int sequence = 0; sequence < 2; ++sequence)
        for (int slot = 0; slot < 70; ++slot) {
          std::copy_n(from.key({layer, sequence, number / 2}, slot), dim, to.key({layer, sequence, 0}, slot));
          std::copy_n(from.value({layer, sequence, number / 2}, slot), dim, to.value({layer, sequence, 0}, slot));
        }
    return made;
  }
  static constexpr fkv::sequence_list all{nullptr, nullptr, 2, capacity};
  static void observe(rank& on) {
    testing::owned_workspace work(fkv::observe_bytes<reads>(testing::exec, on.shape, all, queries));
    auto const window = fkv::observation<float>::hnd(on.queries.data(), on.shape, queries);
    REQUIRE(fkv::observe(testing::exec, on.cache.view(), all, window, on.state.view, on.statistics.view(), work.view())
                .ok());
  }
  void evict(rank& on, testing::owned_statistics<reads>& gathered) const {
    auto cache = on.cache.view();
    cache.extents.group = 4;
    auto work = testing::workspace_for<policy_type>(cache.extents, all, 0);
    fkv::batch const rows{policy, cache, all, on.state.view, work.view()};
    REQUIRE(
        fkv::evict(testing::exec, rows, fkv::observed<reads>{gathered.view()}, {on.new_lengths.data(), on.lists.view()})
            .ok());
    CHECK(on.new_lengths[0] == 40);
  }
};

}  // namespace

TEST_CASE("foresight: ranks that hold the same KV head decide alike, from statistics that they share") {
  shared_heads made;
  made.observe(made.single);
  std::vector<shared_heads::rank> ranks;
  for (int number = 0; number < 4; ++number) {
    ranks.push_back(made.share(number));
    made.observe(ranks.back());
  }
  for (int round = 0; round < 2; ++round) {  // with carried columns the second time
    made.evict(made.single, made.single.statistics);
    for (int number = 0; number < 4; ++number) {
      shared_heads::rank& rank = ranks[static_cast<std::size_t>(number)];
      testing::owned_statistics<shared_heads::reads> gathered(shared_heads::whole_group(rank.shape), 90);
      for (int j = 0; j < 4; ++j) {
        auto const& from = ranks[static_cast<std::size_t>(number / 2 * 2 + j / 2)].statistics;
        for (std::size_t place = 0; place < from.values.size() / 2; ++place)
          gathered.values[place * 4 + static_cast<std::size_t>(j)] =
              from.values[place * 2 + static_cast<std::size_t>(j % 2)];
      }
      made.evict(rank, gathered);
    }
    int wrong = 0;
    for (int number = 0; number < 4; ++number) {
      shared_heads::rank const& rank = ranks[static_cast<std::size_t>(number)];
      shared_heads::rank const& twin = ranks[static_cast<std::size_t>(number ^ 1)];
      wrong += !testing::same_state(rank.state.view, twin.state.view) || !rank.lists.same(twin.lists) ||
               !rank.cache.same_tokens(twin.cache);
      for (int layer = 0; layer < 2; ++layer)
        for (int sequence = 0; sequence < 2; ++sequence) {
          int const own = rank.shape.row({layer, sequence, 0});
          int const whole = shared_heads::whole.row({layer, sequence, number / 2});
          wrong += rank.lists.evicted_of(own) != made.single.lists.evicted_of(whole);
        }
    }
    CHECK(wrong == 0);
    if (round > 0) break;
    for (auto* rank :
         {&made.single, &ranks[0], &ranks[1], &ranks[2], &ranks[3]})  // the same slots again, as new tokens
      std::fill(rank->cache.lengths.begin(), rank->cache.lengths.end(), 70);
  }
}
