// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <foresightkv/execution.hpp>
#include <foresightkv/status.hpp>

namespace foresightkv::inline v0 {

/// Extents of the judges of a model: one small network per layer and KV head,
/// score = fc2 . gelu(fc1 . [key, value, 8 * group statistics] + bias) + bias (ForesightKV, section 3).
struct judge_shape {
  static constexpr int hidden = 16;
  static constexpr int features = 8;

  int num_layers = 0;    ///< layers of the model
  int num_kv_heads = 0;  ///< KV heads of the model, over all ranks
  int group = 0;         ///< query heads per KV head
  int key_head_dim = 0;
  int value_head_dim = 0;

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr int inputs() const {
    return key_head_dim + value_head_dim + features * group;
  }
  [[nodiscard]] constexpr bool valid() const {
    return num_layers > 0 && num_kv_heads > 0 && group > 0 && key_head_dim > 0 && value_head_dim > 0;
  }
  /// Floats of one head's packed weights: fc1 [inputs][16], fc1 bias [16], fc2 [16], fc2 bias and padding [16].
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr std::size_t head_floats() const {
    return static_cast<std::size_t>(inputs() + 3) * hidden;
  }
  friend constexpr bool operator==(judge_shape const&, judge_shape const&) = default;
};

/// One layer's weights as published: the output is a DROP score, larger = evict.
template <class Float>
struct basic_judge_layer {
  Float* fc1_weight = nullptr;  ///< [kv_heads][inputs][hidden]
  Float* fc1_bias = nullptr;    ///< [kv_heads][hidden]
  Float* fc2_weight = nullptr;  ///< [kv_heads][hidden]
  Float* fc2_bias = nullptr;    ///< [kv_heads]
};
using judge_layer = basic_judge_layer<float const>;
using mutable_judge_layer = basic_judge_layer<float>;

/// Packed weights of every layer and head; the output is a KEEP score, larger = keep.
struct judge_weights {
  float const* packed = nullptr;  ///< [layer][kv_head][head_floats()]
  judge_shape shape{};

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE constexpr float const* head(int model_layer, int model_kv_head) const {
    return packed + static_cast<std::size_t>(model_layer * shape.num_kv_heads + model_kv_head) * shape.head_floats();
  }
};

[[nodiscard]] constexpr std::size_t packed_judge_floats(judge_shape const& shape) {
  return static_cast<std::size_t>(shape.num_layers) * static_cast<std::size_t>(shape.num_kv_heads) *
         shape.head_floats();
}

/// Packs the published weights of all layers. The sign flips here, once: published scores are drop scores.
/// A layer whose pointers are null becomes a judge that scores every token 0.
inline status pack_judge(judge_shape const& shape, judge_layer const* layers, float* packed) {
  if (!shape.valid()) return {errc::invalid_shape, 0, argument::judge_shape};
  if (layers == nullptr) return {errc::null_pointer, 0, argument::input};
  if (packed == nullptr) return {errc::null_pointer, 0, argument::output};
  constexpr int hidden = judge_shape::hidden;
  auto const weights = static_cast<std::size_t>(shape.inputs()) * hidden;
  for (int i = 0; i < shape.num_layers; ++i) {
    judge_layer const& layer = layers[i];
    bool const present = layer.fc1_weight && layer.fc1_bias && layer.fc2_weight && layer.fc2_bias;
    for (std::size_t head = 0; head < static_cast<std::size_t>(shape.num_kv_heads); ++head) {
      for (std::size_t w = 0; w < weights; ++w) packed[w] = present ? layer.fc1_weight[head * weights + w] : 0.0f;
      float* const rest = packed + weights;
      for (std::size_t h = 0; h < hidden; ++h) {
        rest[h] = present ? layer.fc1_bias[head * hidden + h] : 0.0f;
        rest[hidden + h] = present ? -layer.fc2_weight[head * hidden + h] : 0.0f;
        rest[2 * hidden + h] = present && h == 0 ? -layer.fc2_bias[head] : 0.0f;
      }
      packed += shape.head_floats();
    }
  }
  return {};
}

/// Writes packed weights back in the published layout and orientation; layers with null pointers are skipped.
inline status unpack_judge(judge_weights const& weights, mutable_judge_layer const* layers) {
  judge_shape const& shape = weights.shape;
  if (!shape.valid()) return {errc::invalid_shape, 0, argument::judge_shape};
  if (weights.packed == nullptr) return {errc::null_pointer, 0, argument::judge};
  if (layers == nullptr) return {errc::null_pointer, 0, argument::output};
  constexpr int hidden = judge_shape::hidden;
  auto const count = static_cast<std::size_t>(shape.inputs()) * hidden;
  for (int i = 0; i < shape.num_layers; ++i) {
    mutable_judge_layer const& layer = layers[i];
    if (!layer.fc1_weight || !layer.fc1_bias || !layer.fc2_weight || !layer.fc2_bias) continue;
    for (int k = 0; k < shape.num_kv_heads; ++k) {
      auto const head = static_cast<std::size_t>(k);
      float const* const packed = weights.head(i, k);
      for (std::size_t w = 0; w < count; ++w) layer.fc1_weight[head * count + w] = packed[w];
      for (std::size_t h = 0; h < hidden; ++h) {
        layer.fc1_bias[head * hidden + h] = packed[count + h];
        layer.fc2_weight[head * hidden + h] = -packed[count + hidden + h];
      }
      layer.fc2_bias[head] = -packed[count + 2 * hidden];
    }
  }
  return {};
}

}  // namespace foresightkv::inline v0
