// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <vector>

#include <foresightkv/training/judge_gradient.hpp>

#include "support/data.hpp"
#include "support/random.hpp"
#include "support/red_zone.hpp"
#include "support/training_problem.hpp"
#include "support/training_vectors.hpp"

namespace fkv = foresightkv;
using fkv::errc;
using fkv::training::output_bias;
using testing::judge_problem;

namespace {

/// Everything that forward and backward give.
template <class Real>
struct passes {
  std::vector<Real> hidden, scores, gradient;
};

template <class Real, class Key, class Value>
passes<Real> run(judge_problem<Key, Value> const& given, std::vector<Real> const& weights,
                 std::vector<Real> const& score_gradient, output_bias bias = output_bias::frozen,
                 fkv::host_execution exec = fkv::host) {
  auto const rows = given.view();
  auto const count = fkv::training::num_scores(given.shape, rows);
  passes<Real> got{std::vector<Real>(count * fkv::judge_shape::hidden), std::vector<Real>(count),
                   std::vector<Real>(weights.size())};
  REQUIRE(
      fkv::training::judge_forward(exec, given.shape, weights.data(), rows, got.hidden.data(), got.scores.data()).ok());
  std::vector<std::byte> memory(fkv::training::judge_backward_bytes<Real>(exec, given.shape, rows));
  REQUIRE(fkv::training::judge_backward(exec, given.shape, weights.data(), rows, got.hidden.data(),
                                        score_gradient.data(), bias, got.gradient.data(),
                                        {memory.data(), memory.size()})
              .ok());
  return got;
}

std::vector<double> widened(std::vector<float> const& values) { return {values.begin(), values.end()}; }

template <class Left, class Right>
double relative(std::vector<Left> const& got, std::vector<Right> const& expected) {
  REQUIRE(got.size() == expected.size());
  double largest = 0.0;
  testing::worst_difference difference;
  for (std::size_t i = 0; i < got.size(); ++i) {
    largest = std::max(largest, std::fabs(static_cast<double>(expected[i])));
    difference.add(static_cast<double>(got[i]), static_cast<double>(expected[i]));
  }
  return difference.value() / largest;
}

template <class Key, class Value>
void check_float_path(judge_problem<Key, Value> const& given) {
  CAPTURE(given.shape.key_head_dim);
  CAPTURE(given.shape.group);
  auto const got = run(given, given.weights, given.slopes, output_bias::trained);
  auto const expected = run(given, widened(given.weights), widened(given.slopes), output_bias::trained);
  CHECK(relative(got.scores, expected.scores) <= 2e-6);
  CHECK(relative(got.hidden, expected.hidden) <= 2e-6);
  CHECK(relative(got.gradient, expected.gradient) <= 5e-6);
}

}  // namespace

TEST_CASE("judge_gradient: stored scores of the published network") {
  int files = 0;
  for (auto const& entry : std::filesystem::directory_iterator(testing::vectors_folder())) {
    auto const name = entry.path().filename().string();
    if (!name.starts_with("judge_forward")) continue;
    CAPTURE(name);
    ++files;
    fkv::io::safetensors_file const tensors(entry.path());
    testing::vector_file const file(tensors);
    int const heads = file.integer("kv_heads"), group = file.integer("group"), dim = file.integer("head_dim");
    int const tokens = file.integer("tokens");
    testing::packed_weights const weights(file, heads, group, dim);
    auto const keys = file.floats("k", {heads, tokens, dim}), values = file.floats("v", {heads, tokens, dim});
    auto const statistics = file.floats("stats", {heads, tokens, 8 * group});
    fkv::training::judge_rows<float> const rows{
        keys.data(), values.data(), nullptr, statistics.data(), 1, tokens, tokens, {}, {}};
    auto const count = fkv::training::num_scores(weights.shape, rows);
    std::vector<float> hidden(count * fkv::judge_shape::hidden), scores(count);
    REQUIRE(fkv::training::judge_forward(fkv::host, weights.shape, weights.packed.data(), rows, hidden.data(),
                                         scores.data())
                .ok());
    auto const expected = file.floats("drop_score_float64", {heads, tokens});
    testing::worst_difference difference;
    for (std::size_t i = 0; i < count; ++i)
      difference.add(static_cast<double>(-scores[i]), static_cast<double>(expected[i]));
    CHECK(difference.within(1e-4));
  }
  CHECK(files > 0);
}

TEST_CASE("judge_gradient: stored gradients and twenty training steps of the published code") {
  auto const folder = testing::vectors_folder();
  testing::check_hinge(fkv::io::safetensors_file(folder / "hinge_judge_h2_g2_d16_b64_l16.safetensors"));
}

TEST_CASE("judge_gradient: float agrees with double, for any dimensions and storage") {
  check_float_path(judge_problem<float, float>({1, 2, 4, 128, 128}, 5, 64, 100, 1));
  check_float_path(judge_problem<float, float>({1, 3, 3, 64, 64}, 3, 33, 50, 2));
  check_float_path(judge_problem<float, float>({1, 1, 1, 20, 12}, 9, 7, 7, 3));
  check_float_path(judge_problem<float, float>({1, 2, 7, 16, 80}, 1, 65, 80, 4));
  check_float_path(judge_problem<float, float>({1, 2, 5, 1, 3}, 4, 1, 3, 5));
  check_float_path(judge_problem<fkv::half, fkv::half>({1, 3, 3, 64, 64}, 5, 40, 60, 6));
  check_float_path(judge_problem<fkv::bfloat16, fkv::bfloat16>({1, 2, 2, 128, 96}, 2, 50, 51, 7));
  check_float_path(judge_problem<fkv::half, float>({1, 1, 2, 100, 30}, 6, 31, 40, 8));
}

TEST_CASE("judge_gradient: every instruction set") {
  namespace host = fkv::detail::host;
  judge_problem<float, float> const given({1, 1, 3, 40, 24}, 1, 77, 90, 9);
  auto const expected = run(given, widened(given.weights), widened(given.slopes));
  auto const row = fkv::detail::training::row_of(given.shape, given.view(), 0, 0);
  auto const check = [&]<class Isa>(Isa) {
    if (!host::supports<Isa>()) return;
    testing::guarded<float> hidden(77 * 16), scores(77), gradient(given.weights.size(), 0.0f);
    host::with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
      host::forward_row<decltype(isa)>(given.shape, given.weights.data(), row, hidden.data(), scores.data());
      host::backward_row<decltype(isa)>(given.shape, given.weights.data(), row, hidden.data(), given.slopes.data(),
                                        gradient.data());
    });
    CHECK(relative(std::vector<float>(scores.begin(), scores.end()), expected.scores) <= 2e-6);
    CHECK(relative(std::vector<float>(gradient.begin(), gradient.end()), expected.gradient) <= 5e-6);
    CHECK(hidden.intact());
    CHECK(scores.intact());
    CHECK(gradient.intact());
  };
  check(host::isa_baseline{});
  check(host::isa_avx2{});
  check(host::isa_avx512{});
}

TEST_CASE("judge_gradient: the activation and its slope in single precision") {
  namespace host = fkv::detail::host;
  auto const check = [&]<class Isa>(Isa) {
    if (!host::supports<Isa>()) return;
    double worst = 0.0;
    for (int i = -1400; i <= 1400; ++i) {
      float const z = i == 0 ? -0.0f : static_cast<float>(i) * 0.0101f;
      float active = 0.0f, slope = 0.0f;
      host::with_isa<Isa>([&](auto isa) __attribute__((always_inline)) {
        using lanes = typename decltype(isa)::floats;
        lanes const in = lanes{} + z;
        lanes first, second;
        host::gelu_slope_lanes<decltype(isa)>(in, first, second);
        active = first[0];
        slope = second[0];
      });
      double const scale = std::max(1.0, std::fabs(static_cast<double>(z)));
      worst = std::max(worst, std::fabs(static_cast<double>(active) - host::gelu(static_cast<double>(z))) / scale);
      worst = std::max(worst, std::fabs(static_cast<double>(slope) - host::gelu_slope(static_cast<double>(z))) / scale);
    }
    CHECK(worst <= 3e-7);
  };
  check(host::isa_baseline{});
  check(host::isa_avx2{});
  check(host::isa_avx512{});
}

TEST_CASE("judge_gradient: finite differences by every weight in double precision") {
  judge_problem<float, float> const given({1, 2, 2, 6, 5}, 6, 9, 15, 10);
  auto const slopes = widened(given.slopes);
  auto weights = widened(given.weights);
  auto const loss = [&](std::vector<double> const& at) {
    auto const scores = run(given, at, slopes).scores;
    double sum = 0.0;
    for (std::size_t i = 0; i < scores.size(); ++i) sum += slopes[i] * scores[i];
    return sum;
  };
  auto const gradient = run(given, weights, slopes, output_bias::trained).gradient;
  double worst = 0.0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    double const step = 1e-5, before = weights[i];
    weights[i] = before + step;
    double const up = loss(weights);
    weights[i] = before - step;
    double const down = loss(weights);
    weights[i] = before;
    worst = std::max(worst, std::fabs((up - down) / (2 * step) - gradient[i]));
  }
  CHECK(worst <= 1e-8);
}

TEST_CASE("judge_gradient: finite differences of the whole ranking loss in double precision") {
  judge_problem<float, float> given({1, 2, 2, 6, 5}, 3, 12, 20, 11);
  for (std::size_t i = 0; i < given.slopes.size(); ++i) given.slopes[i] = std::fabs(given.slopes[i]);  // labels
  auto weights = widened(given.weights);
  auto const rows = given.view();
  auto const count = fkv::training::num_scores(given.shape, rows);
  fkv::training::hinge_config config;
  config.margin = 0.25;
  std::vector<double> score_gradient(count);
  auto const loss = [&](std::vector<double> const& at) {
    std::vector<double> hidden(count * fkv::judge_shape::hidden), scores(count);
    REQUIRE(fkv::training::judge_forward(fkv::host, given.shape, at.data(), rows, hidden.data(), scores.data()).ok());
    fkv::training::ranking_rows<double> const input{scores.data(), given.slopes.data(), rows.steps * 2,
                                                    rows.candidates};
    testing::training_vectors::scratch memory(fkv::training::ranking_hinge_bytes(fkv::host, input));
    fkv::training::hinge_result result;
    REQUIRE(fkv::training::ranking_hinge(fkv::host, config, input, score_gradient.data(), &result, memory.view()).ok());
    return result.loss;
  };
  loss(weights);
  auto const gradient = run(given, weights, score_gradient).gradient;
  testing::random_source random(12);
  for (int direction = 0; direction < 20; ++direction) {
    std::vector<double> up = weights, down = weights;
    double expected = 0.0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      double const along = random.uniform(-1.0, 1.0), step = 1e-8;
      up[i] += step * along;
      down[i] -= step * along;
      expected += gradient[i] * along;
    }
    CHECK((loss(up) - loss(down)) / 2e-8 == doctest::Approx(expected).epsilon(1e-5));
  }
}

TEST_CASE("judge_gradient: results do not depend on the number of threads") {
  judge_problem<float, float> const given({1, 3, 2, 32, 32}, 11, 37, 64, 13);
  auto const one = run(given, given.weights, given.slopes, output_bias::frozen, fkv::host.threads(1));
  for (int const threads : {2, 3, 7}) {
    auto const many = run(given, given.weights, given.slopes, output_bias::frozen, fkv::host.threads(threads));
    CHECK(many.scores == one.scores);
    CHECK(many.hidden == one.hidden);
    CHECK(many.gradient == one.gradient);
  }
}

TEST_CASE("judge_gradient: calls add up, and every row belongs to its head") {
  judge_problem<float, float> const given({1, 3, 2, 10, 14}, 2, 20, 30, 14);
  auto const once = run(given, given.weights, given.slopes);
  auto const rows = given.view();
  auto twice = once.gradient;
  std::vector<std::byte> memory(fkv::training::judge_backward_bytes(fkv::host, given.shape, rows));
  REQUIRE(fkv::training::judge_backward(fkv::host, given.shape, given.weights.data(), rows, once.hidden.data(),
                                        given.slopes.data(), twice.data(), {memory.data(), memory.size()})
              .ok());
  for (std::size_t i = 0; i < twice.size(); ++i) CHECK(twice[i] == 2.0f * once.gradient[i]);

  // Only head 1 has slopes: only head 1 gets a gradient, and it is what it was.
  auto one_head = given;
  for (std::size_t i = 0; i < one_head.slopes.size(); ++i)
    if (i / 20 % 3 != 1) one_head.slopes[i] = 0.0f;
  auto const alone = run(one_head, given.weights, one_head.slopes);
  auto const floats = given.shape.head_floats();
  for (std::size_t i = 0; i < alone.gradient.size(); ++i)
    CHECK(alone.gradient[i] == (i / floats == 1 ? once.gradient[i] : 0.0f));
}

TEST_CASE("judge_gradient: the output bias is frozen unless asked for") {
  judge_problem<float, float> const given({1, 2, 2, 8, 8}, 3, 10, 10, 15);
  auto const frozen = run(given, given.weights, given.slopes);
  auto const trained = run(given, given.weights, given.slopes, output_bias::trained);
  auto const floats = given.shape.head_floats();
  for (std::size_t head = 0; head < 2; ++head) {
    auto const place = head * floats + floats - 16;
    double sum = 0.0;
    for (std::size_t row = head; row < 6; row += 2)
      for (std::size_t i = 0; i < 10; ++i) sum += static_cast<double>(given.slopes[row * 10 + i]);
    CHECK(static_cast<double>(trained.gradient[place]) == doctest::Approx(sum).epsilon(1e-5));
    for (std::size_t i = 0; i < 16; ++i) {
      CHECK(frozen.gradient[place + i] == 0.0f);
      if (i > 0) CHECK(trained.gradient[place + i] == 0.0f);
    }
  }
}

TEST_CASE("judge_gradient: keys and values are read in place, by stride and position") {
  judge_problem<float, float> const given({1, 2, 2, 12, 8}, 3, 9, 20, 16);
  auto const expected = run(given, given.weights, given.slopes);
  // The same tokens as [tokens][kv_heads][dim], keys and values side by side.
  std::vector<float> together(20 * 2 * (12 + 8));
  for (std::size_t token = 0; token < 20; ++token)
    for (std::size_t head = 0; head < 2; ++head) {
      auto* const to = together.data() + (token * 2 + head) * 20;
      std::copy_n(given.keys.data() + (head * 20 + token) * 12, 12, to);
      std::copy_n(given.values.data() + (head * 20 + token) * 8, 8, to + 12);
    }
  auto rows = given.view();
  rows.keys = together.data();
  rows.values = together.data() + 12;
  rows.key_strides = rows.value_strides = {20, 40};
  std::vector<float> hidden(expected.hidden.size()), scores(expected.scores.size());
  REQUIRE(fkv::training::judge_forward(fkv::host, given.shape, given.weights.data(), rows, hidden.data(), scores.data())
              .ok());
  CHECK(scores == expected.scores);
}

TEST_CASE("judge_gradient: a row without slopes is not looked at") {
  judge_problem<float, float> given({1, 1, 2, 8, 8}, 2, 10, 30, 17);
  // Row 0 sees a token that holds NaN, as an aborted recording would; the loss left that row out.
  for (std::int32_t& position : given.positions) position = position == 5 ? 6 : position;
  auto const before = run(given, given.weights, given.slopes);
  given.positions[3] = 5;
  given.keys[5 * 8] = std::numeric_limits<float>::quiet_NaN();
  std::fill_n(given.slopes.begin(), 10, 0.0f);
  auto const after = run(given, given.weights, given.slopes);
  CHECK(std::isnan(after.scores[3]));
  CHECK(std::equal(after.scores.begin() + 10, after.scores.end(), before.scores.begin() + 10));
  CHECK(std::all_of(after.gradient.begin(), after.gradient.end(), [](float slope) { return std::isfinite(slope); }));
}

TEST_CASE("judge_gradient: nothing to do") {
  for (auto const& [steps, candidates] : {std::pair{0, 4}, std::pair{4, 0}}) {
    fkv::training::judge_rows<float> rows;
    rows.steps = steps;
    rows.candidates = candidates;
    fkv::judge_shape const shape{1, 2, 2, 8, 8};
    float* const none = nullptr;
    CHECK(fkv::training::judge_forward(fkv::host, shape, static_cast<float const*>(nullptr), rows, none, none).ok());
    CHECK(fkv::training::judge_backward_bytes(fkv::host, shape, rows) == 0);
    CHECK(fkv::training::judge_backward(fkv::host, shape, static_cast<float const*>(nullptr), rows,
                                        static_cast<float const*>(nullptr), static_cast<float const*>(nullptr), none,
                                        {})
              .ok());
  }
}

TEST_CASE("judge_gradient: errors leave every output as it was") {
  judge_problem<float, float> given({1, 2, 2, 8, 8}, 3, 10, 20, 18);
  auto const count = fkv::training::num_scores(given.shape, given.view());
  testing::guarded<float> hidden(count * 16), scores(count), gradient(given.weights.size());
  auto const hidden_before = hidden, scores_before = scores, gradient_before = gradient;
  auto const bytes = fkv::training::judge_backward_bytes(fkv::host, given.shape, given.view());
  testing::guarded<std::byte> memory(bytes);
  using rows_type = fkv::training::judge_rows<float>;
  auto const forward = [&](fkv::judge_shape const& shape, rows_type const& rows, float const* weights, float* units,
                           float* out) {
    return fkv::training::judge_forward(fkv::host, shape, weights, rows, units, out).code;
  };
  auto const backward = [&](rows_type const& rows, float const* units, float const* slopes, float* out,
                            fkv::workspace scratch) {
    return fkv::training::judge_backward(fkv::host, given.shape, given.weights.data(), rows, units, slopes, out,
                                         scratch)
        .code;
  };
  fkv::workspace const scratch{memory.data(), bytes};
  auto const check_rows = [&](errc expected, auto&& change) {
    auto rows = given.view();
    auto shape = given.shape;
    change(rows, shape);
    CHECK(forward(shape, rows, given.weights.data(), hidden.data(), scores.data()) == expected);
    if (shape == given.shape)
      CHECK(backward(rows, hidden.data(), given.slopes.data(), gradient.data(), scratch) == expected);
  };
  check_rows(errc::invalid_shape, [](auto&, auto& shape) { shape.group = 0; });
  check_rows(errc::invalid_shape, [](auto& rows, auto&) { rows.steps = -1; });
  check_rows(errc::invalid_shape, [](auto& rows, auto&) { rows.candidates = -1; });
  check_rows(errc::invalid_shape, [](auto& rows, auto&) { rows.tokens = -1; });
  check_rows(errc::invalid_shape, [](auto& rows, auto&) { rows.tokens = 5, rows.positions = nullptr; });
  check_rows(errc::null_pointer, [](auto& rows, auto&) { rows.keys = nullptr; });
  check_rows(errc::null_pointer, [](auto& rows, auto&) { rows.values = nullptr; });
  check_rows(errc::null_pointer, [](auto& rows, auto&) { rows.statistics = nullptr; });
  for (std::int32_t const outside :
       {-1, 20, std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int32_t>::min()}) {
    auto const kept = std::exchange(given.positions.back(), outside);
    check_rows(errc::invalid_shape, [](auto&, auto&) {});
    given.positions.back() = kept;
  }
  auto const rows = given.view();
  CHECK(forward(given.shape, rows, nullptr, hidden.data(), scores.data()) == errc::null_pointer);
  CHECK(forward(given.shape, rows, given.weights.data(), nullptr, scores.data()) == errc::null_pointer);
  CHECK(forward(given.shape, rows, given.weights.data(), hidden.data(), nullptr) == errc::null_pointer);
  CHECK(forward(given.shape, rows, given.weights.data(), hidden.data(), hidden.data() + 4) == errc::overlap);
  CHECK(backward(rows, nullptr, given.slopes.data(), gradient.data(), scratch) == errc::null_pointer);
  CHECK(backward(rows, hidden.data(), nullptr, gradient.data(), scratch) == errc::null_pointer);
  CHECK(backward(rows, hidden.data(), given.slopes.data(), nullptr, scratch) == errc::null_pointer);
  CHECK(backward(rows, hidden.data(), given.slopes.data(), given.weights.data(), scratch) == errc::overlap);
  CHECK(backward(rows, hidden.data(), given.slopes.data(), gradient.data(), {nullptr, bytes}) == errc::null_pointer);
  CHECK(backward(rows, hidden.data(), given.slopes.data(), gradient.data(), {memory.data(), bytes - 1}) ==
        errc::workspace_too_small);
  CHECK(backward(rows, hidden.data(), reinterpret_cast<float const*>(reinterpret_cast<char*>(given.slopes.data()) + 2),
                 gradient.data(), scratch) == errc::misaligned);
  CHECK(hidden.same_bytes(hidden_before));
  CHECK(scores.same_bytes(scores_before));
  CHECK(gradient.same_bytes(gradient_before));
  std::fill(gradient.begin(), gradient.end(), 0.0f);
  CHECK(forward(given.shape, rows, given.weights.data(), hidden.data(), scores.data()) == errc::ok);
  CHECK(backward(rows, hidden.data(), given.slopes.data(), gradient.data(), scratch) == errc::ok);
  CHECK(hidden.intact());
  CHECK(scores.intact());
  CHECK(gradient.intact());
  CHECK(memory.intact());
}
