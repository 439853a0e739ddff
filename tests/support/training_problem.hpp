// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <foresightkv/element.hpp>
#include <foresightkv/judge.hpp>
#include <foresightkv/training/judge_gradient.hpp>

#include "support/random.hpp"

namespace testing {

namespace fkv = foresightkv;

/// Random judges of one layer, rows that they look at, and a slope of the loss for each candidate.
template <class Key, class Value>
struct judge_problem {
  fkv::judge_shape shape{};
  int steps, candidates, tokens;
  std::vector<Key> keys;
  std::vector<Value> values;
  std::vector<float> statistics, weights, slopes;
  std::vector<std::int32_t> positions;

  judge_problem(fkv::judge_shape const& given, int step_count, int candidate_count, int token_count, std::uint64_t seed)
      : shape(given), steps(step_count), candidates(candidate_count), tokens(token_count) {
    random_source random(seed);
    auto const size = [](auto... extents) { return (static_cast<std::size_t>(extents) * ... * std::size_t{1}); };
    keys.resize(size(shape.num_kv_heads, tokens, shape.key_head_dim));
    values.resize(size(shape.num_kv_heads, tokens, shape.value_head_dim));
    random.fill_normal<Key>(keys);
    random.fill_normal<Value>(values);
    auto const rows = size(steps, shape.num_kv_heads, candidates);
    statistics.resize(rows * static_cast<std::size_t>(8 * shape.group));
    for (float& value : statistics) value = std::fabs(random.normal());
    weights.resize(size(shape.num_kv_heads) * shape.head_floats());
    random.fill_normal<float>(weights, 1.0f / std::sqrt(static_cast<float>(shape.inputs())));
    slopes.resize(rows);
    random.fill_normal<float>(slopes);
    for (std::size_t i = 0; i < rows; ++i) positions.push_back(random.integer(0, tokens - 1));
  }

  [[nodiscard]] fkv::training::judge_rows<Key, Value> view() const {
    return {keys.data(), values.data(), positions.data(), statistics.data(), steps, candidates, tokens, {}, {}};
  }
};

}  // namespace testing
