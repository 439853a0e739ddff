// SPDX-License-Identifier: Apache-2.0
#include "judges.hpp"

#include <algorithm>
#include <foresightkv/io/judge_weights.hpp>

namespace train_judge {
namespace {

namespace io = fkv::io;
namespace training = fkv::training;

}  // namespace

std::vector<float> first_weights(options const& chosen, corpus const& all) {
  std::vector<float> packed(fkv::packed_judge_floats(all.shape));
  if (chosen.weights.empty()) {
    training::initialisation_config const config{chosen.start, chosen.deviation, chosen.seed};
    require(chosen.features == feature_set::paper
                ? training::initialise_judge<fkv::paper>(fkv::host, config, all.shape, packed.data())
                : training::initialise_judge<fkv::reference_checkpoint>(fkv::host, config, all.shape, packed.data()),
            "initialise_judge");
    return packed;
  }
  auto expected = all.shape;
  expected.num_layers = 0;
  auto const file = io::load_judge(chosen.weights, expected);
  auto const model = file.packed();
  auto const floats = as_size(all.shape.num_kv_heads) * all.shape.head_floats();
  for (std::size_t i = 0; i < all.layers.size(); ++i) {
    if (!file.has(all.layers[i]))
      throw input_error(chosen.weights.string() + ": has no judge for layer " + std::to_string(all.layers[i]));
    std::copy_n(model.begin() + static_cast<std::ptrdiff_t>(as_size(all.layers[i]) * floats), floats,
                packed.begin() + static_cast<std::ptrdiff_t>(i * floats));
  }
  return packed;
}

void save_weights(std::filesystem::path const& path, options const& chosen, corpus const& all,
                  std::vector<float> const& packed) {
  io::judge_file file{.shape = all.shape, .layers = {}, .metadata = {}, .ignored = {}};
  file.shape.num_layers = all.layers.back() + 1;
  auto const heads = as_size(all.shape.num_kv_heads), hidden = as_size(fkv::judge_shape::hidden);
  std::vector<fkv::mutable_judge_layer> views;
  for (int const number : all.layers) {
    auto& layer = file.layers[number];
    layer.fc1_weight.resize(heads * as_size(all.shape.inputs()) * hidden);
    layer.fc1_bias.resize(heads * hidden);
    layer.fc2_weight.resize(heads * hidden);
    layer.fc2_bias.resize(heads);
    views.push_back({layer.fc1_weight.data(), layer.fc1_bias.data(), layer.fc2_weight.data(), layer.fc2_bias.data()});
  }
  require(fkv::unpack_judge({packed.data(), all.shape}, views.data()), "unpack_judge");
  file.metadata["features"] = chosen.features == feature_set::paper ? "paper" : "reference_checkpoint";
  file.metadata["budget"] = std::to_string(chosen.budget);
  file.metadata["interval"] = std::to_string(chosen.interval);
  io::save_judge(path, file);
}

}  // namespace train_judge
