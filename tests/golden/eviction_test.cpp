// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <foresightkv/golden/eviction.hpp>

#include "support/data.hpp"
#include "support/execution.hpp"
#include "support/golden_oracle.hpp"
#include "support/golden_vectors.hpp"

namespace fkv = foresightkv;
using fkv::errc;
using fkv::golden_config;
using fkv::golden_future;
using fkv::golden_reduction;
using fkv::golden_rules;
using golden_oracle::at;
using golden_oracle::problem;
using golden_oracle::random_problem;

// ---- the paper's worked example, as a constant expression
// ---------------------------------------------------------

namespace figure {

// The figure's B = 5 counts the two protected tokens: 3 candidates, interval 2.
inline constexpr golden_config config{.budget = 3, .interval = 2};
inline constexpr std::size_t tokens = 11;
inline constexpr std::array<std::array<float, tokens>, 6> attention_rows{{{.7f, .1f, .2f},
                                                                          {.5f, .1f, .4f},
                                                                          {.1f, .2f, 0, .5f, .1f},
                                                                          {.1f, .2f, .2f, .3f, .1f},
                                                                          {0, 0, .5f, .1f, 0, 0, .2f},
                                                                          {.2f, 0, .3f, 0, .3f, .2f, 0}}};

constexpr auto block_means() {
  std::array<std::array<float, 3>, tokens> means{};
  for (std::size_t k = 0; k < tokens; ++k)
    for (std::size_t block = 0; block < 3; ++block)
      means[k][block] = (attention_rows[2 * block][k] + attention_rows[2 * block + 1][k]) / 2.0f;
  return means;
}

constexpr bool near(float a, float b) { return a - b < 1e-6f && b - a < 1e-6f; }

template <std::size_t Count>
constexpr bool starts_with(std::array<float, tokens> const& row, std::array<float, Count> const& wanted) {
  for (std::size_t k = 0; k < Count; ++k)
    if (!near(row[k], wanted[k])) return false;
  return true;
}

constexpr bool block_is(std::size_t block, std::array<float, 7> const& wanted) {
  for (std::size_t k = 0; k < wanted.size(); ++k)
    if (!near(block_means()[k][block], wanted[k])) return false;
  return true;
}

template <class Pair>
constexpr bool are(Pair const& list, int first, int second) {
  return list.size() == 2 && list[0] == first && list[1] == second;
}

inline constexpr auto plan = fkv::golden_eviction<config>(block_means());

static_assert(block_is(0, {.6f, .1f, .3f, 0, 0, 0, 0}));
static_assert(block_is(1, {.1f, .2f, .1f, .4f, .1f, 0, 0}));
static_assert(block_is(2, {.1f, 0, .4f, .05f, .15f, .1f, .1f}));
static_assert(plan.steps == 3);
static_assert(starts_with<3>(plan.future[0], {.6f, .2f, .4f}));
static_assert(starts_with<5>(plan.future[1], {.1f, .2f, .4f, .4f, .15f}));
static_assert(starts_with<7>(plan.future[2], {.1f, 0, .4f, .05f, .15f, .1f, .1f}));
static_assert(near(plan.labels[0][0], .6f) && near(plan.labels[0][1], .2f) && near(plan.labels[0][2], .4f));
static_assert(are(plan.evicted[0], 1, 2) && are(plan.evicted_positions[0], 1, 2));
static_assert(are(plan.evicted[1], 0, 2) && are(plan.evicted_positions[1], 0, 4));
static_assert(are(plan.evicted[2], 0, 1) && are(plan.evicted_positions[2], 3, 5));

}  // namespace figure

// ---- the config's arithmetic
// --------------------------------------------------------------------------------------

static_assert(golden_config{}.valid() && golden_config{}.aligned());
static_assert(golden_config{.budget = 1024, .interval = 256}.steps(4096) == 11);
static_assert(golden_config{.budget = 1024, .interval = 256}.steps(1280) == 0);
static_assert(golden_config{.budget = 1024, .interval = 256}.steps(1281) == 1);
static_assert(golden_config{.budget = 1024, .interval = 256}.steps(0) == 0);
static_assert(golden_config{.budget = 2147483647, .interval = 2147483647}.steps(2147483647) == 0);
static_assert(golden_config{.budget = 1, .interval = 1}.steps(2147483647) == 2147483645);
static_assert(golden_config{.budget = 64, .interval = 64}.valid());
static_assert(!golden_config{.budget = 64, .interval = 65}.valid());
static_assert(!golden_config{.budget = 0, .interval = 0}.valid());
static_assert(!golden_config{.budget = 8, .interval = -1}.valid());
static_assert(!golden_config{.discount = 1.5f}.valid() && !golden_config{.discount = -0.1f}.valid());
static_assert(!golden_config{.future = static_cast<golden_future>(4)}.valid());
static_assert(!golden_config{.reduction = static_cast<golden_reduction>(-1)}.valid());
static_assert(!golden_config{.rules = static_cast<golden_rules>(2)}.valid());
static_assert(!golden_config{.budget = 72, .interval = 16}.aligned());
static_assert(golden_config{.budget = 72, .interval = 16, .rules = golden_rules::published}.aligned());
static_assert(golden_config{.budget = 72, .interval = 16}.first_block() == 5);
static_assert(golden_config{.interval = 16}.block_rows(18, 300) == 12);
static_assert(golden_config{.interval = 16, .rules = golden_rules::published}.block_rows(18, 300) == 16);

namespace {

double default_scale(problem const& given) { return 1.0 / std::sqrt(static_cast<double>(given.shape.head_dim)); }

// ---- running the verbs, with red zones around every output
// ---------------------------------------------------------

template <class Value>
class guarded {
 public:
  guarded() = default;
  explicit guarded(std::size_t count) : memory_(count + 2 * zone) {
    std::memset(memory_.data(), 0xa5, memory_.size() * sizeof(Value));
  }
  Value* data() { return memory_.data() + zone; }
  [[nodiscard]] std::size_t size() const { return memory_.size() - 2 * zone; }
  Value operator[](std::size_t i) const { return memory_[zone + i]; }
  [[nodiscard]] std::vector<Value> values() const {
    return {memory_.begin() + zone, memory_.end() - static_cast<std::ptrdiff_t>(zone)};
  }
  [[nodiscard]] bool zones_hold() const { return untouched(0, zone) && untouched(memory_.size() - zone, zone); }
  [[nodiscard]] bool untouched() const { return untouched(0, memory_.size()); }

 private:
  static constexpr std::size_t zone = 32;
  [[nodiscard]] bool untouched(std::size_t first, std::size_t count) const {
    auto const* bytes = reinterpret_cast<unsigned char const*>(memory_.data() + first);
    return std::all_of(bytes, bytes + count * sizeof(Value), [](unsigned char byte) { return byte == 0xa5; });
  }
  std::vector<Value> memory_;
};

struct results {
  int steps = 0;
  guarded<float> labels, future;
  guarded<std::int32_t> evicted, positions;

  results(golden_config const& config, int kv_heads, int tokens, int num_steps)
      : steps(num_steps),
        labels(at(num_steps) * at(kv_heads) * at(config.budget)),
        future(at(num_steps) * at(kv_heads) * at(tokens)),
        evicted(at(num_steps) * at(kv_heads) * at(config.interval)),
        positions(evicted.size()) {}
  fkv::golden_output output() { return {labels.data(), evicted.data(), positions.data(), future.data()}; }
  [[nodiscard]] bool zones_hold() const {
    return labels.zones_hold() && future.zones_hold() && evicted.zones_hold() && positions.zones_hold();
  }
  [[nodiscard]] bool untouched() const {
    return labels.untouched() && future.untouched() && evicted.untouched() && positions.untouched();
  }
};

template <class Value>
bool same_bits(std::vector<Value> const& a, std::vector<Value> const& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(Value)) == 0);
}
bool same_bits(results const& a, results const& b) {
  return same_bits(a.labels.values(), b.labels.values()) && same_bits(a.future.values(), b.future.values()) &&
         same_bits(a.evicted.values(), b.evicted.values()) && same_bits(a.positions.values(), b.positions.values());
}

template <class Query, class Key, fkv::log_base Base>
results run(golden_config const& config, fkv::golden_input<Query, Key, Base> const& input,
            testing::execution exec = testing::exec) {
  results got{config, input.shape.kv_heads, input.shape.tokens, config.steps(input.shape.tokens)};
  guarded<std::byte> scratch{fkv::golden_eviction_bytes(exec, config, input.shape)};
  REQUIRE(fkv::golden_eviction(exec, config, input, got.output(), {scratch.data(), scratch.size()}).ok());
  CHECK(got.zones_hold());
  CHECK(scratch.zones_hold());
  return got;
}

results run(golden_config const& config, fkv::golden_means const& means, testing::execution exec = testing::exec) {
  results got{config, means.kv_heads, means.tokens, std::min(config.steps(means.tokens), means.blocks)};
  guarded<std::byte> scratch{fkv::golden_eviction_bytes(exec, config, means)};
  REQUIRE(fkv::golden_eviction(exec, config, means, got.output(), {scratch.data(), scratch.size()}).ok());
  CHECK(got.zones_hold());
  CHECK(scratch.zones_hold());
  return got;
}

template <class Query, class Key, fkv::log_base Base>
std::vector<float> run_means(golden_config const& config, fkv::golden_input<Query, Key, Base> const& input,
                             testing::execution exec = testing::exec) {
  guarded<float> means{at(input.shape.kv_heads) * at(config.future_blocks(input.shape.tokens)) *
                       at(input.shape.tokens)};
  guarded<std::byte> scratch{fkv::block_means_bytes(exec, config, input.shape)};
  REQUIRE(fkv::block_means(exec, config, input, means.data(), {scratch.data(), scratch.size()}).ok());
  CHECK(means.zones_hold());
  CHECK(scratch.zones_hold());
  return means.values();
}

double largest_difference(std::vector<float> const& ours, std::vector<double> const& theirs) {
  REQUIRE(ours.size() == theirs.size());
  double largest = 0.0;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    double const difference = std::abs(static_cast<double>(ours[i]) - theirs[i]);
    largest = std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(largest, difference);
  }
  return largest;
}

// ---- properties of one outcome
// --------------------------------------------------------------------------------------

// Follows the evictions step by step: candidates are the first survivors, their labels are their future
// scores, exactly the lowest of them go, and none that goes has a larger score than one that stays.
void check_schedule(golden_config const& config, results const& got, int kv_heads, int tokens) {
  int bad_labels = 0, bad_order = 0, bad_lists = 0;
  for (int head = 0; head < kv_heads; ++head) {
    std::vector<int> survivors(at(tokens));
    std::iota(survivors.begin(), survivors.end(), 0);
    for (int step = 0; step < got.steps; ++step) {
      REQUIRE(static_cast<int>(survivors.size()) > config.budget + config.interval);
      auto const row = at(step) * at(kv_heads) + at(head);
      std::vector<float> labels;
      for (std::size_t i = 0; i < at(config.budget); ++i) {
        labels.push_back(got.labels[row * at(config.budget) + i]);
        float const score = got.future[(at(head) * at(got.steps) + at(step)) * at(tokens) + at(survivors[i])];
        if (std::memcmp(&score, &labels.back(), sizeof score) != 0) ++bad_labels;
      }
      auto const wanted = golden_oracle::lowest(labels, config.interval);
      std::vector<bool> gone(labels.size(), false);
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        auto const place = row * at(config.interval) + i;
        if (got.evicted[place] != wanted[i] || got.positions[place] != survivors[at(wanted[i])]) ++bad_lists;
        gone[at(wanted[i])] = true;
      }
      float most_gone = -std::numeric_limits<float>::infinity(), least_kept = std::numeric_limits<float>::infinity();
      for (std::size_t i = 0; i < labels.size(); ++i) {
        if (gone[i] && labels[i] > most_gone) most_gone = labels[i];
        if (!gone[i] && !(labels[i] >= least_kept)) least_kept = labels[i];
      }
      if (most_gone > least_kept) ++bad_order;
      for (auto index = wanted.rbegin(); index != wanted.rend(); ++index) survivors.erase(survivors.begin() + *index);
    }
  }
  CHECK(bad_labels == 0);
  CHECK(bad_order == 0);
  CHECK(bad_lists == 0);
}

// Future scores of every token at every step against the definition over the given block means.
void check_future(golden_config const& config, results const& got, fkv::golden_means const& means, double tolerance) {
  double largest = 0.0;
  for (int head = 0; head < means.kv_heads; ++head)
    for (int step = 0; step < got.steps; ++step)
      for (int k = 0; k < means.tokens; ++k) {
        std::vector<double> future;
        for (int block = step; block < means.blocks; ++block)
          future.push_back(static_cast<double>(means.at(head, k, block)));
        double const wanted = golden_oracle::future_score(config, future);
        auto const place = (at(head) * at(got.steps) + at(step)) * at(means.tokens) + at(k);
        double const ours = static_cast<double>(got.future[place]);
        if (std::isnan(wanted) && std::isnan(ours)) continue;
        double const difference = std::abs(ours - wanted);
        largest = std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(largest, difference);
      }
  CHECK(largest <= tolerance);
}

struct shapes {
  golden_config config;
  fkv::golden_shape shape;
};

// Group sizes 1 to 16 in turn; head_dims and intervals that are no multiple of any vector length.
shapes random_shape(std::mt19937& generator, int round) {
  auto const between = [&](int low, int high) {
    return low + static_cast<int>(generator() % unsigned(high - low + 1));
  };
  shapes made;
  made.config.interval = between(1, 24);
  made.config.budget = made.config.interval * between(1, 5);
  made.config.rules = round % 3 == 2 ? golden_rules::published : golden_rules::exact;
  if (made.config.rules == golden_rules::published) made.config.budget += between(0, made.config.interval);
  made.config.future = static_cast<golden_future>(round / 2 % 4);
  made.config.reduction = round % 5 == 4 ? golden_reduction::maximum : golden_reduction::mean;
  made.config.discount = 0.8f;
  made.shape.group = 1 + round % 16;
  made.shape.kv_heads = between(1, made.shape.group > 4 ? 1 : 3);
  made.shape.tokens = made.config.budget + made.config.interval + between(-2, 90);
  made.shape.tokens = std::max(made.shape.tokens, 1);
  made.shape.head_dim = between(1, 40);
  return made;
}

}  // namespace

TEST_CASE("golden_eviction: the figure by the verb gives what the constant expression gives") {
  std::vector<float> means;
  for (auto const& of_token : figure::block_means()) means.insert(means.end(), of_token.begin(), of_token.end());
  auto const got = run(figure::config, fkv::golden_means::token_major(means.data(), 1, 11, 3));
  REQUIRE(got.steps == 3);
  for (std::size_t step = 0; step < 3; ++step) {
    for (std::size_t i = 0; i < 3; ++i) CHECK(got.labels[step * 3 + i] == figure::plan.labels[step][i]);
    for (std::size_t i = 0; i < 2; ++i) {
      CHECK(got.evicted[step * 2 + i] == figure::plan.evicted[step][i]);
      CHECK(got.positions[step * 2 + i] == figure::plan.evicted_positions[step][i]);
    }
    for (std::size_t k = 0; k < 11; ++k) CHECK(got.future[step * 11 + k] == figure::plan.future[step][k]);
  }
}

TEST_CASE("golden_eviction: vectors of the published code") {
  int checked = 0;
  for (auto const& entry : std::filesystem::directory_iterator(testing::vectors_folder())) {
    auto const name = entry.path().filename().string();
    if (name.find("golden_") == std::string::npos) continue;
    CAPTURE(name);
    CHECK(golden_vectors::check_golden_vector(fkv::io::safetensors_file(entry.path())));
    ++checked;
  }
  CHECK(checked == 13);
}

TEST_CASE("golden_eviction: random shapes against T x T loops in double precision") {
  std::mt19937 generator{32602};
  int steps_seen = 0;
  for (int round = 0; round < 96; ++round) {
    auto const drawn = random_shape(generator, round);
    auto const& config = drawn.config;
    auto const& shape = drawn.shape;
    CAPTURE(round);
    CAPTURE(shape.tokens);
    CAPTURE(shape.group);
    CAPTURE(shape.head_dim);
    CAPTURE(config.budget);
    CAPTURE(config.interval);
    auto const given = random_problem(shape, static_cast<unsigned>(round));
    auto const means = run_means(config, given.input());
    CHECK(largest_difference(means, golden_oracle::block_means(config, given, default_scale(given))) < 3e-6);

    auto const got = run(config, given.input());
    auto const blocks = config.future_blocks(shape.tokens);
    auto const view = fkv::golden_means::block_major(means.data(), shape.kv_heads, shape.tokens, blocks);
    check_future(config, got, view, config.future == golden_future::maximum ? 0.0 : 1e-5);
    check_schedule(config, got, shape.kv_heads, shape.tokens);
    CHECK(same_bits(got, run(config, view)));  // streaming and from block means agree to the last bit
    steps_seen += got.steps;
  }
  CHECK(steps_seen > 300);
}

TEST_CASE("golden_eviction: block means of few distinct values, any budget, against the exhaustive loop") {
  std::mt19937 generator{7};
  for (int round = 0; round < 60; ++round) {
    golden_config config;
    config.interval = 1 + static_cast<int>(generator() % 9);
    config.budget = config.interval + static_cast<int>(generator() % 30);
    int const kv_heads = 1 + static_cast<int>(generator() % 3);
    int const tokens = config.budget + config.interval + static_cast<int>(generator() % 60);
    int const blocks = std::max(0, config.steps(tokens) + static_cast<int>(generator() % 4) - 2);
    std::vector<float> means(at(kv_heads) * at(tokens) * at(blocks));
    // Ties everywhere, zeros of both signs, infinities and NaN.
    float const pool[] = {0.0f,
                          -0.0f,
                          0.25f,
                          0.5f,
                          std::numeric_limits<float>::denorm_min(),
                          std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN(),
                          -std::numeric_limits<float>::infinity()};
    for (auto& mean : means) mean = pool[generator() % (round % 2 == 0 ? 4u : 8u)];
    CAPTURE(round);
    auto const view = fkv::golden_means::token_major(means.data(), kv_heads, tokens, blocks);
    auto const got = run(config, view);
    check_schedule(config, got, kv_heads, tokens);
    for (int head = 0; head < kv_heads; ++head) {
      auto const wanted = golden_oracle::solve(
          config, tokens, blocks, [&](int block, int k) { return static_cast<double>(view.at(head, k, block)); });
      REQUIRE(static_cast<int>(wanted.evicted.size()) == got.steps);
      int different = 0;
      for (int step = 0; step < got.steps; ++step) {
        auto const row = at(step) * at(kv_heads) + at(head);
        for (std::size_t i = 0; i < at(config.interval); ++i) {
          if (got.evicted[row * at(config.interval) + i] != wanted.evicted[at(step)][i]) ++different;
          if (got.positions[row * at(config.interval) + i] != wanted.positions[at(step)][i]) ++different;
        }
        for (std::size_t i = 0; i < at(config.budget); ++i) {
          double const ours = static_cast<double>(got.labels[row * at(config.budget) + i]);
          double const theirs = wanted.scores[at(step)][i];
          if (!(ours == theirs || (std::isnan(ours) && std::isnan(theirs)))) ++different;
        }
      }
      CHECK(different == 0);
    }
  }
}

TEST_CASE("golden_eviction: both layouts of block means, and any other by strides") {
  golden_config const config{.budget = 12, .interval = 5};
  int const kv_heads = 3, tokens = 64, blocks = config.steps(tokens);
  std::mt19937 generator{11};
  std::vector<float> means(at(kv_heads * tokens * blocks)), swapped(means.size()), spread(4 * means.size(), -1.0f);
  auto const token_major = fkv::golden_means::token_major(means.data(), kv_heads, tokens, blocks);
  auto const block_major = fkv::golden_means::block_major(swapped.data(), kv_heads, tokens, blocks);
  fkv::golden_means const strided{spread.data(), kv_heads, tokens, blocks, 2, 2L * kv_heads, 4L * kv_heads * tokens};
  for (int head = 0; head < kv_heads; ++head)
    for (int k = 0; k < tokens; ++k)
      for (int block = 0; block < blocks; ++block) {
        float const value = static_cast<float>(generator() % 1000);
        means[at((head * tokens + k) * blocks + block)] = value;
        swapped[at((head * blocks + block) * tokens + k)] = value;
        spread[at(head * 2 + k * 2 * kv_heads + block * 4 * kv_heads * tokens)] = value;
      }
  auto const wanted = run(config, token_major);
  CHECK(same_bits(wanted, run(config, block_major)));
  CHECK(same_bits(wanted, run(config, strided)));
}

TEST_CASE("golden_eviction: the number of threads does not show") {
  for (int group : {1, 3, 8}) {
    golden_config const config{.budget = 96, .interval = 32};
    auto const given = random_problem({5, group, 701, 24}, 3);
    auto const one = run(config, given.input(), testing::scheduled(1));
    auto const one_means = run_means(config, given.input(), testing::scheduled(1));
    for (int threads : {0, 2, 3, 7, 64}) {
      CAPTURE(threads);
      CHECK(same_bits(one, run(config, given.input(), testing::scheduled(threads))));
      CHECK(same_bits(one_means, run_means(config, given.input(), testing::scheduled(threads))));
    }
    auto const view = fkv::golden_means::block_major(one_means.data(), 5, 701, config.future_blocks(701));
    CHECK(same_bits(one, run(config, view, testing::scheduled(3))));
  }
}

TEST_CASE("block_means: each query row hands out a mass of one") {
  for (auto const rules : {golden_rules::exact, golden_rules::published}) {
    golden_config const config{.budget = 64, .interval = 32, .rules = rules};
    int const tokens = 64 + 32 * 40 + 9;  // beyond one chunk of keys; the last block has 9 rows
    auto const given = random_problem({1, 3, tokens, 16}, 5, 2.0f);
    auto const means = run_means(config, given.input());
    int const blocks = config.future_blocks(tokens);
    for (int block = 0; block < blocks; ++block) {
      double mass = 0.0;
      for (int k = 0; k < tokens; ++k) mass += static_cast<double>(means[at(block) * at(tokens) + at(k)]);
      bool const partial = block == blocks - 1 && rules == golden_rules::published;
      CHECK(mass == doctest::Approx(partial ? 9.0 / 32.0 : 1.0).epsilon(2e-6));
    }
  }
}

TEST_CASE("golden_eviction: permuting KV heads permutes the outcome") {
  golden_config const config{.budget = 48, .interval = 16};
  fkv::golden_shape const shape{4, 3, 200, 20};
  auto const given = random_problem(shape, 17);
  std::array const order{2, 0, 3, 1};
  problem permuted = given;
  std::size_t const row = 200 * 20;
  for (int head = 0; head < 4; ++head) {
    auto const from = at(order[at(head)]);
    std::copy_n(&given.keys[from * row], row, &permuted.keys[at(head) * row]);
    std::copy_n(&given.queries[from * 3 * row], 3 * row, &permuted.queries[at(head) * 3 * row]);
  }
  auto const a = run(config, given.input()), b = run(config, permuted.input());
  for (int step = 0; step < a.steps; ++step)
    for (int head = 0; head < 4; ++head) {
      auto const to = at(step * 4 + head), from = at(step * 4 + order[at(head)]);
      int different = 0;
      for (std::size_t i = 0; i < 48; ++i) different += b.labels[to * 48 + i] != a.labels[from * 48 + i];
      for (std::size_t i = 0; i < 16; ++i) different += b.evicted[to * 16 + i] != a.evicted[from * 16 + i];
      CHECK(different == 0);
    }
}

TEST_CASE("golden_eviction: published rules differ from exact ones in the last block alone") {
  golden_config const exact{.budget = 64, .interval = 16};
  golden_config published = exact;
  published.rules = golden_rules::published;
  auto const whole = random_problem({2, 2, 320, 16}, 23);
  CHECK(same_bits(run(exact, whole.input()), run(published, whole.input())));

  int const tokens = 325, blocks = exact.future_blocks(tokens);
  auto const given = random_problem({2, 2, tokens, 16}, 23);
  auto const a = run_means(exact, given.input()), b = run_means(published, given.input());
  for (int head = 0; head < 2; ++head)
    for (int block = 0; block < blocks; ++block) {
      int different = 0;
      float const factor = block == blocks - 1 ? 5.0f / 16.0f : 1.0f;
      for (int k = 0; k < tokens; ++k) {
        auto const place = at((head * blocks + block) * tokens + k);
        different += std::abs(b[place] - a[place] * factor) > (factor == 1.0f ? 0.0f : 1e-7f);
      }
      CHECK(different == 0);
    }
}

TEST_CASE("golden_eviction: a log-sum-exp handed over replaces the one computed") {
  golden_config const config{.budget = 64, .interval = 16};
  auto const given = random_problem({2, 3, 261, 24}, 29);
  auto const lse = golden_oracle::log_sum_exp(given, default_scale(given));
  auto const own = run_means(config, given.input());

  auto input = given.input();
  input.lse = lse.data();
  auto const handed = run_means(config, input);
  CHECK(largest_difference(handed, {own.begin(), own.end()}) < 1e-6);
  check_schedule(config, run(config, input), 2, 261);

  std::vector<float> two;
  for (float const value : lse) two.push_back(value * 1.44269504f);
  fkv::golden_input<float, float, fkv::log_base::two> binary;
  binary.queries = input.queries;
  binary.keys = input.keys;
  binary.shape = input.shape;
  binary.lse = two.data();
  auto const from_two = run_means(config, binary);
  CHECK(largest_difference(from_two, {handed.begin(), handed.end()}) < 1e-6);

  // Token-major, as an attention kernel may leave it.
  std::vector<float> turned(lse.size());
  for (int head = 0; head < 6; ++head)
    for (int t = 0; t < 261; ++t) turned[at(t * 6 + head)] = lse[at(head * 261 + t)];
  input.lse = turned.data();
  input.lse_strides = {1, 6};
  CHECK(same_bits(handed, run_means(config, input)));
}

TEST_CASE("golden_eviction: the softmax scale") {
  golden_config const config{.budget = 32, .interval = 16};
  auto const given = random_problem({1, 2, 150, 12}, 31);
  auto input = given.input();
  input.softmax_scale = 0.125f;
  CHECK(largest_difference(run_means(config, input), golden_oracle::block_means(config, given, 0.125)) < 3e-6);
}

TEST_CASE("golden_eviction: strides of queries and keys") {
  golden_config const config{.budget = 32, .interval = 16};
  fkv::golden_shape const shape{2, 3, 130, 9};
  auto const given = random_problem(shape, 37);
  int const heads = 6, row = 11;  // [token][head][dim], rows padded with NaN that nothing may read
  std::vector<float> queries(at(130 * heads * row), std::numeric_limits<float>::quiet_NaN()), keys = queries;
  for (int t = 0; t < 130; ++t)
    for (int head = 0; head < heads; ++head)
      for (int d = 0; d < 9; ++d) {
        queries[at((t * heads + head) * row + d)] = given.queries[at((head * 130 + t) * 9 + d)];
        if (head < 2) keys[at((t * heads + head) * row + d)] = given.keys[at((head * 130 + t) * 9 + d)];
      }
  auto input = given.input();
  input.queries = queries.data();
  input.keys = keys.data();
  input.query_strides = input.key_strides = {row, std::int64_t{heads} * row};
  CHECK(same_bits(run(config, given.input()), run(config, input)));
}

namespace {

template <class Element>
std::vector<Element> narrowed(std::vector<float>& values) {
  std::vector<Element> stored;
  for (auto& value : values) {
    stored.push_back(fkv::element_traits<Element>::store(value));
    value = fkv::to_float(stored.back());
  }
  return stored;
}

}  // namespace

TEST_CASE_TEMPLATE("golden_eviction: narrow storage gives what its widened values give", Element, fkv::half,
                   fkv::bfloat16) {
  golden_config const config{.budget = 48, .interval = 16};
  auto given = random_problem({2, 2, 170, 21}, 41);
  auto const queries = narrowed<Element>(given.queries);
  auto const keys = narrowed<Element>(given.keys);
  auto const wanted = run(config, given.input());

  fkv::golden_input<Element> input;
  input.queries = queries.data();
  input.keys = keys.data();
  input.shape = given.shape;
  CHECK(same_bits(wanted, run(config, input)));

  fkv::golden_input<float, Element> mixed;
  mixed.queries = given.queries.data();
  mixed.keys = keys.data();
  mixed.shape = given.shape;
  CHECK(same_bits(wanted, run(config, mixed)));
}

namespace {

template <class Isa>
void check_instruction_set(golden_config const& config, problem const& given) {
  namespace host = fkv::detail::host;
  if (!host::supports<Isa>()) {
    MESSAGE("skipped: this processor lacks the instruction set of " << Isa::lanes << " lanes");
    return;
  }
  auto const plan = fkv::detail::plan_block_means(config, given.input());
  auto const wanted = golden_oracle::block_means(config, given, default_scale(given));
  fkv::detail::arena counting;
  host::block_means_scratch::take(counting, plan);
  std::vector<std::byte> memory(counting.bytes());
  std::vector<float> packed(plan.packed_stride()), row(at(plan.tokens));
  for (int kv_head = 0; kv_head < plan.kv_heads; ++kv_head) {
    host::with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
      host::pack_keys<decltype(isa)>(
          [&](int k) { return given.keys.data() + at(kv_head * plan.tokens + k) * at(plan.head_dim); }, plan.tokens,
          plan.head_dim, packed.data());
    });
    for (int block = 0; block < plan.blocks; ++block) {
      fkv::detail::arena cutting{fkv::workspace{memory.data(), memory.size()}};
      auto const scratch = host::block_means_scratch::take(cutting, plan);
      host::token_vectors<float> const queries{given.queries.data(), std::int64_t{plan.tokens} * plan.head_dim,
                                               plan.head_dim};
      host::with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
        host::block_means_row<decltype(isa)>(plan, queries, {}, kv_head, block, packed.data(), scratch, row.data());
      });
      auto const first = wanted.begin() + (kv_head * plan.blocks + block) * plan.tokens;
      CHECK(largest_difference(row, {first, first + plan.tokens}) < 3e-6);
    }
  }
}

}  // namespace

TEST_CASE("block_means: every instruction set that this processor has") {
  golden_config config{.budget = 64, .interval = 32};
  auto const given = random_problem({2, 5, 1100, 33}, 43);  // more than one chunk of keys
  check_instruction_set<fkv::detail::host::isa_baseline>(config, given);
  check_instruction_set<fkv::detail::host::isa_avx2>(config, given);
  check_instruction_set<fkv::detail::host::isa_avx512>(config, given);
}

TEST_CASE("golden_eviction: hostile values in queries and keys") {
  golden_config const config{.budget = 32, .interval = 8};
  float const nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  fkv::golden_shape const shape{1, 2, 100, 8};
  auto const finite = [](results const& got) {
    auto const future = got.future.values();
    return std::all_of(future.begin(), future.end(), [](float x) { return std::isfinite(x); });
  };

  SUBCASE("a query that is not a number is masked: the others stand as they are") {
    for (float const bad : {nan, inf, -inf}) {
      auto given = random_problem(shape, 47);
      int const t = 61;
      given.queries[at((1 * 100 + t) * 8 + 3)] = bad;
      CHECK(largest_difference(run_means(config, given.input()),
                               golden_oracle::block_means(config, given, default_scale(given))) < 3e-6);
      auto const got = run(config, given.input());
      CHECK(finite(got));
      check_schedule(config, got, 1, 100);
    }
  }
  SUBCASE("a key that is not a number masks every query that sees it") {
    auto given = random_problem(shape, 53);
    given.keys[at(70 * 8)] = nan;
    auto const means = run_means(config, given.input());
    int const blocks = config.future_blocks(100);
    for (int block = 0; block < blocks; ++block) {
      double mass = 0.0;
      for (int k = 0; k < 100; ++k) mass += static_cast<double>(means[at(block * 100 + k)]);
      int const begin = (config.first_block() + block) * 8, rows = std::min(8, 100 - begin);
      int const seen = std::clamp(begin + rows - 70, 0, rows);
      CHECK(mass == doctest::Approx(1.0 - static_cast<double>(seen) / rows).epsilon(1e-5));
    }
    check_schedule(config, run(config, given.input()), 1, 100);
  }
  SUBCASE("logits of minus infinity are no attention; a row of nothing else is masked") {
    auto given = random_problem(shape, 59);
    for (auto& value : given.queries) value = std::abs(value) + 0.1f;
    for (int k = 0; k < 40; ++k)
      for (int d = 0; d < 8; ++d) given.keys[at(k * 8 + d)] = -inf;
    auto const means = run_means(config, given.input());
    CHECK(largest_difference(means, golden_oracle::block_means(config, given, default_scale(given))) < 3e-6);
    for (auto& value : given.keys) value = -inf;
    for (float const mean : run_means(config, given.input())) CHECK(mean == 0.0f);
  }
  SUBCASE("a whole chunk of keys at minus infinity, then others") {
    int const tokens = 1200;
    golden_config const late{.budget = 960, .interval = 120};
    auto given = random_problem({1, 1, tokens, 8}, 60);
    for (auto& value : given.queries) value = std::abs(value) + 0.1f;
    for (int k = 0; k < 1000; ++k)
      for (int d = 0; d < 8; ++d) given.keys[at(k * 8 + d)] = -inf;
    auto const means = run_means(late, given.input());
    CHECK(largest_difference(means, golden_oracle::block_means(late, given, default_scale(given))) < 3e-6);
    CHECK(std::accumulate(means.begin(), means.end(), 0.0) == doctest::Approx(1.0).epsilon(1e-5));
  }
  SUBCASE("logits far below zero, falling and rising along the row") {
    for (float const slope : {-1.0f, 1.0f}) {
      int const tokens = 1200;
      golden_config const late{.budget = 960, .interval = 120};
      problem given = random_problem({1, 1, tokens, 2}, 61);
      for (auto& value : given.queries) value = 1.0f;
      for (int k = 0; k < tokens; ++k)
        given.keys[at(2 * k)] = given.keys[at(2 * k + 1)] = -5000.0f + slope * 0.37f * static_cast<float>(k);
      auto const means = run_means(late, given.input());
      CHECK(largest_difference(means, golden_oracle::block_means(late, given, default_scale(given))) < 1e-4);
      CHECK(std::accumulate(means.begin(), means.end(), 0.0) == doctest::Approx(1.0).epsilon(1e-5));
    }
  }
  SUBCASE("logits far apart neither overflow nor vanish") {
    for (float const factor : {1e4f, 1e6f, 1e14f}) {
      auto given = random_problem(shape, 61, 1.0f);
      for (auto& value : given.queries) value *= factor;
      for (auto& value : given.keys) value *= factor;
      auto const means = run_means(config, given.input());
      auto const blocks = config.future_blocks(100);
      double const mass = std::accumulate(means.begin(), means.end(), 0.0);
      CHECK(mass == doctest::Approx(blocks).epsilon(1e-5));
    }
  }
  SUBCASE("all equal: of equal scores the lowest go") {
    auto given = random_problem(shape, 67);
    std::fill(given.queries.begin(), given.queries.end(), 0.0f);
    auto const got = run(config, given.input());
    check_schedule(config, got, 1, 100);
    for (std::size_t i = 0; i < 8; ++i) CHECK(got.evicted[i] == static_cast<std::int32_t>(i));
  }
  SUBCASE("log-sum-exps that are not finite mask their queries") {
    auto const given = random_problem(shape, 71);
    auto lse = golden_oracle::log_sum_exp(given, default_scale(given));
    auto input = given.input();
    input.lse = lse.data();
    lse[60] = inf;
    lse[75] = -inf;
    lse[100 + 82] = nan;
    auto const means = run_means(config, input);
    for (auto const mean : means) CHECK(std::isfinite(mean));
    double const mass = std::accumulate(means.begin(), means.end(), 0.0);
    CHECK(mass == doctest::Approx(config.future_blocks(100) - 3.0 / 16.0).epsilon(1e-5));
  }
}

TEST_CASE("golden_eviction: a sequence that is too short has no step, and nothing is written") {
  golden_config const config{.budget = 32, .interval = 16};
  for (int tokens : {0, 1, 31, 32, 47, 48}) {
    CAPTURE(tokens);
    results got{config, 2, 100, 3};
    auto given = random_problem({2, 2, tokens, 8}, 73);
    CHECK(fkv::golden_eviction_bytes(testing::exec, config, given.shape) == 0);
    CHECK(fkv::golden_eviction(testing::exec, config, given.input(), got.output(), {}).ok());
    CHECK(fkv::golden_eviction(testing::exec, config, given.input(), {}, {}).ok());
    CHECK(fkv::block_means(testing::exec, config, given.input(), got.labels.data(), {}).ok());
    auto const means = fkv::golden_means::block_major(nullptr, 2, tokens, 5);
    CHECK(fkv::golden_eviction_bytes(testing::exec, config, means) == 0);
    CHECK(fkv::golden_eviction(testing::exec, config, means, got.output(), {}).ok());
    CHECK(fkv::golden_eviction(testing::exec, config, fkv::golden_means::block_major(nullptr, 2, 100, 0), got.output(),
                               {})
              .ok());
    CHECK(got.untouched());
  }
}

TEST_CASE("golden_eviction: outputs that are not asked for are left out") {
  golden_config const config{.budget = 32, .interval = 16};
  auto const given = random_problem({2, 2, 120, 8}, 79);
  auto const whole = run(config, given.input());
  std::vector<std::byte> scratch(fkv::golden_eviction_bytes(testing::exec, config, given.shape));
  for (int member = 0; member < 4; ++member) {
    results got{config, 2, 120, whole.steps};
    fkv::golden_output output;
    if (member == 0) output.labels = got.labels.data();
    if (member == 1) output.evicted = got.evicted.data();
    if (member == 2) output.evicted_positions = got.positions.data();
    if (member == 3) output.future = got.future.data();
    REQUIRE(fkv::golden_eviction(testing::exec, config, given.input(), output, {scratch.data(), scratch.size()}).ok());
    CHECK((member == 0 ? same_bits(got.labels.values(), whole.labels.values()) : got.labels.untouched()));
    CHECK((member == 1 ? same_bits(got.evicted.values(), whole.evicted.values()) : got.evicted.untouched()));
    CHECK((member == 2 ? same_bits(got.positions.values(), whole.positions.values()) : got.positions.untouched()));
    CHECK((member == 3 ? same_bits(got.future.values(), whole.future.values()) : got.future.untouched()));
  }
}

namespace {

// Calls every verb with one thing wrong and expects the error, with nothing written.
struct bad_call {
  golden_config config{.budget = 32, .interval = 16};
  problem given = random_problem({2, 2, 120, 8}, 83);
  fkv::golden_input<float> input = given.input();
  std::vector<std::byte> scratch =
      std::vector<std::byte>(fkv::golden_eviction_bytes(testing::scheduled(1), config, given.shape));
  std::size_t scratch_size = scratch.size();
  results got{config, 2, 120, config.steps(120)};
  fkv::golden_output output = got.output();
  float* means = got.future.data();

  void expect(errc code) {
    auto const exec = testing::scheduled(1);
    CHECK(fkv::golden_eviction(exec, config, input, output, {scratch.data(), scratch_size}).code == code);
    CHECK(fkv::block_means(exec, config, input, means, {scratch.data(), scratch_size}).code == code);
    CHECK(got.untouched());
  }
};

}  // namespace

TEST_CASE("golden_eviction: wrong arguments give their error before anything is written") {
  bad_call call;
  SUBCASE("nothing wrong") {
    auto const exec = testing::scheduled(1);
    CHECK(fkv::golden_eviction(exec, call.config, call.input, call.output, {call.scratch.data(), call.scratch_size})
              .ok());
  }
  SUBCASE("interval above budget") { call.config.interval = 33, call.expect(errc::invalid_config); }
  SUBCASE("interval 0") { call.config.interval = 0, call.expect(errc::invalid_config); }
  SUBCASE("discount") { call.config.discount = 2.0f, call.expect(errc::invalid_config); }
  SUBCASE("budget no multiple of the interval") { call.config.budget = 33, call.expect(errc::invalid_config); }
  SUBCASE("kv_heads 0") { call.input.shape.kv_heads = 0, call.expect(errc::invalid_shape); }
  SUBCASE("group 0") { call.input.shape.group = 0, call.expect(errc::invalid_shape); }
  SUBCASE("head_dim 0") { call.input.shape.head_dim = 0, call.expect(errc::invalid_shape); }
  SUBCASE("negative tokens") { call.input.shape.tokens = -5, call.expect(errc::invalid_shape); }
  SUBCASE("extents whose product overflows") {
    call.config = {.budget = 1, .interval = 1};
    call.input.shape = {2147483647, 2147483647, 2147483647, 2147483647};
    CHECK(fkv::golden_eviction_bytes(testing::exec, call.config, call.input.shape) == 0);
    call.expect(errc::invalid_shape);
    call.input.shape = {1, 1, 2147483647, 1};
    call.expect(errc::invalid_shape);
  }
  SUBCASE("negative stride") { call.input.key_strides.token = -1, call.expect(errc::invalid_shape); }
  SUBCASE("stride whose offset overflows") {
    call.input.query_strides.head = std::numeric_limits<std::int64_t>::max() / 2;
    call.expect(errc::invalid_shape);
  }
  SUBCASE("negative scale") { call.input.softmax_scale = -1.0f, call.expect(errc::invalid_shape); }
  SUBCASE("scale not a number") {
    call.input.softmax_scale = std::numeric_limits<float>::quiet_NaN();
    call.expect(errc::invalid_shape);
  }
  SUBCASE("infinite scale") {
    call.input.softmax_scale = std::numeric_limits<float>::infinity();
    call.expect(errc::invalid_shape);
  }
  SUBCASE("no queries") { call.input.queries = nullptr, call.expect(errc::null_pointer); }
  SUBCASE("no keys") { call.input.keys = nullptr, call.expect(errc::null_pointer); }
  SUBCASE("no output") { call.output = {}, call.means = nullptr, call.expect(errc::null_pointer); }
  SUBCASE("no workspace memory") {
    auto const size = call.scratch.size();
    CHECK(fkv::golden_eviction(testing::scheduled(1), call.config, call.input, call.output, {nullptr, size}).code ==
          errc::null_pointer);
    CHECK(call.got.untouched());
  }
  SUBCASE("workspace one byte short") {
    auto const exec = testing::scheduled(1);
    fkv::workspace scratch{call.scratch.data(), call.scratch.size() - 1};
    CHECK(fkv::golden_eviction(exec, call.config, call.input, call.output, scratch).code == errc::workspace_too_small);
    scratch.size = fkv::block_means_bytes(exec, call.config, call.input.shape) - 1;
    CHECK(fkv::block_means(exec, call.config, call.input, call.means, scratch).code == errc::workspace_too_small);
    CHECK(call.got.untouched());
  }
  SUBCASE("no workspace") { call.scratch_size = 0, call.expect(errc::workspace_too_small); }
  SUBCASE("misaligned queries") {
    call.input.queries = reinterpret_cast<float const*>(reinterpret_cast<std::byte const*>(call.input.queries) + 1);
    call.expect(errc::misaligned);
  }
  SUBCASE("misaligned output") {
    auto const moved = [](auto* data) {
      return reinterpret_cast<decltype(data)>(reinterpret_cast<std::byte*>(data) + 2);
    };
    call.output.evicted = moved(call.output.evicted);
    call.means = moved(call.means);
    call.expect(errc::misaligned);
  }
}

TEST_CASE("golden_eviction: wrong block means give their error before anything is written") {
  golden_config config{.budget = 33, .interval = 16};
  std::vector<float> means(2 * 120 * 5, 0.5f);
  auto view = fkv::golden_means::token_major(means.data(), 2, 120, 5);
  results got{config, 2, 120, 5};
  auto output = got.output();
  auto const exec = testing::scheduled(1);
  std::vector<std::byte> memory(fkv::golden_eviction_bytes(exec, config, view));
  fkv::workspace scratch{memory.data(), memory.size()};
  auto const code = [&] { return fkv::golden_eviction(exec, config, view, output, scratch).code; };
  SUBCASE("interval above budget") {
    config.interval = 34;
    CHECK(code() == errc::invalid_config);
  }
  SUBCASE("no heads") {
    view.kv_heads = 0;
    CHECK(code() == errc::invalid_shape);
  }
  SUBCASE("negative blocks") {
    view.blocks = -1;
    CHECK(code() == errc::invalid_shape);
  }
  SUBCASE("negative stride") {
    view.token_stride = -1;
    CHECK(code() == errc::invalid_shape);
  }
  SUBCASE("extents whose product overflows") {
    config = {.budget = 1, .interval = 1};
    view = fkv::golden_means::token_major(means.data(), 2147483647, 2147483647, 2147483646);
    CHECK(code() == errc::invalid_shape);
  }
  SUBCASE("no means") {
    view.data = nullptr;
    CHECK(code() == errc::null_pointer);
  }
  SUBCASE("no output") {
    output = {};
    CHECK(code() == errc::null_pointer);
  }
  SUBCASE("misaligned") {
    view.data = reinterpret_cast<float const*>(reinterpret_cast<std::byte const*>(means.data()) + 1);
    CHECK(code() == errc::misaligned);
  }
  SUBCASE("workspace one byte short") {
    --scratch.size;
    CHECK(code() == errc::workspace_too_small);
  }
  CHECK(got.untouched());
}

TEST_CASE("golden_eviction: memory never holds a T x T matrix") {
  // 32K tokens of 8 KV heads, group 4, D 128, as label building meets them; 32 x T x T would be 137 GB.
  for (int interval : {64, 128, 256}) {
    golden_config const config{.budget = 1024, .interval = interval};
    auto const bytes = fkv::golden_eviction_bytes(fkv::host.threads(2), config, {8, 4, 32768, 128});
    CHECK(bytes > 0);
    CHECK(bytes < (std::size_t{256} << 20));
  }
  golden_config const config{.budget = 1024, .interval = 256};
  CHECK(fkv::golden_eviction_bytes(fkv::host.threads(2), config, {8, 4, 4096, 128}) < (std::size_t{16} << 20));
}
