// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <foresightkv/detail/host/row_operations.hpp>
#include <foresightkv/foresightkv.hpp>

#include "support/naive_window.hpp"

namespace fkv = foresightkv;
namespace host = foresightkv::detail::host;

namespace {

/// Whether two right implementations may differ in a row: a cosine lies too near R-KV's threshold.
template <class Scorer>
bool is_ambiguous(Scorer const& scorer, testing::naive_row const& row) {
  if constexpr (requires { scorer.threshold; })
    return testing::naive_r_kv(row, 8, 7, 0.0, double{scorer.threshold}).empty();
  return false;
}

/// The bulk forms of one instruction set against the generic source on the same rows.
template <class Element, class Query, class Isa, class Scorer>
void check_against_generic(Scorer const& scorer, double tolerance, std::uint64_t seed) {
  int compared = 0;
  for (std::uint64_t round = 0; round < 8; ++round) {
    CAPTURE(seed + round);
    testing::random_source random(seed + round);
    testing::scorer_case<Element, Query> tokens(testing::random_options(random, true), random);
    CAPTURE(tokens.options.length);
    CAPTURE(tokens.options.key_dim);
    tokens.score_in(scorer, testing::shuffled_block{&random});
    testing::owned_scores const generic = tokens.scores;
    tokens.score_in(scorer, host::host_block<Isa>{});
    double worst = 0.0;
    for (int row = 0; row < tokens.shape.num_rows(); ++row) {
      if (is_ambiguous(scorer, tokens.naive(row))) continue;
      ++compared;
      for (int slot = 0; slot < tokens.options.length; ++slot) {
        double const error = std::fabs(double{generic.at(row, slot)} - double{tokens.scores.at(row, slot)});
        worst = error <= worst ? worst : error;
      }
    }
    CHECK(worst <= tolerance);
  }
  CHECK(compared > 8);
}

TEST_CASE_TEMPLATE("row operations: bulk forms equal the generic ones", Isa, host::isa_baseline, host::isa_avx2,
                   host::isa_avx512) {
  if (!host::supports<Isa>()) {
    MESSAGE("skipped: this processor does not have the instruction set");
    return;
  }
  check_against_generic<float, float, Isa>(fkv::snap_kv<>{}, 1e-5, 10);
  check_against_generic<fkv::half, fkv::bfloat16, Isa>(fkv::snap_kv<5, 3>{}, 1e-5, 20);
  check_against_generic<float, float, Isa>(fkv::r_kv<>{}, 1e-6, 30);
  check_against_generic<fkv::float8_e4m3, float, Isa>(fkv::r_kv<>{.lambda = 0.0f, .threshold = 0.7f}, 1e-6, 40);
  check_against_generic<float, float, Isa>(fkv::key_diff{}, 2e-6, 50);
  check_against_generic<fkv::bfloat16, float, Isa>(fkv::key_diff{}, 2e-6, 60);
  check_against_generic<float, float, Isa>(fkv::softmax<fkv::key_norm>{}, 1e-6, 70);
}

TEST_CASE_TEMPLATE("softmax_row: hidden entries get 0, extremes stay finite", Isa, host::isa_baseline, host::isa_avx2,
                   host::isa_avx512) {
  if (!host::supports<Isa>()) return;
  for (int n = 0; n < 70; ++n) {
    testing::random_source random(static_cast<std::uint64_t>(n));
    testing::guarded<float> x(static_cast<std::size_t>(n));
    double total = 0.0, largest = -1e300;
    int hidden = 0;
    for (float& value : x) {
      bool const hide = random.chance(0.3);
      hidden += hide;
      value = hide ? fkv::detail::hidden_logit : fkv::detail::bounded_logit(20.0f * random.normal());
      if (!hide) largest = std::max(largest, double{value});
    }
    testing::guarded<float> const before = x;
    for (float const value : before)
      if (value > fkv::detail::hidden_logit) total += std::exp(double{value} - largest);
    fkv::detail::softmax_row(host::host_block<Isa>{}, x.data(), n);
    for (std::size_t i = 0; i < x.size(); ++i) {
      bool const hide = before[i] == fkv::detail::hidden_logit;
      double const expected = hide ? 0.0 : std::exp(double{before[i]} - largest) / total;
      CHECK(std::fabs(double{x[i]} - expected) <= 1e-6);
      if (hide) CHECK(x[i] == 0.0f);
    }
    CHECK(x.intact());
    if (hidden == n) CHECK(std::all_of(x.begin(), x.end(), [](float value) { return value == 0.0f; }));
  }
  float const infinity = std::numeric_limits<float>::infinity();
  std::vector<float> extreme;
  for (float const value : {infinity, -infinity, std::nanf(""), 3e38f, 0.0f})
    extreme.push_back(fkv::detail::bounded_logit(value));
  fkv::detail::softmax_row(host::host_block<Isa>{}, extreme.data(), 5);
  CHECK(extreme == std::vector<float>{0.5f, 0.0f, 0.0f, 0.5f, 0.0f});
}

}  // namespace
