// SPDX-License-Identifier: Apache-2.0
#include "judge.hpp"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <foresightkv/training/judge_initialisation.hpp>
#include <numeric>
#include <tuple>

#include "recorded.hpp"

namespace binding {
namespace {

namespace io = fkv::io;
namespace training = fkv::training;

constexpr std::string_view start_names[] = {"random", "window_sum"};
constexpr std::string_view feature_names[] = {"paper", "reference_checkpoint", "reference_evaluation"};

void initialise(judge_object& judge, std::string const& start, double deviation, std::uint64_t seed,
                std::string const& features) {
  training::initialisation_config const config{enumerator<training::judge_start>("start", start, start_names),
                                               deviation, seed};
  auto const fill = [&]<class Features>(Features) {
    return training::initialise_judge<Features>(fkv::host, config, judge.shape, judge.packed.data());
  };
  fkv::status done;
  switch (enumerator<int>("features", features, feature_names)) {
    case 0:
      done = fill(fkv::paper{});
      break;
    case 1:
      done = fill(fkv::reference_checkpoint{});
      break;
    default:
      done = fill(fkv::reference_evaluation{});
  }
  require(done, "initialise");
}

/// One layer as published: [kv_head][inputs][16], [kv_head][16], [kv_head][16][1], [kv_head][1].
using published = std::tuple<nb::ndarray<nb::numpy, float>, nb::ndarray<nb::numpy, float>,
                             nb::ndarray<nb::numpy, float>, nb::ndarray<nb::numpy, float>>;

published unpack(input_array const& packed) {
  constexpr int hidden = fkv::judge_shape::hidden;
  tensor const given = expect(describe(packed), "packed", dtype_of<float>, {-1, -1, hidden});
  fkv::judge_shape const shape = training_shape(given);
  auto const heads = as_size(shape.num_kv_heads), units = as_size(hidden);
  fresh_array<float> fc1_weight({heads, as_size(shape.inputs()), units}), fc1_bias({heads, units}),
      fc2_weight({heads, units, 1}), fc2_bias({heads, 1});
  fkv::mutable_judge_layer const layer{fc1_weight.data, fc1_bias.data, fc2_weight.data, fc2_bias.data};
  require(fkv::unpack_judge({given.elements<float>(), shape}, &layer), "unpack_judge");
  return {fc1_weight.array, fc1_bias.array, fc2_weight.array, fc2_bias.array};
}

nb::ndarray<nb::numpy, float> pack(input_array const& fc1_weight, input_array const& fc1_bias,
                                   input_array const& fc2_weight, input_array const& fc2_bias) {
  constexpr int hidden = fkv::judge_shape::hidden;
  tensor const first = expect(describe(fc1_weight), "fc1_weight", dtype_of<float>, {-1, -1, hidden});
  auto const heads = first.extents[0];
  auto const part = [&](input_array const& from, char const* name, std::vector<std::int64_t> const& extents) {
    return expect(describe(from), name, dtype_of<float>, extents).elements<float const>();
  };
  fkv::judge_layer const layer{first.elements<float>(), part(fc1_bias, "fc1_bias", {heads, hidden}),
                               part(fc2_weight, "fc2_weight", {heads, hidden, 1}),
                               part(fc2_bias, "fc2_bias", {heads, 1})};
  tensor packed = first;
  packed.extents[1] += 3;
  fkv::judge_shape const shape = training_shape(packed);
  fresh_array<float> made({as_size(heads), as_size(packed.extents[1]), as_size(hidden)});
  require(fkv::pack_judge(shape, &layer, made.data), "pack_judge");
  return made.array;
}

fkv::judge_shape shape_of(int num_layers, int num_kv_heads, int group, int key_head_dim,
                          std::optional<int> value_head_dim) {
  return {num_layers, num_kv_heads, group, key_head_dim, value_head_dim.value_or(key_head_dim)};
}

}  // namespace

judge_object::judge_object(fkv::judge_shape const& extents, std::optional<std::vector<int>> const& numbers)
    : shape(extents) {
  constexpr int most = 65536;  // that a file of weights may name
  bool const sizes = shape.num_kv_heads <= most && shape.group <= most && shape.key_head_dim <= most &&
                     shape.value_head_dim <= most && shape.num_layers < 10000;
  if (!shape.valid() || !sizes) refuse("Judge: extents must be positive, and 65536 at most (layers: 9999)");
  layers.resize(as_size(shape.num_layers));
  std::iota(layers.begin(), layers.end(), 0);
  if (numbers) {
    layers = *numbers;
    std::sort(layers.begin(), layers.end());
    layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
    if (layers.empty() || layers.front() < 0 || layers.back() >= shape.num_layers)
      refuse("layers: numbers below " + std::to_string(shape.num_layers));
  }
  packed.resize(fkv::packed_judge_floats(shape));
}

judge_object::judge_object(io::judge_file const& from)
    : shape(from.shape), packed(from.packed()), metadata(from.metadata) {
  for (auto const& [number, layer] : from.layers) layers.push_back(number);
}

void bind_judge(nb::module_& module) {
  nb::class_<judge_object>(module, "Judge",
                           "The judges of a model in training: one small network for each layer and KV head, and their "
                           "weights in one array that stays where it is.")
      .def(
          "__init__",
          [](judge_object* self, int num_layers, int num_kv_heads, int group, int key_head_dim,
             std::optional<int> value_head_dim, std::optional<std::vector<int>> const& layers) {
            new (self) judge_object(shape_of(num_layers, num_kv_heads, group, key_head_dim, value_head_dim), layers);
          },
          nb::kw_only(), "num_layers"_a, "num_kv_heads"_a, "group"_a, "key_head_dim"_a, "value_head_dim"_a = nb::none(),
          "layers"_a = nb::none(),
          R"(Weights of 0: every token scores 0. group: query heads per KV head; value_head_dim: the key's without.
layers: numbers of the layers that get a judge and are saved; without, all.)")
      .def_static(
          "load",
          [](std::filesystem::path const& path, int num_layers, int num_kv_heads, int group, int key_head_dim,
             int value_head_dim, std::string const& prefix) {
            fkv::judge_shape const expected{num_layers, num_kv_heads, group, key_head_dim, value_head_dim};
            nb::gil_scoped_release const others_run;
            return judge_object(io::load_judge(path, expected, prefix));
          },
          "path"_a, nb::kw_only(), "num_layers"_a = 0, "num_kv_heads"_a = 0, "group"_a = 0, "key_head_dim"_a = 0,
          "value_head_dim"_a = 0, "prefix"_a = std::string(io::published_judge_prefix),
          R"(A safetensors file with the published tensors, of any float type. Extents that are given must be the
file's; 0: those of the file. prefix: what stands in front of fc1.weight; {i} is the layer's number. Layers that the
file does not have score every token 0.)")
      .def(
          "save",
          [](judge_object const& judge, std::filesystem::path const& path, std::string const& prefix,
             std::string const& dtype) {
            if (dtype != "float32" && dtype != "float16") refuse("dtype: 'float32' or 'float16', is '" + dtype + "'");
            auto const file = judge.file();
            nb::gil_scoped_release const others_run;
            io::save_judge(path, file, prefix, dtype == "float16" ? io::dtype::f16 : io::dtype::f32);
          },
          "path"_a, nb::kw_only(), "prefix"_a = std::string(io::published_judge_prefix), "dtype"_a = "float32",
          "The published tensors as float32 or float16 with the metadata: what load, Policy(weights=...) and "
          "evict_trace read. The file appears whole or not at all.")
      .def("initialise", &initialise, nb::kw_only(), "start"_a = "window_sum", "deviation"_a = 0.02, "seed"_a = 0,
           "features"_a = "paper",
           R"(Weights to begin a training with, in place. start: "window_sum" ranks as that policy does, "random" knows
nothing. deviation: of the random weights. features: what the judge will read, "paper", "reference_checkpoint" or
"reference_evaluation".)")
      .def_prop_ro(
          "weights",
          [](nb::handle self) {
            auto& judge = nb::cast<judge_object&>(self);
            std::size_t const extents[] = {as_size(judge.shape.num_layers), as_size(judge.shape.num_kv_heads),
                                           as_size(judge.shape.inputs() + 3), as_size(fkv::judge_shape::hidden)};
            return nb::ndarray<nb::numpy, float>(judge.packed.data(), 4, extents, self);
          },
          as_owned, nb::sig("def weights(self) -> numpy.typing.NDArray[numpy.float32]"),
          R"(float32 [layer][kv_head][inputs + 3][16], the memory itself: a row for each input, then the first bias, the
second layer's weights, and its bias followed by zeros. Scores are keep scores: the published output with its sign
changed.)")
      .def_prop_ro("num_layers", [](judge_object const& j) { return j.shape.num_layers; })
      .def_prop_ro("num_kv_heads", [](judge_object const& j) { return j.shape.num_kv_heads; })
      .def_prop_ro(
          "group", [](judge_object const& j) { return j.shape.group; }, "Query heads per KV head.")
      .def_prop_ro("key_head_dim", [](judge_object const& j) { return j.shape.key_head_dim; })
      .def_prop_ro("value_head_dim", [](judge_object const& j) { return j.shape.value_head_dim; })
      .def_prop_ro(
          "inputs", [](judge_object const& j) { return j.shape.inputs(); },
          "key_head_dim + value_head_dim + 8 * group.")
      .def_ro("layers", &judge_object::layers, "Numbers of the layers that have a judge, ascending.")
      .def_prop_rw(
          "metadata",
          [](judge_object const& j) {
            return std::map<std::string, std::string>(j.metadata.begin(), j.metadata.end());
          },
          [](judge_object& j, std::map<std::string, std::string> const& given) {
            j.metadata = io::metadata_map(given.begin(), given.end());
          },
          "Of the file, text by name; save adds the extents.");
  module.def("pack_judge", &pack, "fc1_weight"_a, "fc1_bias"_a, "fc2_weight"_a, "fc2_bias"_a,
             R"(The published tensors of one layer, float32 [kv_head][inputs][16], [kv_head][16], [kv_head][16][1] and
[kv_head][1], as the training has them: [kv_head][inputs + 3][16], the sign of the output changed.)");
  module.def("unpack_judge", &unpack, "packed"_a,
             "The way back, of weights and of gradients alike: (fc1_weight, fc1_bias, fc2_weight, fc2_bias).");
}

}  // namespace binding
