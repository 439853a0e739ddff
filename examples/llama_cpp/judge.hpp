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

[[nodiscard]] inline fkv::io::packed_judge load_judge(std::string const& path, language_model const& model) {
  auto judge = fkv::io::load_judge(path, {.num_layers = llama_model_n_layer(model.get())});
  if (llama_model_rope_type(model.get()) == LLAMA_ROPE_TYPE_NORM) pair_up_keys(judge);
  return fkv::io::packed_judge(judge);
}

}  // namespace llama_cpp
