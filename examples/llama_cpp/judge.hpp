// SPDX-License-Identifier: Apache-2.0
// A judge that was trained on what transformers computes, for what libllama computes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <foresightkv/io/judge_weights.hpp>
#include <string>
#include <vector>

#include "language_model.hpp"

namespace llama_cpp {

namespace fkv = foresightkv;

/// RoPE rotates pairs of a key's elements. transformers has the two of a pair half a key apart; in libllama models of
/// rope type NORM have them side by side, as their weights were reordered when they were converted. Attention does not
/// see the difference, since queries are reordered too, but a judge does: its inputs are the key's elements.
inline void pair_up_keys(fkv::io::judge_file& judge) {
  auto const dim = static_cast<std::size_t>(judge.shape.key_head_dim), half = dim / 2;
  auto const head = static_cast<std::size_t>(judge.shape.inputs()) * fkv::judge_shape::hidden;
  for (auto& [number, layer] : judge.layers) {
    auto const before = layer.fc1_weight;  // [KV head][input][hidden], keys first
    for (std::size_t start = 0; start < before.size(); start += head)
      for (std::size_t d = 0; d < dim; ++d) {
        auto const from = start + (d % 2 * half + d / 2) * fkv::judge_shape::hidden;
        std::copy_n(before.data() + from, fkv::judge_shape::hidden,
                    layer.fc1_weight.data() + start + d * fkv::judge_shape::hidden);
      }
  }
}

/// The judge that would fit the model.
[[nodiscard]] inline fkv::judge_shape judge_shape_of(language_model const& model) {
  int const kv_heads = llama_model_n_head_kv(model.get());
  return {.num_layers = llama_model_n_layer(model.get()),
          .num_kv_heads = kv_heads,
          .group = llama_model_n_head(model.get()) / kv_heads,
          .key_head_dim = model.head_dim("key_length"),
          .value_head_dim = model.head_dim("value_length")};
}

/// \throws io::error with the file's name, where the judge was trained for another model
[[nodiscard]] inline fkv::io::packed_judge load_judge(std::string const& path, language_model const& model) {
  auto judge = fkv::io::load_judge(path, judge_shape_of(model));
  // A layer without a judge scores 0, which would go into the rows' agreement without a word.
  for (int layer = 0; layer < judge.shape.num_layers; ++layer)
    if (!judge.has(layer))
      throw fkv::io::error(path + ": has no judge of layer " + std::to_string(layer) + ", the model has " +
                           std::to_string(judge.shape.num_layers) + " layers");
  if (llama_model_rope_type(model.get()) == LLAMA_ROPE_TYPE_NORM) pair_up_keys(judge);
  return fkv::io::packed_judge(judge);
}

}  // namespace llama_cpp
