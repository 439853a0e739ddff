// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include <foresightkv/training/clip.hpp>

#include "support/random.hpp"
#include "support/red_zone.hpp"

namespace fkv = foresightkv;
namespace training = fkv::training;
using fkv::errc;
using training::clip_config;
using training::clip_result;
using training::clip_scope;

namespace {

constexpr fkv::judge_shape shape{3, 2, 2, 8, 8};
constexpr std::size_t layer_floats = 2 * shape.head_floats();

/// Layers whose gradients have norms 0.5, 2 and 8.
std::vector<float> gradient_of_norms() {
  testing::random_source random(5);
  std::vector<float> made(3 * layer_floats);
  random.fill_normal<float>(made);
  double wanted = 0.5;
  for (std::size_t layer = 0; layer < 3; ++layer, wanted *= 4) {
    double squares = 0.0;
    for (std::size_t i = 0; i < layer_floats; ++i)
      squares += std::pow(static_cast<double>(made[layer * layer_floats + i]), 2);
    for (std::size_t i = 0; i < layer_floats; ++i)
      made[layer * layer_floats + i] *= static_cast<float>(wanted / std::sqrt(squares));
  }
  return made;
}

struct outcome {
  fkv::status status;
  clip_result result;
  std::vector<double> norms = std::vector<double>(3);
};

outcome clip(std::vector<float>& gradient, clip_config const& config, fkv::host_execution exec = fkv::host) {
  outcome got;
  got.status = training::clip_gradient(exec, config, shape, gradient.data(), got.norms.data(), &got.result);
  return got;
}

}  // namespace

TEST_CASE("clip: each layer by its own norm") {
  auto const given = gradient_of_norms();
  auto clipped = given;
  auto const got = clip(clipped, {});
  REQUIRE(got.status.ok());
  CHECK(got.norms[0] == doctest::Approx(0.5));
  CHECK(got.norms[1] == doctest::Approx(2.0));
  CHECK(got.norms[2] == doctest::Approx(8.0));
  CHECK(got.result.norm == doctest::Approx(std::sqrt(68.25)));
  CHECK(got.result.clipped_layers == 2);
  for (std::size_t i = 0; i < given.size(); ++i) {
    double const divisor = i < layer_floats ? 1.0 : i < 2 * layer_floats ? 2.0 + 1e-6 : 8.0 + 1e-6;
    CHECK(static_cast<double>(clipped[i]) == doctest::Approx(static_cast<double>(given[i]) / divisor).epsilon(1e-6));
  }
}

TEST_CASE("clip: all layers together, as published") {
  auto const given = gradient_of_norms();
  auto clipped = given;
  auto const got = clip(clipped, {1.0, clip_scope::joint});
  CHECK(got.result.clipped_layers == 3);
  for (std::size_t i = 0; i < given.size(); ++i)
    CHECK(static_cast<double>(clipped[i]) ==
          doctest::Approx(static_cast<double>(given[i]) / std::sqrt(68.25)).epsilon(1e-6));
  auto kept = given;
  CHECK(clip(kept, {8.27, clip_scope::joint}).result.clipped_layers == 0);
  CHECK(kept == given);
}

TEST_CASE("clip: results do not depend on the number of threads") {
  auto one = gradient_of_norms(), many = one;
  auto const first = clip(one, {0.3, clip_scope::joint}, fkv::host.threads(1));
  auto const second = clip(many, {0.3, clip_scope::joint}, fkv::host.threads(3));
  CHECK(one == many);
  CHECK(first.norms == second.norms);
  CHECK(first.result.norm == second.result.norm);
}

TEST_CASE("clip: gradients that are not finite are reported and left alone") {
  for (float const bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto given = gradient_of_norms();
    given[layer_floats + 3] = bad;
    auto clipped = given;
    auto const got = clip(clipped, {});
    CHECK(got.result.not_finite_layers == 1);
    CHECK(got.result.clipped_layers == 1);
    CHECK(clipped[3] == given[3]);
    CHECK(clipped[layer_floats] == given[layer_floats]);
    CHECK(clipped[2 * layer_floats] != given[2 * layer_floats]);
    auto joint = given;
    auto const together = clip(joint, {1.0, clip_scope::joint});
    CHECK(together.result.clipped_layers == 0);
    CHECK(together.result.not_finite_layers == 1);
    CHECK(joint[2 * layer_floats] == given[2 * layer_floats]);
  }
  std::vector<float> zero(3 * layer_floats);
  auto const got = clip(zero, {});
  CHECK(got.result.norm == 0.0);
  CHECK(got.result.clipped_layers == 0);
  // Squares beyond the range of float are within that of the sum.
  std::vector<float> large(3 * layer_floats, 1e30f);
  CHECK(clip(large, {}).result.clipped_layers == 3);
}

TEST_CASE("clip: errors leave every output as it was") {
  testing::guarded<float> gradient(gradient_of_norms());
  auto const before = gradient;
  std::vector<double> norms(3, -1.0);
  clip_result result;
  result.norm = 42.0;
  auto const call = [&](clip_config const& config, fkv::judge_shape const& extents, float* slopes, double* out,
                        clip_result* found) {
    return training::clip_gradient(fkv::host, config, extents, slopes, out, found).code;
  };
  CHECK(call({0.0}, shape, gradient.data(), norms.data(), &result) == errc::invalid_config);
  CHECK(call({std::nan("")}, shape, gradient.data(), norms.data(), &result) == errc::invalid_config);
  CHECK(call({1.0, static_cast<clip_scope>(7)}, shape, gradient.data(), norms.data(), &result) == errc::invalid_config);
  CHECK(call({}, {}, gradient.data(), norms.data(), &result) == errc::invalid_shape);
  CHECK(call({}, shape, nullptr, norms.data(), &result) == errc::null_pointer);
  CHECK(call({}, shape, gradient.data(), nullptr, &result) == errc::null_pointer);
  CHECK(call({}, shape, gradient.data(), norms.data(), nullptr) == errc::null_pointer);
  CHECK(gradient.same_bytes(before));
  CHECK(norms == std::vector<double>(3, -1.0));
  CHECK(result.norm == 42.0);
  CHECK(call({}, shape, gradient.data(), norms.data(), &result) == errc::ok);
  CHECK(gradient.intact());
}
