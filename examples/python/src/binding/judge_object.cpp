// SPDX-License-Identifier: Apache-2.0
// What a policy takes of a judge: of this the modules of other backends need a copy, as they know the same Judge.
#include "judge.hpp"

namespace binding {

fkv::io::judge_file judge_object::file() const {
  fkv::io::judge_file made{.shape = shape, .layers = {}, .metadata = metadata, .ignored = {}};
  auto const heads = as_size(shape.num_kv_heads), hidden = as_size(fkv::judge_shape::hidden);
  std::vector<fkv::mutable_judge_layer> views(as_size(shape.num_layers));
  for (int const number : layers) {
    auto& layer = made.layers[number];
    layer.fc1_weight.resize(heads * as_size(shape.inputs()) * hidden);
    layer.fc1_bias.resize(heads * hidden);
    layer.fc2_weight.resize(heads * hidden);
    layer.fc2_bias.resize(heads);
    views[as_size(number)] = {layer.fc1_weight.data(), layer.fc1_bias.data(), layer.fc2_weight.data(),
                              layer.fc2_bias.data()};
  }
  require(fkv::unpack_judge({packed.data(), shape}, views.data()), "unpack_judge");
  return made;
}

}  // namespace binding
