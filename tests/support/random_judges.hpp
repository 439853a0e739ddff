// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <vector>

#include <foresightkv/judge.hpp>

#include "support/oracle.hpp"
#include "support/random.hpp"

namespace testing {

namespace fkv = foresightkv;

/// Random judges of some layers in the published layout, packed, and as the oracle takes them.
struct random_judges {
  fkv::judge_shape shape;
  std::vector<std::vector<float>> fc1_weight, fc1_bias, fc2_weight, fc2_bias;  // [layer]
  std::vector<float> packed;

  random_judges(fkv::judge_shape const& extents, random_source& random) : shape(extents) {
    auto const heads = static_cast<std::size_t>(shape.num_kv_heads);
    auto const fill = [&](std::size_t count, float scale) {
      std::vector<float> values(count);
      random.fill_normal<float>(values, scale);
      return values;
    };
    std::vector<fkv::judge_layer> layers;
    for (int layer = 0; layer < shape.num_layers; ++layer) {
      fc1_weight.push_back(fill(heads * static_cast<std::size_t>(shape.inputs()) * 16, 0.15f));
      fc1_bias.push_back(fill(heads * 16, 0.5f));
      fc2_weight.push_back(fill(heads * 16, 0.5f));
      fc2_bias.push_back(fill(heads, 1.0f));
    }
    for (std::size_t i = 0; i < fc1_weight.size(); ++i)
      layers.push_back({fc1_weight[i].data(), fc1_bias[i].data(), fc2_weight[i].data(), fc2_bias[i].data()});
    packed.resize(fkv::packed_judge_floats(shape));
    REQUIRE(fkv::pack_judge(shape, layers.data(), packed.data()).ok());
  }
  [[nodiscard]] fkv::judge_weights view() const { return {packed.data(), shape}; }

  [[nodiscard]] oracle::judge head(int layer, int kv_head) const {
    auto const part = [&](std::vector<std::vector<float>> const& all, int width) {
      float const* const first =
          all[static_cast<std::size_t>(layer)].data() + static_cast<std::ptrdiff_t>(kv_head) * width;
      return oracle::numbers(first, first + width);
    };
    oracle::judge made;
    for (int input = 0; input < shape.inputs(); ++input) {
      auto const all = part(fc1_weight, shape.inputs() * 16);
      made.fc1_weight.emplace_back(all.begin() + input * 16, all.begin() + (input + 1) * 16);
    }
    made.fc1_bias = part(fc1_bias, 16);
    made.fc2_weight = part(fc2_weight, 16);
    made.fc2_bias = part(fc2_bias, 1)[0];
    return made;
  }
};

}  // namespace testing
