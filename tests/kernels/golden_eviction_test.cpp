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

#include <foresightkv/golden_eviction.hpp>

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

golden_means view_of(guarded<float> const& means, golden_config const& config,
                     fkv::golden_shape const& shape) {
  return golden_means::block_major(means.data(), shape.kv_heads, shape.tokens,
                                   config.future_blocks(shape.tokens));
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

double default_scale(problem const& given) {
  return 1.0 / std::sqrt(static_cast<double>(given.shape.head_dim));
}

/// Attention that all tokens get from all future blocks together.
double mass(guarded<float> const& means) { return std::accumulate(means.begin(), means.end(), 0.0); }

/// Streams, and checks what comes out against the definition and against the host.
void check_streaming(golden_config const& config, problem const& given, double tolerance = 3e-6) {
  auto const input = given.input();
  auto const means = run_means(exec, config, input);
  CHECK(largest_difference(means, golden_oracle::block_means(config, given, default_scale(given))) <
        tolerance);
  auto const view = view_of(means, config, given.shape);
  auto const streamed = run(exec, config, input);
  CHECK(same(streamed, run(fkv::host, config, view)));
  CHECK(same(streamed, run(exec, config, view)));
}

}  // namespace

TEST_CASE(
    "golden_eviction kernels: random shapes against T x T loops in double precision, and against the host") {
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

TEST_CASE("golden_eviction kernels: vectors of the published code") {
  int checked = 0;
  for (auto const& entry : std::filesystem::directory_iterator(FORESIGHTKV_TEST_DATA "/vectors")) {
    auto const name = entry.path().filename().string();
    if (!name.starts_with("golden_")) continue;
    CAPTURE(name);
    fkv::io::safetensors_file const file(entry.path());
    auto const stored = golden_vectors::read_expected(file);
    int const blocks = golden_vectors::int_of(file, "future_blocks");
    auto const check = [&](auto const& given) {
      golden_vectors::outcome got(stored);
      std::vector<std::byte> scratch(fkv::golden_eviction_bytes(exec, stored.config, extents_of(given)));
      CHECK(fkv::golden_eviction(exec, stored.config, given, got.output(), {scratch.data(), scratch.size()})
                .ok());
      golden_vectors::check_equal(stored, got, stored.tolerance);
    };
    auto const means =
        file.at("block_means").expect_shape({stored.kv_heads, stored.tokens, blocks}).as<float>();
    std::vector<float> const copied(means.begin(), means.end());  // in memory that a device reads
    check(golden_means::token_major(copied.data(), stored.kv_heads, stored.tokens, blocks));
    ++checked;
    if (file.find("q") == nullptr) continue;
    problem given{{stored.kv_heads, golden_vectors::int_of(file, "group"), stored.tokens,
                   golden_vectors::int_of(file, "head_dim")},
                  {},
                  {}};
    auto const queries = file.at("q").as<float>(), keys = file.at("k").as<float>();
    given.queries.assign(queries.begin(), queries.end());
    given.keys.assign(keys.begin(), keys.end());
    check(given.input());
    ++checked;
  }
  CHECK(checked == 18);
}

TEST_CASE("golden_eviction kernels: hostile block means give what the host gives, to the bit") {
  float const tiny = std::numeric_limits<float>::denorm_min();
  std::vector<std::vector<float>> const pools{
      {0.5f},
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
    for (float& mean : means)
      mean = static_cast<float>(random.integer(0, 300)) / 64.0f;  // ties across chunks
    CAPTURE(budget);
    auto const view = golden_means::block_major(means.data(), 1, tokens, blocks);
    CHECK(same(run(exec, config, view), run(fkv::host, config, view)));
  }
}

TEST_CASE("golden_eviction kernels: block means by strides") {
  golden_config const config{.budget = 12, .interval = 5, .future = golden_future::mean};
  int const kv_heads = 3, tokens = 64, blocks = config.steps(tokens);
  testing::random_source random(11);
  guarded<float> compact(at(kv_heads * tokens * blocks)), spread(4 * compact.size(), -1.0f);
  golden_means const strided{spread.data(),         kv_heads, tokens, blocks, 2, 2L * kv_heads,
                             4L * kv_heads * tokens};
  auto const plain = golden_means::block_major(compact.data(), kv_heads, tokens, blocks);
  for (int head = 0; head < kv_heads; ++head)
    for (int k = 0; k < tokens; ++k)
      for (int block = 0; block < blocks; ++block)
        spread[at(head * 2 + k * 2 * kv_heads + block * 4 * kv_heads * tokens)] =
            compact[at((head * blocks + block) * tokens + k)] = static_cast<float>(random.uniform());
  CHECK(same(run(exec, config, plain), run(exec, config, strided)));
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
    CHECK(part.golden_eviction(exec, config, given.input(), got.output(), {scratch.data(), scratch.size()})
              .ok());
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

TEST_CASE("golden_eviction kernels: strides and the softmax scale") {
  golden_config const config{.budget = 32, .interval = 16};
  auto const given = random_problem({2, 3, 130, 9}, 37);
  int const heads = 6, row = 11;  // [token][head][dim], rows padded with NaN that nothing may read
  guarded<float> queries(at(130 * heads * row), not_a_number), keys = queries;
  for (int t = 0; t < 130; ++t)
    for (int head = 0; head < heads; ++head)
      for (int d = 0; d < 9; ++d) {
        queries[at((t * heads + head) * row + d)] = given.queries[at((head * 130 + t) * 9 + d)];
        if (head < 2) keys[at((t * heads + head) * row + d)] = given.keys[at((head * 130 + t) * 9 + d)];
      }
  auto input = given.input();
  input.softmax_scale = 0.125f;
  auto const plain = run_means(exec, config, input);
  CHECK(largest_difference(plain, golden_oracle::block_means(config, given, 0.125)) < 3e-6);
  input.queries = queries.data();
  input.keys = keys.data();
  input.query_strides = input.key_strides = {row, std::int64_t{heads} * row};
  CHECK(same(plain, run_means(exec, config, input)));
}

TEST_CASE("golden_eviction kernels: a log-sum-exp handed over replaces the one computed") {
  golden_config const config{.budget = 64, .interval = 16};
  auto const given = random_problem({2, 3, 261, 24}, 29);
  auto lse = golden_oracle::log_sum_exp(given, default_scale(given));
  auto const own = run_means(exec, config, given.input());
  auto input = given.input();
  input.lse = lse.data();
  auto const handed = run_means(exec, config, input);
  CHECK(largest_difference(handed, own) < 1e-6);
  CHECK(same(run(exec, config, input), run(fkv::host, config, view_of(handed, config, given.shape))));

  std::vector<float> turned(lse.size());  // base 2, [token][head]
  for (int head = 0; head < 6; ++head)
    for (int t = 0; t < 261; ++t) turned[at(t * 6 + head)] = lse[at(head * 261 + t)] * 1.44269504f;
  fkv::golden_input<float, float, fkv::log_base::two> binary;
  binary.queries = input.queries;
  binary.keys = input.keys;
  binary.shape = input.shape;
  binary.lse = turned.data();
  binary.lse_strides = {1, 6};
  CHECK(largest_difference(run_means(exec, config, binary), own) < 1e-6);

  // Queries whose log-sum-exp is not finite are masked, and still count as rows of their blocks.
  lse[100] = infinity;
  lse[at(261 + 120)] = -infinity;
  lse[at(5 * 261 + 260)] = not_a_number;
  auto const masked = run_means(exec, config, input);
  int const last = 261 - 16 * 16;  // rows of the last block
  CHECK(mass(masked) ==
        doctest::Approx(2 * config.future_blocks(261) - 2 / 48.0 - 1 / (3.0 * last)).epsilon(1e-5));
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

TEST_CASE_TEMPLATE("golden_eviction kernels: narrow storage gives what its widened values give", Element,
                   fkv::half, fkv::bfloat16, fkv::float8_e4m3, fkv::float8_e5m2) {
  golden_config const config{.budget = 48, .interval = 16};
  auto given = random_problem({2, 2, 170, 21}, 41);
  auto const queries = narrowed<Element>(given.queries), keys = narrowed<Element>(given.keys);
  auto const wanted = run(exec, config, given.input());

  fkv::golden_input<Element> input;
  input.queries = queries.data();
  input.keys = keys.data();
  input.shape = given.shape;
  CHECK(same(wanted, run(exec, config, input)));
}

TEST_CASE("golden_eviction kernels: queries and keys of two types") {
  golden_config const config{.budget = 48, .interval = 16};
  auto given = random_problem({2, 2, 170, 21}, 43);
  auto const keys = narrowed<fkv::float8_e4m3>(given.keys);
  fkv::golden_input<float, fkv::float8_e4m3> mixed;
  mixed.queries = given.queries.data();
  mixed.keys = keys.data();
  mixed.shape = given.shape;
  CHECK(same(run(exec, config, given.input()), run(exec, config, mixed)));
}

TEST_CASE("golden_eviction kernels: hostile values in queries and keys") {
  golden_config const config{.budget = 32, .interval = 8};
  fkv::golden_shape const shape{1, 2, 100, 8};
  auto given = random_problem(shape, 47);
  SUBCASE("a query that is not a number is masked: the others stand as they are") {
    for (float const bad : {not_a_number, infinity, -infinity}) {
      given.queries[at((100 + 61) * 8 + 3)] = bad;
      check_streaming(config, given);
    }
  }
  SUBCASE("a key that is not a number masks every query that sees it") {
    given.keys[at(70 * 8)] = not_a_number;
    auto const means = run_means(exec, config, given.input());
    for (int block = 0; block < config.future_blocks(100); ++block) {
      auto const* const row = means.data() + block * 100;
      int const begin = (config.first_block() + block) * 8, rows = std::min(8, 100 - begin);
      int const masked = std::clamp(begin + rows - 70, 0, rows);
      CHECK(std::accumulate(row, row + 100, 0.0) ==
            doctest::Approx(1.0 - static_cast<double>(masked) / rows).epsilon(1e-5));
    }
  }
  SUBCASE("logits of minus infinity are no attention; a row of nothing else is masked") {
    for (auto& value : given.queries) value = std::abs(value) + 0.1f;
    for (int i = 0; i < 40 * 8; ++i) given.keys[at(i)] = -infinity;
    check_streaming(config, given);
    for (auto& value : given.keys) value = -infinity;
    for (float const mean : run_means(exec, config, given.input())) CHECK(mean == 0.0f);
  }
  SUBCASE("logits far below zero, falling and rising along the row") {
    for (float const slope : {-1.0f, 1.0f}) {
      problem far = random_problem({1, 1, 300, 2}, 61);
      for (auto& value : far.queries) value = 1.0f;
      for (int k = 0; k < 300; ++k)
        far.keys[at(2 * k)] = far.keys[at(2 * k + 1)] = -5000.0f + slope * 0.37f * static_cast<float>(k);
      golden_config const late{.budget = 120, .interval = 60};
      check_streaming(late, far, 1e-4);
      CHECK(mass(run_means(exec, late, far.input())) ==
            doctest::Approx(late.future_blocks(300)).epsilon(1e-5));
    }
  }
  SUBCASE("logits far apart neither overflow nor vanish") {
    for (auto& value : given.queries) value *= 1e4f;
    for (auto& value : given.keys) value *= 1e4f;
    CHECK(mass(run_means(exec, config, given.input())) ==
          doctest::Approx(config.future_blocks(100)).epsilon(1e-5));
  }
  SUBCASE("all equal: of equal scores the lowest go") {
    std::fill(given.queries.begin(), given.queries.end(), 0.0f);
    check_streaming(config, given);
    auto const got = run(exec, config, given.input());
    for (std::int32_t i = 0; i < 8; ++i) CHECK(got.evicted[at(i)] == i);
  }
}

TEST_CASE("golden_eviction kernels: a sequence that is too short has no step, one token more has one") {
  golden_config const config{.budget = 32, .interval = 16};
  for (int tokens : {0, 1, 32, 48}) {
    results got(config, 2, 100, 3);
    auto const given = random_problem({2, 2, tokens, 8}, 73);
    CHECK(fkv::golden_eviction_bytes(exec, config, given.shape) == 0);
    CHECK(fkv::block_means_bytes(exec, config, given.shape) == 0);
    CHECK(fkv::golden_eviction(exec, config, given.input(), got.output(), {}).ok());
    CHECK(fkv::block_means(exec, config, given.input(), got.labels.data(), {}).ok());
    CHECK(
        fkv::golden_eviction(exec, config, golden_means::block_major(nullptr, 2, tokens, 5), got.output(), {})
            .ok());
    CHECK(fkv::golden_eviction(exec, config, golden_means::block_major(nullptr, 2, 100, 0), got.output(), {})
              .ok());
    CHECK(got.untouched());
  }
  auto const given = random_problem({2, 2, 49, 8}, 74);
  CHECK(run(exec, config, given.input()).steps == 1);
  check_streaming(config, given);
}

TEST_CASE("golden_eviction kernels: outputs that are not asked for are left out") {
  golden_config const config{.budget = 32, .interval = 16};
  auto const given = random_problem({2, 2, 120, 8}, 79);
  auto const whole = run(exec, config, given.input());
  guarded<std::byte> scratch(fkv::golden_eviction_bytes(exec, config, given.shape));
  for (int member = 0; member < 4; ++member) {
    results got = room_for(config, given.input()), wanted = room_for(config, given.input());
    fkv::golden_output output;
    if (member == 0) output.labels = got.labels.data(), wanted.labels = whole.labels;
    if (member == 1) output.evicted = got.evicted.data(), wanted.evicted = whole.evicted;
    if (member == 2) output.evicted_positions = got.positions.data(), wanted.positions = whole.positions;
    if (member == 3) output.future = got.future.data(), wanted.future = whole.future;
    REQUIRE(fkv::golden_eviction(exec, config, given.input(), output, {scratch.data(), scratch.size()}).ok());
    CAPTURE(member);
    CHECK(same(got, wanted));
  }
}

TEST_CASE("golden_eviction kernels: wrong arguments give their error before anything is written") {
  golden_config const config{.budget = 32, .interval = 16};
  auto const given = random_problem({2, 2, 120, 8}, 83);
  results got = room_for(config, given.input());
  std::vector<std::byte> memory(fkv::golden_eviction_bytes(exec, config, given.shape));
  auto const refused = [&](errc code, golden_config const& by, fkv::golden_input<float> const& input,
                           fkv::golden_output const& output, std::size_t bytes) {
    CHECK(fkv::golden_eviction(exec, by, input, output, {memory.data(), bytes}).code == code);
    CHECK(got.untouched());
  };
  auto const input = given.input();
  auto changed = config;
  changed.budget = 33;
  refused(errc::invalid_config, changed, input, got.output(), memory.size());
  auto other = input;
  other.shape.group = 0;
  refused(errc::invalid_shape, config, other, got.output(), memory.size());
  other = input;
  other.keys = nullptr;
  refused(errc::null_pointer, config, other, got.output(), memory.size());
  refused(errc::null_pointer, config, input, {}, memory.size());
  refused(errc::workspace_too_small, config, input, got.output(), memory.size() - 1);
  auto const bytes = fkv::block_means_bytes(exec, config, given.shape);
  CHECK(fkv::block_means(exec, config, input, got.future.data(), {memory.data(), bytes - 1}).code ==
        errc::workspace_too_small);
  auto const means = golden_means::block_major(given.keys.data(), 2, 120, 4);
  CHECK(fkv::golden_eviction(exec, config, means, got.output(), {memory.data(), 0}).code ==
        errc::workspace_too_small);
  CHECK(got.untouched());
}

#if defined(FORESIGHTKV_TEST_EMULATED)
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
#endif

TEST_CASE("golden_eviction kernels: memory never holds a T x T matrix") {
  // 32K tokens of 8 KV heads, group 4: block means and softmaxes, and little else.
  golden_config const config{.budget = 1024, .interval = 128};
  double const blocks = config.future_blocks(32768), queries = 32768 - 9 * 128;
  double const wanted = 8 * (4 * blocks * 32768 + 8 * 4 * queries + 2 * 4 * 1024);
  CHECK(static_cast<double>(fkv::golden_eviction_bytes(exec, config, {8, 4, 32768, 128})) < wanted + 1024);
  // Longer ones by parts.
  CHECK(fkv::golden_eviction_bytes(exec, config, {8, 4, 1 << 17, 128}) < (std::size_t{3} << 29));
}
