// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include <foresightkv/training/ranking_hinge.hpp>

#include "support/data.hpp"
#include "support/random.hpp"
#include "support/red_zone.hpp"
#include "support/training_vectors.hpp"

namespace fkv = foresightkv;
using fkv::errc;
using fkv::training::hinge_config;
using fkv::training::hinge_result;
using fkv::training::ranking_rows;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float quiet_nan = std::numeric_limits<float>::quiet_NaN();

template <class Real>
struct problem {
  int rows = 0;
  int candidates = 0;
  std::vector<Real> scores;
  std::vector<float> labels;

  [[nodiscard]] ranking_rows<Real> view() const { return {scores.data(), labels.data(), rows, candidates}; }
};

/// Scores and labels of every kind: many equal ones, few equal ones, spread around the margin.
template <class Real = float>
problem<Real> random_problem(int rows, int candidates, std::uint64_t seed) {
  testing::random_source random(seed);
  problem<Real> made{rows, candidates, {}, {}};
  for (int row = 0; row < rows; ++row) {
    int const levels = row % 3 == 0 ? 1 << 20 : row % 3 == 1 ? 5 : std::max(2, candidates / 4);
    for (int i = 0; i < candidates; ++i) {
      made.scores.push_back(
          static_cast<Real>(0.02 * random.integer(-200, 200) / 8 + (row % 2 ? 1e-3 * random.uniform() : 0)));
      made.labels.push_back(static_cast<float>(random.integer(-levels, levels)) / static_cast<float>(levels));
    }
  }
  return made;
}

template <class Real>
struct outcome {
  fkv::status status;
  hinge_result result;
  std::vector<Real> gradient;
};

template <class Real>
outcome<Real> solve(problem<Real> const& given, hinge_config const& config = {}, fkv::host_execution exec = fkv::host) {
  outcome<Real> got{{}, {}, std::vector<Real>(given.scores.size(), Real{77})};
  std::vector<std::byte> memory(fkv::training::ranking_hinge_bytes(exec, given.view()));
  got.status = fkv::training::ranking_hinge(exec, config, given.view(), got.gradient.data(), &got.result,
                                            {memory.data(), memory.size()});
  return got;
}

/// The definition, pair by pair.
template <class Real>
outcome<Real> oracle(problem<Real> const& given, double margin_given) {
  outcome<Real> expected{{}, {}, std::vector<Real>(given.scores.size())};
  auto const margin = static_cast<Real>(margin_given);
  std::vector<std::vector<long>> net;
  std::vector<double> pairs;
  int const n = given.candidates;
  for (int row = 0; row < given.rows; ++row) {
    Real const* const s = given.scores.data() + row * n;
    float const* const y = given.labels.data() + row * n;
    std::vector<long> counts(static_cast<std::size_t>(n));
    long number = 0;
    double sum = 0.0;
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) {
        if (!(y[i] > y[j])) continue;
        ++number;
        if (!(s[i] - s[j] < margin)) continue;
        ++expected.result.active;
        ++counts[static_cast<std::size_t>(j)];
        --counts[static_cast<std::size_t>(i)];
        sum += static_cast<double>(margin) - (static_cast<double>(s[i]) - static_cast<double>(s[j]));
      }
    net.push_back(counts);
    pairs.push_back(static_cast<double>(number));
    expected.result.pairs += number;
    if (number == 0) continue;
    ++expected.result.rows;
    expected.result.loss += sum / static_cast<double>(number);
  }
  if (expected.result.rows > 0) expected.result.loss /= expected.result.rows;
  for (std::size_t i = 0; i < expected.gradient.size(); ++i) {
    auto const row = i / static_cast<std::size_t>(n), at = i % static_cast<std::size_t>(n);
    if (pairs[row] == 0.0) continue;
    expected.gradient[i] =
        static_cast<Real>(static_cast<double>(net[row][at]) * (1.0 / pairs[row] / expected.result.rows));
  }
  return expected;
}

template <class Real>
void check_same(outcome<Real> const& got, outcome<Real> const& expected) {
  REQUIRE(got.status.ok());
  CHECK(got.result.rows == expected.result.rows);
  CHECK(got.result.pairs == expected.result.pairs);
  CHECK(got.result.active == expected.result.active);
  CHECK(std::fabs(got.result.loss - expected.result.loss) <= 1e-12 + 1e-7 * expected.result.loss);
  CHECK(got.gradient == expected.gradient);
}

}  // namespace

TEST_CASE("ranking_hinge: stored losses and gradients of the published code") {
  auto const path = testing::vectors_folder() / "hinge_values.safetensors";
  testing::check_hinge(fkv::io::safetensors_file(path));
}

TEST_CASE("ranking_hinge: equals the definition bit by bit") {
  for (int const candidates : {1, 2, 3, 7, 8, 16, 17, 33, 64, 100, 257, 300})
    for (double const margin : {0.01, 0.0, -0.3, 0.125, 5.0}) {
      CAPTURE(candidates);
      CAPTURE(margin);
      hinge_config config;
      config.margin = margin;
      auto const floats = random_problem(6, candidates, static_cast<std::uint64_t>(candidates));
      check_same(solve(floats, config), oracle(floats, margin));
      auto const doubles = random_problem<double>(6, candidates, static_cast<std::uint64_t>(candidates) + 1);
      check_same(solve(doubles, config), oracle(doubles, margin));
    }
}

TEST_CASE("ranking_hinge: comparing and sorting count the same, in every instruction set") {
  namespace host = fkv::detail::host;
  testing::random_source random(7);
  for (int round = 0; round < 40; ++round) {
    int const n = random.integer(1, 400);
    auto const given = random_problem(3, n, static_cast<std::uint64_t>(round) + 100);
    std::vector<std::byte> memory(1 << 16);
    fkv::detail::arena cutting{{memory.data(), memory.size()}};
    auto scratch = host::ranking_scratch<float>::take(cutting, n);
    REQUIRE(cutting.bytes() <= memory.size());
    for (int row = 0; row < 3; ++row) {
      float const* const scores = given.scores.data() + row * n;
      float const* const labels = given.labels.data() + row * n;
      auto const count = [&]<class Isa>(Isa, int sorted_from, std::vector<std::int32_t>& net) {
        fkv::detail::host::pair_counts found;
        host::with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
          found = host::count_all_pairs<decltype(isa)>(scores, labels, n, 0.05f, scratch, sorted_from);
        });
        net.assign(scratch.gradient, scratch.gradient + n);
        return found;
      };
      std::vector<std::int32_t> sorted, compared;
      auto const expected = count(host::isa_baseline{}, 0, sorted);
      auto const check = [&](auto isa) {
        if (!host::supports<decltype(isa)>()) return;
        auto const found = count(isa, std::numeric_limits<int>::max(), compared);
        CHECK(found.pairs == expected.pairs);
        CHECK(found.active == expected.active);
        CHECK(compared == sorted);
      };
      check(host::isa_baseline{});
      check(host::isa_avx2{});
      check(host::isa_avx512{});
    }
  }
}

TEST_CASE("ranking_hinge: long rows, where sorting takes over") {
  int const candidates = fkv::detail::host::sorted_pairs_from<fkv::detail::host::isa_avx512> + 13;
  auto const given = random_problem(3, candidates, 5);
  check_same(solve(given), oracle(given, 0.01));
}

TEST_CASE("ranking_hinge: orientation, shifts and permutations") {
  auto const given = random_problem(6, 90, 11);
  auto const base = solve(given);
  SUBCASE("flipping scores and labels flips the gradient") {
    auto flipped = given;
    for (float& score : flipped.scores) score = -score;
    for (float& label : flipped.labels) label = -label;
    auto got = solve(flipped);
    for (float& slope : got.gradient) slope = 0.0f - slope;
    CHECK(got.gradient == base.gradient);
    CHECK(got.result.loss == doctest::Approx(base.result.loss).epsilon(1e-12));
  }
  SUBCASE("a common shift of a row changes nothing, and the gradient sums to 0") {
    auto shifted = random_problem<double>(6, 90, 11);
    auto const before = solve(shifted);
    for (std::size_t i = 0; i < shifted.scores.size(); ++i) shifted.scores[i] += 1024.0 * static_cast<double>(i / 90);
    auto const after = solve(shifted);
    CHECK(after.result.loss == doctest::Approx(before.result.loss).epsilon(1e-9));
    for (int row = 0; row < 6; ++row) {
      double sum = 0.0;
      for (int i = 0; i < 90; ++i) sum += after.gradient[static_cast<std::size_t>(row * 90 + i)];
      CHECK(std::fabs(sum) <= 1e-15);
    }
  }
  SUBCASE("the order of candidates is of no account") {
    auto permuted = given;
    std::vector<std::size_t> order(90);
    std::iota(order.begin(), order.end(), std::size_t{0});
    testing::random_source random(3);
    for (std::size_t i = 90; i > 1; --i)
      std::swap(order[i - 1], order[static_cast<std::size_t>(random.integer(0, static_cast<int>(i) - 1))]);
    for (std::size_t row = 0; row < 6; ++row)
      for (std::size_t i = 0; i < 90; ++i) {
        permuted.scores[row * 90 + i] = given.scores[row * 90 + order[i]];
        permuted.labels[row * 90 + i] = given.labels[row * 90 + order[i]];
      }
    auto const got = solve(permuted);
    for (std::size_t row = 0; row < 6; ++row)
      for (std::size_t i = 0; i < 90; ++i) CHECK(got.gradient[row * 90 + i] == base.gradient[row * 90 + order[i]]);
  }
  SUBCASE("raising a score whose gradient is negative lowers the loss") {
    for (std::size_t i = 0; i < given.scores.size(); i += 37) {
      if (!(base.gradient[i] < 0.0f)) continue;
      auto moved = given;
      moved.scores[i] += 1e-3f;
      CHECK(solve(moved).result.loss < base.result.loss);
    }
  }
}

TEST_CASE("ranking_hinge: finite differences in double precision") {
  auto given = random_problem<double>(4, 40, 21);
  for (std::size_t i = 0; i < given.scores.size(); ++i)
    given.scores[i] += 1e-4 * static_cast<double>(i % 13);  // off the corners
  hinge_config config;
  config.margin = 0.0123456;
  auto const base = solve(given, config);
  for (std::size_t i = 0; i < given.scores.size(); i += 7) {
    double const step = 1e-9;
    auto up = given, down = given;
    up.scores[i] += step;
    down.scores[i] -= step;
    double const slope = (solve(up, config).result.loss - solve(down, config).result.loss) / (2 * step);
    CHECK(slope == doctest::Approx(base.gradient[i]).epsilon(1e-5).scale(1e-3));
  }
}

TEST_CASE("ranking_hinge: results do not depend on the number of threads") {
  auto const given = random_problem(23, 129, 31);
  for (int const shifts : {0, 5}) {
    hinge_config config;
    config.num_shifts = shifts;
    auto const one = solve(given, config, fkv::host.threads(1));
    for (int const threads : {2, 3, 4, 16}) {
      auto const many = solve(given, config, fkv::host.threads(threads));
      CHECK(many.gradient == one.gradient);
      CHECK(many.result.loss == one.result.loss);
      CHECK(many.result.active == one.result.active);
    }
  }
}

// --- cyclic shifts
// ---------------------------------------------------------------------------------------------------

TEST_CASE("ranking_hinge: enough shifts meet every pair") {
  for (int const candidates : {2, 3, 40, 41}) {
    auto const given = random_problem(6, candidates, 41);
    auto const exact = solve(given);
    for (int const more : {0, 1, 1000}) {
      hinge_config config;
      config.num_shifts = candidates / 2 + more;
      auto const got = solve(given, config);
      CHECK(got.gradient == exact.gradient);
      CHECK(got.result.loss == exact.result.loss);
    }
  }
}

TEST_CASE("ranking_hinge: drawn distances are different, in range and equally likely") {
  for (int const most : {1, 2, 7, 32})
    for (int const count : {1, 3, 7}) {
      if (count > most) continue;
      constexpr int draws = 4000;
      std::vector<int> hits(static_cast<std::size_t>(most) + 1);
      for (int step = 0; step < draws; ++step) {
        std::vector<std::int32_t> drawn(static_cast<std::size_t>(count));
        fkv::detail::draw_distances({{0, 3, static_cast<std::uint32_t>(step), 0}}, 99, most, count, drawn.data());
        CHECK(std::set<std::int32_t>(drawn.begin(), drawn.end()).size() == drawn.size());
        for (std::int32_t const distance : drawn) {
          REQUIRE(distance >= 1);
          REQUIRE(distance <= most);
          ++hits[static_cast<std::size_t>(distance)];
        }
      }
      double const chance = static_cast<double>(count) / most;
      double const deviation = std::sqrt(draws * chance * (1 - chance)) + 1e-9;
      for (int distance = 1; distance <= most; ++distance)
        CHECK(std::fabs(hits[static_cast<std::size_t>(distance)] - draws * chance) <= 5 * deviation);
    }
}

TEST_CASE("ranking_hinge: cyclic shifts are unbiased") {
  for (int const candidates : {32, 33}) {  // even: the distance of half the row has half as many pairs
    CAPTURE(candidates);
    auto const given = random_problem(4, candidates, 51);
    auto const exact = solve(given);
    constexpr int draws = 3000;
    auto const size = given.scores.size();
    std::vector<double> sum(size + 1), squares(size + 1);
    hinge_config config;
    config.num_shifts = 3;
    config.seed = 17;
    for (int step = 0; step < draws; ++step) {
      config.step = static_cast<std::uint32_t>(step);
      auto const got = solve(given, config);
      CHECK(got.result.rows == exact.result.rows);
      for (std::size_t i = 0; i <= size; ++i) {
        double const value = i < size ? static_cast<double>(got.gradient[i]) : got.result.loss;
        sum[i] += value;
        squares[i] += value * value;
      }
    }
    for (std::size_t i = 0; i <= size; ++i) {
      double const expected = i < size ? static_cast<double>(exact.gradient[i]) : exact.result.loss;
      double const mean = sum[i] / draws;
      double const error = std::sqrt(std::max(0.0, squares[i] / draws - mean * mean) / draws);
      CHECK(std::fabs(mean - expected) <= 5 * error + 1e-9);
    }
  }
}

TEST_CASE("ranking_hinge: what a row draws depends on seed, step and its own number alone") {
  auto const given = random_problem(5, 60, 61);
  hinge_config config;
  config.num_shifts = 2;
  config.seed = 5;
  config.step = 9;
  auto const together = solve(given, config);
  // The last two rows as a call of their own: the mean is over fewer rows, which 2 / 5 undoes.
  problem<float> const tail{
      2, 60, {given.scores.begin() + 180, given.scores.end()}, {given.labels.begin() + 180, given.labels.end()}};
  REQUIRE(together.result.rows == 5);
  config.first_row = 3;
  auto const apart = solve(tail, config);
  for (std::size_t i = 0; i < apart.gradient.size(); ++i)
    CHECK(apart.gradient[i] * 2.0f / 5.0f == doctest::Approx(together.gradient[180 + i]).epsilon(1e-6));
  config.step = 10;
  CHECK(solve(tail, config).gradient != apart.gradient);
  config.step = 9;
  config.seed = 6;
  CHECK(solve(tail, config).gradient != apart.gradient);
}

// --- hostile inputs
// --------------------------------------------------------------------------------------------------

TEST_CASE("ranking_hinge: rows without pairs are left out of the mean") {
  auto given = random_problem(4, 12, 71);
  auto const one_row = problem<float>{1,
                                      12,
                                      {given.scores.begin() + 24, given.scores.begin() + 36},
                                      {given.labels.begin() + 24, given.labels.begin() + 36}};
  for (std::size_t i = 0; i < 48; ++i)
    if (i / 12 != 2) given.labels[i] = 0.5f;
  auto const got = solve(given), expected = solve(one_row);
  CHECK(got.result.rows == 1);
  CHECK(got.result.loss == expected.result.loss);
  for (std::size_t i = 0; i < 48; ++i) CHECK(got.gradient[i] == (i / 12 == 2 ? expected.gradient[i - 24] : 0.0f));
  for (float& label : given.labels) label = -0.0f;
  for (std::size_t i = 0; i < 48; i += 2) given.labels[i] = 0.0f;
  auto const none = solve(given);
  CHECK(none.result.loss == 0.0);
  CHECK(none.result.rows == 0);
  CHECK(std::all_of(none.gradient.begin(), none.gradient.end(), [](float slope) { return slope == 0.0f; }));
}

TEST_CASE_TEMPLATE("ranking_hinge: NaN labels take part in no pair, infinite ones do", Real, float, double) {
  problem<Real> given{1, 6, {}, {1.0f, quiet_nan, 2.0f, -infinity, -quiet_nan, infinity}};
  for (double const score : {0.3, 0.1, 0.2, 0.0, 0.4, 0.2}) given.scores.push_back(static_cast<Real>(score));
  problem<Real> const without{
      1, 4, {given.scores[0], given.scores[2], given.scores[3], given.scores[5]}, {1.0f, 2.0f, -infinity, infinity}};
  for (double const margin : {0.01, 1.0}) {
    auto const expected = oracle(without, margin);
    for (int const shifts : {0, 100}) {
      hinge_config config;
      config.margin = margin;
      config.num_shifts = shifts;
      auto const got = solve(given, config);
      REQUIRE(got.status.ok());
      CHECK(got.result.pairs == 6);
      CHECK(got.result.active == expected.result.active);
      CHECK(got.result.loss == doctest::Approx(expected.result.loss).epsilon(1e-7));
      CHECK(std::vector<Real>{got.gradient[0], got.gradient[2], got.gradient[3], got.gradient[5]} == expected.gradient);
      CHECK(got.gradient[1] == Real{0});
      CHECK(got.gradient[4] == Real{0});
    }
  }
  hinge_config one;
  one.num_shifts = 1;
  for (one.step = 0; one.step < 30; ++one.step) {
    auto const got = solve(given, one);
    CHECK(got.gradient[1] == Real{0});
    CHECK(got.gradient[4] == Real{0});
  }
}

TEST_CASE("ranking_hinge: a score that is not finite takes its row out and no other") {
  for (float const bad : {quiet_nan, -quiet_nan, infinity, -infinity}) {
    auto given = random_problem(3, 20, 81);
    given.scores[25] = bad;
    auto const got = solve(given);
    REQUIRE(got.status.ok());
    CHECK(got.result.not_finite_rows == 1);
    CHECK(got.result.rows == 2);
    CHECK(std::isfinite(got.result.loss));
    for (std::size_t i = 20; i < 40; ++i) CHECK(got.gradient[i] == 0.0f);
    CHECK(std::any_of(got.gradient.begin(), got.gradient.begin() + 20, [](float slope) { return slope != 0.0f; }));
  }
  auto huge = random_problem(1, 64, 82);
  for (float& score : huge.scores) score *= 1e38f;
  CHECK(solve(huge).result.rows == 1);
  check_same(solve(huge), oracle(huge, 0.01));
}

TEST_CASE("ranking_hinge: nothing to do, and no gradient wanted") {
  for (auto const& [rows, candidates] : {std::pair{0, 5}, std::pair{5, 0}, std::pair{0, 0}}) {
    hinge_result result{1.0, 2, 3, 4, 5};
    CHECK(fkv::training::ranking_hinge(fkv::host, hinge_config{},
                                       ranking_rows<float>{nullptr, nullptr, rows, candidates},
                                       static_cast<float*>(nullptr), &result, {})
              .ok());
    CHECK(result.loss == 0.0);
    CHECK(result.pairs == 0);
  }
  auto const given = random_problem(3, 50, 91);
  std::vector<std::byte> memory(fkv::training::ranking_hinge_bytes(fkv::host, given.view()));
  hinge_result result;
  CHECK(fkv::training::ranking_hinge(fkv::host, {}, given.view(), static_cast<float*>(nullptr), &result,
                                     {memory.data(), memory.size()})
            .ok());
  CHECK(result.loss == solve(given).result.loss);
}

TEST_CASE("ranking_hinge: errors leave every output as it was") {
  auto const given = random_problem(4, 30, 95);
  auto const exec = fkv::host.threads(2);
  auto const bytes = fkv::training::ranking_hinge_bytes(exec, given.view());
  testing::guarded<float> gradient(given.scores.size());
  auto const untouched = gradient;
  testing::guarded<std::byte> memory(bytes);
  hinge_result result;
  result.loss = 42.0;
  auto const call = [&](hinge_config const& config, ranking_rows<float> const& rows, float* slopes, hinge_result* out,
                        fkv::workspace scratch) {
    return fkv::training::ranking_hinge(exec, config, rows, slopes, out, scratch).code;
  };
  fkv::workspace const scratch{memory.data(), bytes};
  auto const with = [&](auto&& change) {
    auto rows = given.view();
    change(rows);
    return rows;
  };
  hinge_config config;
  config.margin = static_cast<double>(quiet_nan);
  CHECK(call(config, given.view(), gradient.data(), &result, scratch) == errc::invalid_config);
  config = {};
  config.num_shifts = -1;
  CHECK(call(config, given.view(), gradient.data(), &result, scratch) == errc::invalid_config);
  config = {};
  CHECK(call(config, with([](auto& rows) { rows.rows = -1; }), gradient.data(), &result, scratch) ==
        errc::invalid_shape);
  CHECK(call(config, with([](auto& rows) { rows.candidates = -3; }), gradient.data(), &result, scratch) ==
        errc::invalid_shape);
  CHECK(call(config, with([](auto& rows) { rows.scores = nullptr; }), gradient.data(), &result, scratch) ==
        errc::null_pointer);
  CHECK(call(config, with([](auto& rows) { rows.labels = nullptr; }), gradient.data(), &result, scratch) ==
        errc::null_pointer);
  CHECK(call(config, given.view(), gradient.data(), nullptr, scratch) == errc::null_pointer);
  CHECK(call(config, given.view(), gradient.data(), &result, {nullptr, bytes}) == errc::null_pointer);
  CHECK(call(config, given.view(), gradient.data(), &result, {memory.data(), bytes - 1}) == errc::workspace_too_small);
  CHECK(call(config, given.view(), reinterpret_cast<float*>(reinterpret_cast<char*>(gradient.data()) + 1), &result,
             scratch) == errc::misaligned);
  CHECK(call(config, given.view(), const_cast<float*>(given.scores.data()) + 5, &result, scratch) == errc::overlap);
  CHECK(gradient.same_bytes(untouched));
  CHECK(result.loss == 42.0);
  CHECK(call(config, given.view(), gradient.data(), &result, scratch) == errc::ok);
  CHECK(gradient.intact());
  CHECK(memory.intact());
}
