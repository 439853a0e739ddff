// SPDX-License-Identifier: Apache-2.0
// Golden Eviction as a device runs it: block means against the definition in double precision, everything
// behind them against the host, to the bit.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <foresightkv/golden/eviction.hpp>

#include "support/execution.hpp"
#include "support/golden_oracle.hpp"
#include "support/golden_vectors.hpp"
#include "support/random.hpp"
#include "support/red_zone.hpp"

namespace {

namespace fkv = foresightkv;
using fkv::errc;
using fkv::golden_config;
using fkv::golden_future;
using fkv::golden_means;
using fkv::golden_reduction;
using fkv::golden_rules;
using golden_oracle::at;
using golden_oracle::problem;
using golden_oracle::random_problem;
using testing::exec;
using testing::guarded;

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

// ---- running the verbs, with red zones around what they write
// -------------------------------------------------------

struct results {
  int steps;
  guarded<float> labels, future;
  guarded<std::int32_t> evicted, positions;

  results(golden_config const& config, int kv_heads, int tokens, int num_steps)
      : steps(num_steps),
        labels(at(num_steps * kv_heads) * at(config.budget)),
        future(at(num_steps * kv_heads) * at(tokens)),
        evicted(at(num_steps * kv_heads) * at(config.interval)),
        positions(evicted.size()) {}

  fkv::golden_output output() { return {labels.data(), evicted.data(), positions.data(), future.data()}; }
  [[nodiscard]] bool intact() const {
    return labels.intact() && future.intact() && evicted.intact() && positions.intact();
  }
  [[nodiscard]] bool untouched() const {
    auto const fresh = [](auto const& values) {
      return values.same_bytes(std::decay_t<decltype(values)>(values.size()));
    };
    return fresh(labels) && fresh(future) && fresh(evicted) && fresh(positions);
  }
};

/// Equal bits; which NaN a sum gives is no part of the contract.
bool same(guarded<float> const& a, guarded<float> const& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) {
    return fkv::detail::float_bits(x) == fkv::detail::float_bits(y) || (std::isnan(x) && std::isnan(y));
  });
}
bool same(results const& a, results const& b) {
  return a.steps == b.steps && same(a.labels, b.labels) && same(a.future, b.future) &&
         a.evicted.same_bytes(b.evicted) && a.positions.same_bytes(b.positions);
}

template <class Query, class Key, fkv::log_base Base>
results room_for(golden_config const& config, fkv::golden_input<Query, Key, Base> const& input) {
  return {config, input.shape.kv_heads, input.shape.tokens, config.steps(input.shape.tokens)};
}
results room_for(golden_config const& config, golden_means const& means) {
  return {config, means.kv_heads, means.tokens, std::min(config.steps(means.tokens), means.blocks)};
}

template <class Query, class Key, fkv::log_base Base>
fkv::golden_shape const& extents_of(fkv::golden_input<Query, Key, Base> const& input) {
  return input.shape;
}
golden_means const& extents_of(golden_means const& means) { return means; }

/// From queries and keys, or from block means.
template <class Exec, class Given>
results run(Exec const& on, golden_config const& config, Given const& given) {
  results got = room_for(config, given);
  guarded<std::byte> scratch(fkv::golden_eviction_bytes(on, config, extents_of(given)), 1);
  REQUIRE(fkv::golden_eviction(on, config, given, got.output(), {scratch.data(), scratch.size()}).ok());
  CHECK(got.intact());
  CHECK(scratch.intact());
  return got;
}

template <class Exec, class Input>
guarded<float> run_means(Exec const& on, golden_config const& config, Input const& input) {
  fkv::golden_shape const& shape = input.shape;
  guarded<float> means(at(shape.kv_heads) * at(config.future_blocks(shape.tokens)) * at(shape.tokens));
  guarded<std::byte> scratch(fkv::block_means_bytes(on, config, shape), 1);
  REQUIRE(fkv::block_means(on, config, input, means.data(), {scratch.data(), scratch.size()}).ok());
  CHECK(means.intact());
  CHECK(scratch.intact());
  return means;
}

golden_means view_of(guarded<float> const& means, golden_config const& config, fkv::golden_shape const& shape) {
  return golden_means::block_major(means.data(), shape.kv_heads, shape.tokens, config.future_blocks(shape.tokens));
}

/// Infinite where one is not a number.
template <class Ours, class Theirs>
double largest_difference(Ours const& ours, Theirs const& theirs) {
  REQUIRE(ours.size() == theirs.size());
  double largest = 0.0;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    double const difference = std::abs(static_cast<double>(ours[i]) - static_cast<double>(theirs[i]));
    largest = std::isnan(difference) ? HUGE_VAL : std::max(largest, difference);
  }
  return largest;
}

double default_scale(problem const& given) { return 1.0 / std::sqrt(static_cast<double>(given.shape.head_dim)); }

/// Streams, and checks what comes out against the definition and against the host.
void check_streaming(golden_config const& config, problem const& given, double tolerance = 3e-6) {
  auto const input = given.input();
  auto const means = run_means(exec, config, input);
  CHECK(largest_difference(means, golden_oracle::block_means(config, given, default_scale(given))) < tolerance);
  auto const view = view_of(means, config, given.shape);
  auto const streamed = run(exec, config, input);
  CHECK(same(streamed, run(fkv::host, config, view)));
  CHECK(same(streamed, run(exec, config, view)));
}

}  // namespace

TEST_CASE("golden_eviction kernels: random shapes against T x T loops in double precision, and against the host") {
  int steps = 0;
  for (int round = 0; round < 32; ++round) {
    testing::random_source random(static_cast<std::uint64_t>(round));
    golden_config config;
    config.interval = round % 2 == 0 ? random.integer(1, 24) : random.integer(25, 70);
    config.budget = config.interval * random.integer(1, 4);
    config.rules = round % 3 == 2 ? golden_rules::published : golden_rules::exact;
    if (config.rules == golden_rules::published) config.budget += random.integer(0, config.interval);
    config.future = static_cast<golden_future>(round / 2 % 4);
    config.reduction = round % 5 == 4 ? golden_reduction::maximum : golden_reduction::mean;
    fkv::golden_shape shape;
    shape.group = 1 + round % 16;
    shape.kv_heads = random.integer(1, shape.group > 4 ? 1 : 3);
    shape.tokens = config.budget + config.interval + random.integer(1, 90);
    shape.head_dim = random.integer(1, 70);
    CAPTURE(round);
    auto const given = random_problem(shape, static_cast<unsigned>(round));
    check_streaming(config, given);
    auto const ours = run(exec, config, given.input());
    auto const theirs = run(fkv::host, config, given.input());
    CHECK(largest_difference(ours.future, theirs.future) < 1e-5);
    steps += ours.steps;
  }
  CHECK(steps > 60);
}

TEST_CASE("golden_eviction kernels: hostile block means give what the host gives, to the bit") {
  float const tiny = std::numeric_limits<float>::denorm_min();
  std::vector<std::vector<float>> const pools{{0.5f},
                                              {0.0f, -0.0f, 0.25f, 0.5f},
                                              {0.0f, -0.0f, tiny, -tiny, 1e-45f, -1.0f},
                                              {0.1f, 0.3f, 0.7f, infinity, -infinity, not_a_number, 0.0f, -0.0f},
                                              {not_a_number},
                                              {}};  // random
  for (int round = 0; round < 60; ++round) {
    testing::random_source random(static_cast<std::uint64_t>(round));
    golden_config config;
    config.interval = random.integer(1, 40);
    config.budget = config.interval + random.integer(0, 300);
    config.future = static_cast<golden_future>(round % 4);
    config.discount = static_cast<float>(random.uniform());
    int const kv_heads = random.integer(1, 3);
    int const tokens = config.budget + config.interval + random.integer(1, 200);
    int const blocks = std::max(1, config.steps(tokens) + random.integer(-2, 3));
    auto const& pool = pools[static_cast<std::size_t>(round) % pools.size()];
    guarded<float> means(at(kv_heads * tokens) * at(blocks));
    for (float& mean : means)
      mean = pool.empty() ? static_cast<float>(random.uniform()) : pool[random.bits() % pool.size()];
    CAPTURE(round);
    auto const view = golden_means::token_major(means.data(), kv_heads, tokens, blocks);
    CHECK(same(run(exec, config, view), run(fkv::host, config, view)));
  }
}

TEST_CASE("golden_eviction kernels: budgets up to and beyond the registers and the chunks of a block") {
  for (int budget : {2048, 2049, 8192, 8193, 17000}) {
    testing::random_source random(static_cast<std::uint64_t>(budget));
    golden_config const config{.budget = budget, .interval = 1100};
    int const tokens = budget + 3 * config.interval + 5, blocks = 3;
    guarded<float> means(at(tokens * blocks));
    for (float& mean : means) mean = static_cast<float>(random.integer(0, 300)) / 64.0f;  // ties across chunks
    CAPTURE(budget);
    auto const view = golden_means::block_major(means.data(), 1, tokens, blocks);
    CHECK(same(run(exec, config, view), run(fkv::host, config, view)));
  }
}

TEST_CASE("golden_eviction kernels: KV heads that are worked on in parts") {
  using one_by_one = fkv::detail::kernels::golden_kernels<testing::execution, 1>;
  golden_config const config{.budget = 48, .interval = 16};
  auto const given = random_problem({5, 2, 181, 20}, 13);
  using in_twos = fkv::detail::kernels::golden_kernels<testing::execution, 8 * 181 * 2 + 1>;
  REQUIRE(config.future_blocks(181) == 8);
  auto const whole = run(exec, config, given.input());
  auto const check = [&](auto part) {
    results got = room_for(config, given.input());
    guarded<std::byte> scratch(part.golden_eviction_bytes(exec, config, given.shape));
    CHECK(scratch.size() < fkv::golden_eviction_bytes(exec, config, given.shape));
    CHECK(part.golden_eviction(exec, config, given.input(), got.output(), {scratch.data(), scratch.size()}).ok());
    CHECK(scratch.intact());
    CHECK(same(got, whole));

    auto const means = run_means(exec, config, given.input());
    auto const view = view_of(means, config, given.shape);
    results again = room_for(config, view);
    scratch = guarded<std::byte>(part.golden_eviction_bytes(exec, config, view));
    CHECK(part.golden_eviction(exec, config, view, again.output(), {scratch.data(), scratch.size()}).ok());
    CHECK(scratch.intact());
    CHECK(same(again, whole));
  };
  check(one_by_one{});
  check(in_twos{});
}

TEST_CASE("golden_eviction kernels: no more launches than the documentation says") {
  golden_config const config{.budget = 32, .interval = 16};
  auto const given = random_problem({3, 2, 120, 8}, 89);
  auto const lse = golden_oracle::log_sum_exp(given, default_scale(given));
  auto input = given.input();
  auto const count = [&](auto const& call) {
    testing::launch_log log;
    testing::execution logged;
    logged.log = &log;
    call(logged);
    return log.size();
  };
  auto const means = run_means(exec, config, input);
  CHECK(count([&](auto const& on) { (void)run_means(on, config, input); }) == 2);
  CHECK(count([&](auto const& on) { (void)run(on, config, input); }) == 4);
  CHECK(count([&](auto const& on) { (void)run(on, config, view_of(means, config, given.shape)); }) == 2);
  input.lse = lse.data();
  CHECK(count([&](auto const& on) { (void)run_means(on, config, input); }) == 1);
  CHECK(count([&](auto const& on) { (void)run(on, config, input); }) == 3);
}

TEST_CASE("golden_eviction kernels: memory never holds a T x T matrix") {
  // 32K tokens of 8 KV heads, group 4: block means and softmaxes, and little else.
  golden_config const config{.budget = 1024, .interval = 128};
  double const blocks = config.future_blocks(32768), queries = 32768 - 9 * 128;
  double const wanted = 8 * (4 * blocks * 32768 + 8 * 4 * queries + 2 * 4 * 1024);
  CHECK(static_cast<double>(fkv::golden_eviction_bytes(exec, config, {8, 4, 32768, 128})) < wanted + 1024);
  // Longer ones by parts.
  CHECK(fkv::golden_eviction_bytes(exec, config, {8, 4, 1 << 17, 128}) < (std::size_t{3} << 29));
}
