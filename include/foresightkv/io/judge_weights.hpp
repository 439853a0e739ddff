// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <foresightkv/element.hpp>
#include <foresightkv/io/error.hpp>
#include <foresightkv/io/safetensors.hpp>
#include <foresightkv/io/tensor.hpp>
#include <foresightkv/judge.hpp>
#include <foresightkv/status.hpp>

/// Weights of the learned scorer in a safetensors file.
namespace foresightkv::inline v0::io {

/// What stands before `fc1.weight` in the names that ForesightKV publishes; `{i}` is the layer number.
inline constexpr std::string_view published_judge_prefix = "model.layers.{i}.self_attn.judge_model.";

/// One layer's weights as published: the output is a DROP score, larger = evict.
struct judge_file_layer {
  std::vector<float> fc1_weight;  ///< [kv_heads][inputs][16]
  std::vector<float> fc1_bias;    ///< [kv_heads][16]
  std::vector<float> fc2_weight;  ///< [kv_heads][16]
  std::vector<float> fc2_bias;    ///< [kv_heads]

  [[nodiscard]] judge_layer view() const {
    return {fc1_weight.data(), fc1_bias.data(), fc2_weight.data(), fc2_bias.data()};
  }
};

/// The judges of a model as a file holds them: fp32, published layout and orientation.
struct judge_file {
  judge_shape shape;                       ///< num_layers: one more than the highest layer present, or the caller's
  std::map<int, judge_file_layer> layers;  ///< by layer number in the model
  metadata_map metadata;
  std::vector<std::string> ignored;  ///< tensors outside any judge, such as a LayerNorm that is never applied

  [[nodiscard]] bool has(int layer) const { return layers.contains(layer); }

  /// The weights of layers 0 .. shape.num_layers - 1 as the kernels read them (`pack_judge`); a layer that
  /// the file does not have scores every token 0.
  [[nodiscard]] std::vector<float> packed() const {
    std::vector<judge_layer> views(static_cast<std::size_t>(shape.num_layers));
    for (auto const& [number, layer] : layers) views.at(static_cast<std::size_t>(number)) = layer.view();
    std::vector<float> weights(packed_judge_floats(shape));
    if (auto const done = pack_judge(shape, views.data(), weights.data()); !done.ok()) {
      throw error(std::string("judge weights: ") + done.message());
    }
    return weights;
  }
};

/// A judge that a policy can use, `foresight<>{judge.weights()}`: the owner of what the scorer points to. It must live,
/// and stay where it is, as long as a policy with that scorer is called.
class packed_judge {
 public:
  explicit packed_judge(judge_file const& file) : shape_(file.shape), floats_(file.packed()) {}

  [[nodiscard]] judge_shape const& shape() const { return shape_; }
  [[nodiscard]] std::vector<float> const& floats() const { return floats_; }

  [[nodiscard]] judge_weights weights() const& { return {floats_.data(), shape_}; }
  /// The same over a copy of floats() that a device can read.
  [[nodiscard]] judge_weights weights(float const* copy) const { return {copy, shape_}; }
  judge_weights weights() const&& = delete;  // would point into what is gone by the end of the line

 private:
  judge_shape shape_;
  std::vector<float> floats_;
};

namespace detail {

[[nodiscard]] inline std::string judge_prefix(std::string_view pattern, int layer) {
  std::string prefix(pattern);
  if (auto const place = prefix.find("{i}"); place != prefix.npos) {
    prefix.replace(place, 3, std::to_string(layer));
  }
  return prefix;
}

/// Number of the layer that a tensor of this name is one of the four judge tensors of.
[[nodiscard]] inline std::optional<int> judged_layer(std::string_view name, std::string_view pattern) {
  auto const place = pattern.find("{i}");
  if (!name.starts_with(pattern.substr(0, place))) return {};
  name.remove_prefix(pattern.substr(0, place).size());
  std::optional<int> number = 0;
  if (place != pattern.npos) {
    number = take_layer_number(name);
    if (!name.starts_with(pattern.substr(place + 3))) return {};
    name.remove_prefix(pattern.size() - place - 3);
  }
  bool const judge = name == "fc1.weight" || name == "fc1.bias" || name == "fc2.weight" || name == "fc2.bias";
  return judge ? number : std::nullopt;
}

/// An extent that the caller gave (not 0) or the metadata names under `key`; 0 if neither, an error if they
/// differ.
[[nodiscard]] inline int judge_extent(safetensors_file const& file, char const* key, int given) {
  auto const text = file.metadata(key);
  if (!text) return given;
  int named = 0;
  auto const [end, problem] = std::from_chars(text->data(), text->data() + text->size(), named);
  if (problem != std::errc() || end != text->data() + text->size() || named < 1 || named > 65536) {
    throw error(file.label() + ": metadata '" + key + "' must be a positive number, is '" + printable(*text) + "'");
  }
  if (given != 0 && given != named) {
    throw error(file.label() + ": metadata '" + key + "' is " + *text + ", expected " + std::to_string(given));
  }
  return named;
}

/// `expected` with its zeros filled in, but for the extents that only the tensors know.
[[nodiscard]] inline judge_shape named_judge_shape(safetensors_file const& file, judge_shape expected) {
  auto const head_dim = [&](char const* key, int given) {
    int const own = judge_extent(file, key, given);
    return own != 0 ? own : judge_extent(file, "head_dim", 0);
  };
  expected.group = judge_extent(file, "group", expected.group);
  expected.key_head_dim = head_dim("key_head_dim", expected.key_head_dim);
  expected.value_head_dim = head_dim("value_head_dim", expected.value_head_dim);
  if (expected.value_head_dim == 0) expected.value_head_dim = expected.key_head_dim;
  if (expected.group < 1 || expected.key_head_dim < 1 || expected.value_head_dim < 1) {
    throw error(file.label() + ": group and head_dim are neither given nor in the metadata");
  }
  return expected;
}

[[nodiscard]] inline judge_file_layer read_judge_layer(safetensors_file const& file, std::string const& prefix,
                                                       judge_shape const& shape) {
  auto const read = [&](char const* part, std::initializer_list<std::int64_t> extents) {
    return file.at(prefix + part).expect_shape(extents).expect_finite().to_float();
  };
  constexpr int hidden = judge_shape::hidden;
  std::int64_t const heads = shape.num_kv_heads;
  return {.fc1_weight = read("fc1.weight", {heads, shape.inputs(), hidden}),
          .fc1_bias = read("fc1.bias", {heads, hidden}),
          .fc2_weight = read("fc2.weight", {heads, hidden, 1}),
          .fc2_bias = read("fc2.bias", {heads, 1})};
}

}  // namespace detail

/// Reads `{prefix}fc1.weight` [kv_heads, inputs, 16], `{prefix}fc1.bias` [kv_heads, 16], `{prefix}fc2.weight`
/// [kv_heads, 16, 1] and `{prefix}fc2.bias` [kv_heads, 1] of every layer that the file has, of any
/// floating-point type; inputs = key_head_dim + value_head_dim + 8 * group. A prefix without `{i}` names one
/// layer, number 0.
///
/// Extents of `expected` that are not 0 must agree with the file. The others come from the tensors and from
/// the metadata `group`, `key_head_dim`, `value_head_dim` or `head_dim`; a value head dim named nowhere is
/// the key's. Throws `io::error` naming file, tensor and reason.
[[nodiscard]] inline judge_file load_judge(std::filesystem::path const& path, judge_shape const& expected = {},
                                           std::string_view prefix = published_judge_prefix) {
  safetensors_file const file(path);
  judge_file judge{.shape = {}, .layers = {}, .metadata = file.metadata(), .ignored = {}};
  for (auto const& [name, tensor] : file) {
    if (auto const number = detail::judged_layer(name, prefix)) {
      judge.layers.try_emplace(*number);
    } else {
      judge.ignored.push_back(name);
    }
  }
  if (judge.layers.empty()) {
    throw error(file.label() + ": has no tensor '" + std::string(prefix) + "fc1.weight'");
  }
  judge.shape = detail::named_judge_shape(file, expected);
  int const last = judge.layers.rbegin()->first;
  if (judge.shape.num_layers == 0) judge.shape.num_layers = last + 1;
  if (last >= judge.shape.num_layers) {
    throw error(file.label() + ": has layer " + std::to_string(last) + " of a model of " +
                std::to_string(judge.shape.num_layers) + " layers");
  }
  if (judge.shape.num_kv_heads == 0) {
    auto const& first = file.at(detail::judge_prefix(prefix, judge.layers.begin()->first) + "fc1.weight");
    first.expect_shape({tensor::any, judge.shape.inputs(), judge_shape::hidden});
    if (first.shape[0] < 1 || first.shape[0] > 65536) first.fail("must have between 1 and 65536 KV heads");
    judge.shape.num_kv_heads = static_cast<int>(first.shape[0]);
  }
  for (auto& [number, layer] : judge.layers) {
    layer = detail::read_judge_layer(file, detail::judge_prefix(prefix, number), judge.shape);
  }
  return judge;
}

/// Writes what `load_judge` reads, as F32 or, rounded to nearest even, as F16, with the extents in the metadata. Throws
/// before writing if a layer does not have the sizes that `judge.shape` says, or holds what F16 cannot.
inline void save_judge(std::filesystem::path const& path, judge_file const& judge,
                       std::string_view prefix = published_judge_prefix, dtype stored = dtype::f32) {
  safetensors_writer file(path);
  if (stored != dtype::f32 && stored != dtype::f16)
    throw error(detail::label(path) + ": a judge is stored as F32 or F16");
  if (!judge.shape.valid() || judge.layers.empty()) {
    throw error(detail::label(path) + ": a judge needs a shape and a layer");
  }
  constexpr int hidden = judge_shape::hidden;
  auto const& shape = judge.shape;
  std::int64_t const heads = shape.num_kv_heads;
  std::deque<std::vector<half>> rounded;  // until the file is written
  auto const add = [&](std::string const& name, std::vector<std::int64_t> extents, std::vector<float> const& values) {
    if (stored == dtype::f32) {
      file.add(name, std::move(extents), values);
      return;
    }
    auto& halves = rounded.emplace_back();
    for (float const value : values) halves.push_back(element_traits<half>::store(value));
    file.add(name, std::move(extents), halves);
  };
  for (auto const& [number, layer] : judge.layers) {
    if (detail::judged_layer(detail::judge_prefix(prefix, number) + "fc1.weight", prefix) != number ||
        number >= shape.num_layers) {
      throw error(detail::label(path) + ": bad layer number " + std::to_string(number));
    }
    auto const name = detail::judge_prefix(prefix, number);
    add(name + "fc1.weight", {heads, shape.inputs(), hidden}, layer.fc1_weight);
    add(name + "fc1.bias", {heads, hidden}, layer.fc1_bias);
    add(name + "fc2.weight", {heads, hidden, 1}, layer.fc2_weight);
    add(name + "fc2.bias", {heads, 1}, layer.fc2_bias);
  }
  for (auto const& [name, tensor] : file.tensors()) tensor.expect_finite();
  for (auto const& [key, value] : judge.metadata) file.metadata(key, value);
  file.metadata("group", std::to_string(shape.group))
      .metadata("key_head_dim", std::to_string(shape.key_head_dim))
      .metadata("value_head_dim", std::to_string(shape.value_head_dim))
      .metadata("kv_heads", std::to_string(heads))
      .metadata("inputs", std::to_string(shape.inputs()))
      .metadata("hidden", std::to_string(hidden))
      .metadata("orientation", "larger output = evict")
      .save();
}

}  // namespace foresightkv::inline v0::io
