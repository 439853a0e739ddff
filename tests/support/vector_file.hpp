// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include <foresightkv/io/safetensors.hpp>
#include <foresightkv/judge.hpp>

namespace testing {

namespace fkv = foresightkv;

/// A set of test vectors: a safetensors file whose metadata holds its parameters as text.
class vector_file {
 public:
  explicit vector_file(fkv::io::safetensors_file const& file) : file_(file) {}

  [[nodiscard]] std::string const& label() const { return file_.label(); }
  [[nodiscard]] std::string text(std::string_view key) const {
    auto const value = file_.metadata(key);
    if (!value) throw fkv::io::error(label() + ": metadata has no '" + std::string(key) + "'");
    return *value;
  }
  [[nodiscard]] bool has_text(std::string_view key) const { return file_.metadata(key).has_value(); }
  [[nodiscard]] double number(std::string_view key) const {
    std::string const value = text(key);
    char* end = nullptr;
    double const parsed = std::strtod(value.c_str(), &end);
    if (value.empty() || *end != '\0' || !std::isfinite(parsed))
      throw fkv::io::error(label() + ": metadata '" + std::string(key) + "' is no number: " + value);
    return parsed;
  }
  [[nodiscard]] int integer(std::string_view key) const { return static_cast<int>(number(key)); }
  /// Numbers between commas.
  [[nodiscard]] std::vector<int> integers(std::string_view key) const {
    std::vector<int> numbers;
    std::string const value = text(key);
    for (std::size_t from = 0; from <= value.size();) {
      std::size_t const comma = std::min(value.find(',', from), value.size());
      numbers.push_back(std::atoi(value.substr(from, comma - from).c_str()));
      from = comma + 1;
    }
    return numbers;
  }

  [[nodiscard]] bool has(std::string const& name) const { return file_.find(name) != nullptr; }
  [[nodiscard]] fkv::io::tensor const& tensor(std::string const& name) const { return file_.at(name); }
  [[nodiscard]] std::vector<float> floats(std::string const& name, std::initializer_list<std::int64_t> shape) const {
    return file_.at(name).expect_shape(shape).copy<float>();
  }
  [[nodiscard]] std::vector<std::int32_t> ints(std::string const& name,
                                               std::initializer_list<std::int64_t> shape) const {
    return file_.at(name).expect_shape(shape).copy<std::int32_t>();
  }
  [[nodiscard]] int extent(std::string const& name, std::size_t axis) const {
    auto const& found = file_.at(name);
    if (axis >= found.rank()) found.fail("has too few axes");
    return static_cast<int>(found.shape[axis]);
  }

 private:
  fkv::io::safetensors_file const& file_;
};

/// Packed judge weights of one layer of a vector file.
struct packed_weights {
  fkv::judge_shape shape{};
  std::vector<float> packed;

  packed_weights(vector_file const& file, int kv_heads, int group, int head_dim) {
    shape = {1, kv_heads, group, head_dim, head_dim};
    auto const inputs = std::int64_t{shape.inputs()};
    auto const fc1_weight = file.floats("fc1.weight", {kv_heads, inputs, fkv::judge_shape::hidden});
    auto const fc1_bias = file.floats("fc1.bias", {kv_heads, fkv::judge_shape::hidden});
    auto const fc2_weight = file.floats("fc2.weight", {kv_heads, fkv::judge_shape::hidden, 1});
    auto const fc2_bias = file.floats("fc2.bias", {kv_heads, 1});
    fkv::judge_layer const layer{fc1_weight.data(), fc1_bias.data(), fc2_weight.data(), fc2_bias.data()};
    packed.resize(fkv::packed_judge_floats(shape));
    REQUIRE(fkv::pack_judge(shape, &layer, packed.data()).ok());
  }
  [[nodiscard]] fkv::judge_weights view() const { return {packed.data(), shape}; }
};

/// The largest difference so far; NaN never passes.
class worst_difference {
 public:
  void add(double a, double b) {
    constexpr std::uint64_t exponent = 0x7ff0000000000000u;
    double const difference = a == b ? 0.0 : std::fabs(a - b);
    bool const finite = (__builtin_bit_cast(std::uint64_t, difference) & exponent) != exponent;
    worst_ = std::max(worst_, finite ? difference : 1e300);  // by its bits: -ffast-math knows no NaN
    ++count_;
  }
  [[nodiscard]] double value() const { return worst_; }
  [[nodiscard]] bool within(double tolerance) const { return count_ > 0 && worst_ <= tolerance; }

 private:
  double worst_ = 0.0;
  long count_ = 0;
};

}  // namespace testing
