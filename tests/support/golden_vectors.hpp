// SPDX-License-Identifier: Apache-2.0
#pragma once

// Checks of the golden_* and large_golden_* vector files: labels and evictions of the published code. Any
// shapes.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <foresightkv/golden/eviction.hpp>
#include <foresightkv/io/safetensors.hpp>

#include "support/execution.hpp"

namespace golden_vectors {

namespace fkv = foresightkv;

inline std::string text_of(fkv::io::safetensors_file const& file, char const* key) {
  auto const found = file.metadata(key);
  if (!found) throw std::runtime_error(file.label() + ": metadata has no " + key);
  return *found;
}
inline int int_of(fkv::io::safetensors_file const& file, char const* key) { return std::stoi(text_of(file, key)); }
inline double number_of(fkv::io::safetensors_file const& file, char const* key) {
  return std::stod(text_of(file, key));
}

/// What the published code gave, and the sizes it was given.
struct expected {
  fkv::golden_config config;
  int kv_heads = 0;
  int tokens = 0;
  int steps = 0;
  double tolerance = 0.0;
  std::span<float const> target;  // drop orientation: minus the label
  std::span<std::int32_t const> evicted;
  std::span<std::int32_t const> positions;
};

inline expected read_expected(fkv::io::safetensors_file const& file) {
  expected stored;
  stored.config.budget = int_of(file, "budget");
  stored.config.interval = int_of(file, "interval");
  stored.config.rules = fkv::golden_rules::published;
  stored.kv_heads = int_of(file, "kv_heads");
  stored.tokens = int_of(file, "tokens");
  stored.steps = int_of(file, "steps");
  stored.tolerance = number_of(file, "tol_abs");
  std::int64_t const steps = stored.steps, heads = stored.kv_heads;
  stored.target = file.at("target_score").expect_shape({steps, heads, stored.config.budget}).as<float>();
  stored.evicted = file.at("evicted").expect_shape({steps, heads, stored.config.interval}).as<std::int32_t>();
  stored.positions =
      file.at("evicted_positions").expect_shape({steps, heads, stored.config.interval}).as<std::int32_t>();
  CHECK(stored.config.valid());
  CHECK(stored.config.steps(stored.tokens) == stored.steps);
  if (file.metadata("first_block")) CHECK(stored.config.first_block() == int_of(file, "first_block"));
  if (file.metadata("padded_rows_in_last_block")) {
    int const last = stored.config.num_blocks(stored.tokens) - 1;
    auto exact = stored.config;
    exact.rules = fkv::golden_rules::exact;
    CHECK(exact.block_rows(last, stored.tokens) == stored.config.interval - int_of(file, "padded_rows_in_last_block"));
  }
  return stored;
}

/// What the library gives.
struct outcome {
  std::vector<float> labels;
  std::vector<std::int32_t> evicted, positions;

  explicit outcome(expected const& stored)
      : labels(stored.target.size()), evicted(stored.evicted.size()), positions(stored.positions.size()) {}
  fkv::golden_output output() { return {labels.data(), evicted.data(), positions.data(), nullptr}; }
};

/// Labels within the tolerance, index lists equal; counts instead of one assertion per value.
inline void check_equal(expected const& stored, outcome const& got, double tolerance) {
  int far = 0;
  for (std::size_t i = 0; i < got.labels.size(); ++i) {
    double const error = std::abs(static_cast<double>(got.labels[i]) + static_cast<double>(stored.target[i]));
    if (!(error <= tolerance)) ++far;
  }
  CHECK(far == 0);
  CHECK(std::ranges::equal(got.evicted, stored.evicted));
  CHECK(std::ranges::equal(got.positions, stored.positions));
}

inline outcome solve_means(testing::execution exec, expected const& stored, fkv::golden_means const& means) {
  outcome got{stored};
  std::vector<std::byte> scratch(fkv::golden_eviction_bytes(exec, stored.config, means));
  CHECK(fkv::golden_eviction(exec, stored.config, means, got.output(), {scratch.data(), scratch.size()}).ok());
  return got;
}

inline outcome solve_input(testing::execution exec, expected const& stored, fkv::golden_input<float> const& input) {
  outcome got{stored};
  std::vector<std::byte> scratch(fkv::golden_eviction_bytes(exec, stored.config, input.shape));
  CHECK(fkv::golden_eviction(exec, stored.config, input, got.output(), {scratch.data(), scratch.size()}).ok());
  return got;
}

/// Files with block means, and with queries and keys where they have them.
inline void check_stored_inputs(fkv::io::safetensors_file const& file, testing::execution exec) {
  auto const stored = read_expected(file);
  int const blocks = int_of(file, "future_blocks");
  // Copies, as a device need not reach the memory that a file is mapped into.
  auto const floats = [&](char const* name, std::initializer_list<std::int64_t> shape) {
    auto const mapped = file.at(name).expect_shape(shape).as<float>();
    return std::vector<float>(mapped.begin(), mapped.end());
  };
  auto const means = floats("block_means", {stored.kv_heads, stored.tokens, blocks});
  auto const view = fkv::golden_means::token_major(means.data(), stored.kv_heads, stored.tokens, blocks);
  check_equal(stored, solve_means(exec, stored, view), stored.tolerance);
  if (file.find("q") == nullptr) return;

  int const group = int_of(file, "group"), head_dim = int_of(file, "head_dim");
  fkv::golden_input<float> input;
  input.shape = {stored.kv_heads, group, stored.tokens, head_dim};
  auto const queries = floats("q", {stored.kv_heads * group, stored.tokens, head_dim});
  auto const keys = floats("k", {stored.kv_heads, stored.tokens, head_dim});
  input.queries = queries.data();
  input.keys = keys.data();
  check_equal(stored, solve_input(exec, stored, input), stored.tolerance);

  CHECK(stored.config.future_blocks(stored.tokens) == blocks);
  std::vector<float> built(means.size());
  std::vector<std::byte> scratch(fkv::block_means_bytes(exec, stored.config, input.shape));
  CHECK(fkv::block_means(exec, stored.config, input, built.data(), {scratch.data(), scratch.size()}).ok());
  auto const ours = fkv::golden_means::block_major(built.data(), stored.kv_heads, stored.tokens, blocks);
  double largest = 0.0;
  for (int head = 0; head < stored.kv_heads; ++head)
    for (int k = 0; k < stored.tokens; ++k)
      for (int block = 0; block < blocks; ++block)
        largest = std::max(largest, std::abs(static_cast<double>(ours.at(head, k, block)) -
                                             static_cast<double>(view.at(head, k, block))));
  CHECK(largest <= stored.tolerance);
}

/// value(seed, i) of the metadata's data_rule.
inline float generated(std::uint64_t seed, std::uint64_t index, double scale) {
  auto const uniform = [&](std::uint64_t j) {
    std::uint64_t x = (seed << 32) + 4 * index + j + 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return static_cast<double>((x ^ (x >> 31)) >> 11) * 0x1p-53;
  };
  return static_cast<float>(scale * (uniform(0) + uniform(1) + uniform(2) + uniform(3) - 2.0));
}

inline std::vector<float> generate(fkv::io::safetensors_file const& file, std::string const& name, std::size_t count) {
  auto const seed = static_cast<std::uint64_t>(int_of(file, ("seed_" + name).c_str()));
  double const scale = number_of(file, ("scale_" + name).c_str());
  std::vector<float> made(count);
  for (std::size_t i = 0; i < count; ++i) made[i] = generated(seed, i, scale);
  auto const first = file.at(name + "_first").as<float>();
  REQUIRE(first.size() <= made.size());
  CHECK(std::equal(first.begin(), first.end(), made.begin()));
  return made;
}

/// The file's index_rule: an index may differ only where its target is within 2 * tolerance of the boundary.
/// Tokens that were so exchanged stay exchanged in the survivors of later steps.
class tolerant_comparison {
 public:
  tolerant_comparison(expected const& stored, outcome const& got, int head) : stored_(stored), got_(got), head_(head) {
    for (int i = 0; i < stored.config.budget; ++i) {
      theirs_.push_back(i);
      ours_.push_back(i);
    }
  }

  void run() {
    for (int step = 0; step < stored_.steps; ++step) {
      compare_labels(step);
      compare_evicted(step);
      advance(theirs_, stored_.evicted, step);
      advance(ours_, got_.evicted, step);
    }
    CHECK(far_ == 0);
    CHECK(wrong_ == 0);
  }

 private:
  [[nodiscard]] std::size_t row(int step, int extent) const {
    return (static_cast<std::size_t>(step) * static_cast<std::size_t>(stored_.kv_heads) +
            static_cast<std::size_t>(head_)) *
           static_cast<std::size_t>(extent);
  }
  [[nodiscard]] double target(int step, std::size_t i) const {
    return static_cast<double>(stored_.target[row(step, stored_.config.budget) + i]);
  }

  void compare_labels(int step) {
    for (std::size_t i = 0, j = 0; i < theirs_.size(); ++i) {
      while (j < ours_.size() && ours_[j] < theirs_[i]) ++j;
      if (j == ours_.size() || ours_[j] != theirs_[i]) {
        if (!exchanged_.contains(theirs_[i])) ++wrong_;
        continue;
      }
      double const label = static_cast<double>(got_.labels[row(step, stored_.config.budget) + j]);
      if (!(std::abs(label + target(step, i)) <= stored_.tolerance)) ++far_;
    }
  }

  void compare_evicted(int step) {
    auto const count = static_cast<std::size_t>(stored_.config.interval);
    auto const at = row(step, stored_.config.interval);
    std::set<int> theirs(&stored_.positions[at], &stored_.positions[at] + count);
    std::set<int> ours(&got_.positions[at], &got_.positions[at] + count);
    std::vector<double> ranked;
    for (std::size_t i = 0; i < theirs_.size(); ++i) ranked.push_back(target(step, i));
    std::ranges::sort(ranked, std::greater{});  // drop orientation: the largest go
    for (std::size_t i = 0; i < theirs_.size(); ++i) {
      if (theirs.contains(theirs_[i]) == ours.contains(theirs_[i])) continue;
      bool const near = std::abs(target(step, i) - ranked[count - 1]) <= 2.0 * stored_.tolerance;
      if (!near && !exchanged_.contains(theirs_[i])) ++wrong_;
      exchanged_.insert(theirs_[i]);
    }
    for (int const position : ours)  // something that they no longer have
      if (!std::ranges::binary_search(theirs_, position) && !exchanged_.contains(position)) ++wrong_;
  }

  template <class List>
  void advance(std::vector<int>& candidates, List const& evicted, int step) const {
    auto const at = row(step, stored_.config.interval);
    for (int i = stored_.config.interval - 1; i >= 0; --i)
      candidates.erase(candidates.begin() + evicted[at + static_cast<std::size_t>(i)]);
    for (int i = 0; i < stored_.config.interval; ++i)
      candidates.push_back(stored_.config.budget + step * stored_.config.interval + i);
  }

  expected const& stored_;
  outcome const& got_;
  int head_;
  int far_ = 0;
  int wrong_ = 0;
  std::vector<int> theirs_, ours_;
  std::set<int> exchanged_;
};

inline void check_generated_inputs(fkv::io::safetensors_file const& file, testing::execution exec) {
  auto const stored = read_expected(file);
  fkv::golden_input<float> input;
  input.shape = {stored.kv_heads, int_of(file, "group"), stored.tokens, int_of(file, "head_dim")};
  auto const keys_count = static_cast<std::size_t>(stored.kv_heads) * static_cast<std::size_t>(stored.tokens) *
                          static_cast<std::size_t>(input.shape.head_dim);
  auto const queries = generate(file, "q", keys_count * static_cast<std::size_t>(input.shape.group));
  auto const keys = generate(file, "k", keys_count);
  input.queries = queries.data();
  input.keys = keys.data();
  auto const got = solve_input(exec, stored, input);
  for (int head = 0; head < stored.kv_heads; ++head) tolerant_comparison{stored, got, head}.run();
}

/// Checks one file by doctest assertions if it is a golden set; false: it is none, nothing was checked.
/// Throws std::runtime_error (io::error included) with one line if the file is damaged.
inline bool check_golden_vector(fkv::io::safetensors_file const& file, testing::execution exec = testing::exec) {
  if (file.find("target_score") == nullptr || file.find("evicted") == nullptr) return false;
  CAPTURE(file.label());
  if (file.find("block_means") != nullptr)
    check_stored_inputs(file, exec);
  else if (file.metadata("seed_q") && file.metadata("seed_k"))
    check_generated_inputs(file, exec);
  else
    return false;
  return true;
}

}  // namespace golden_vectors
