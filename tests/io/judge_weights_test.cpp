// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <foresightkv/io/judge_weights.hpp>
#include <foresightkv/scorers/foresight.hpp>

#include "io/temporary_folder.hpp"
#include "support/data.hpp"

namespace fkv = foresightkv;
namespace io = foresightkv::io;

namespace {

constexpr fkv::judge_shape small_shape{
    .num_layers = 6, .num_kv_heads = 2, .group = 3, .key_head_dim = 4, .value_head_dim = 5};
constexpr std::string_view published = "model.layers.{i}.self_attn.judge_model.";

std::vector<float> numbers(std::mt19937& random, int count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

io::judge_file small_judge() {
  std::mt19937 random(7);
  io::judge_file judge{.shape = small_shape, .layers = {}, .metadata = {{"trained", "never"}}, .ignored = {}};
  for (int const number : {1, 5}) {
    judge.layers[number] = {numbers(random, 2 * small_shape.inputs() * 16), numbers(random, 2 * 16),
                            numbers(random, 2 * 16), numbers(random, 2)};
  }
  return judge;
}

bool equal(io::judge_file_layer const& one, io::judge_file_layer const& other) {
  return one.fc1_weight == other.fc1_weight && one.fc1_bias == other.fc1_bias && one.fc2_weight == other.fc2_weight &&
         one.fc2_bias == other.fc2_bias;
}

/// The tensors of one judge layer; each may be left out or spoilt before it is written.
struct parts {
  std::map<std::string, std::vector<std::int64_t>> shapes{
      {"fc1.weight", {2, 33, 16}}, {"fc1.bias", {2, 16}}, {"fc2.weight", {2, 16, 1}}, {"fc2.bias", {2, 1}}};
  std::vector<float> values = std::vector<float>(4096, 0.5f);
  io::metadata_map metadata{{"group", "3"}, {"key_head_dim", "4"}, {"value_head_dim", "5"}};

  void add(io::safetensors_writer& file, std::string const& prefix) const {
    for (auto const& [name, shape] : shapes) {
      std::int64_t count = 1;
      for (auto const extent : shape) count *= extent;
      file.add(prefix + name, shape, std::span(values).first(static_cast<std::size_t>(count)));
    }
    for (auto const& [key, value] : metadata) file.metadata(key, value);
  }

  /// What loading says, without the file's name.
  [[nodiscard]] std::string verdict(test::temporary_folder const& folder, fkv::judge_shape const& expected = {}) const {
    auto const path = folder / "x";
    io::safetensors_writer file(path);
    add(file, "model.layers.2.self_attn.judge_model.");
    file.save();
    auto const said = test::message_of<io::error>([&] { static_cast<void>(io::load_judge(path, expected)); });
    auto const label = path.string() + ": ";
    return said.starts_with(label) ? said.substr(label.size()) : said;
  }
};

}  // namespace

TEST_CASE("judge weights: what is saved is loaded, under the published names") {
  test::temporary_folder const folder;
  auto const path = folder / "judge.safetensors";
  auto const judge = small_judge();
  io::save_judge(path, judge);
  auto const loaded = io::load_judge(path);
  CHECK(loaded.shape == judge.shape);
  CHECK(loaded.layers.size() == 2);
  for (auto const& [number, layer] : judge.layers) CHECK(equal(loaded.layers.at(number), layer));
  CHECK(loaded.has(5));
  CHECK_FALSE(loaded.has(0));
  CHECK(loaded.ignored.empty());
  CHECK(loaded.metadata.at("trained") == "never");
  CHECK(io::load_judge(path, small_shape).shape == small_shape);

  io::safetensors_file const file(path);
  CHECK(file.size() == 8);
  file.at("model.layers.5.self_attn.judge_model.fc1.weight").expect_shape({2, 33, 16});
  file.at("model.layers.5.self_attn.judge_model.fc1.bias").expect_shape({2, 16});
  file.at("model.layers.5.self_attn.judge_model.fc2.weight").expect_shape({2, 16, 1});
  file.at("model.layers.5.self_attn.judge_model.fc2.bias").expect_shape({2, 1});
}

TEST_CASE("judge weights: as F16 a file is half as large, and says so where weights do not fit") {
  test::temporary_folder const folder;
  auto judge = small_judge();
  judge.layers[5].fc1_weight[3] = 1.0f + 1.0f / 1024 + 1.0f / 2048;  // halfway: to even
  io::save_judge(folder / "whole", judge);
  io::save_judge(folder / "half", judge, io::published_judge_prefix, io::dtype::f16);
  io::safetensors_file const file(folder / "half");
  CHECK(file.at("model.layers.5.self_attn.judge_model.fc1.weight").dtype == io::dtype::f16);
  auto const loaded = io::load_judge(folder / "half");
  CHECK(loaded.shape == judge.shape);
  CHECK(loaded.layers.at(5).fc1_weight[3] == 1.0f + 2.0f / 1024);
  for (auto const& [number, layer] : judge.layers)
    for (std::size_t i = 0; i < layer.fc1_weight.size(); ++i)
      CHECK(std::abs(loaded.layers.at(number).fc1_weight[i] - layer.fc1_weight[i]) <=
            std::abs(layer.fc1_weight[i]) / 2048);
  auto const refused = [&](io::dtype stored) {
    auto const path = folder / "refused";
    auto const text =
        test::message_of<io::error>([&] { io::save_judge(path, judge, io::published_judge_prefix, stored); });
    CHECK(folder.entries() == 2);
    return text.substr(path.string().size() + 2);
  };
  CHECK(refused(io::dtype::bf16) == "a judge is stored as F32 or F16");
  judge.layers[5].fc1_bias[17] = 65520.0f;
  CHECK(refused(io::dtype::f16) == "tensor 'model.layers.5.self_attn.judge_model.fc1.bias' holds infinity at [1, 1]");
}

TEST_CASE("judge weights: from a file to a scorer that fits the model's cache") {
  io::packed_judge const judge(io::load_judge(FORESIGHTKV_EXAMPLE_DATA "/smollm2_135m_judge.safetensors"));
  fkv::foresight<> const scorer{judge.weights()};
  CHECK(judge.floats().size() == fkv::packed_judge_floats(judge.shape()));
  CHECK(scorer.weights.packed == judge.floats().data());
  CHECK(judge.weights(nullptr).shape == judge.shape());

  int const layers[2] = {8, 21};  // those of the example's trace
  fkv::cache_shape shape{.num_layers = 2,
                         .num_kv_heads = 3,
                         .group = 3,
                         .key_head_dim = 64,
                         .value_head_dim = 64,
                         .capacity = 1,
                         .layers = layers};
  CHECK(scorer.check(shape).ok());
  for (int const layer : layers) CHECK(scorer.covers(layer));
  shape.group = 2;
  CHECK(scorer.check(shape).where == fkv::argument::judge_shape);
}

template <class Judge>
concept lends_weights = requires(Judge&& judge) {
  std::forward<Judge>(judge).weights();
};

TEST_CASE("judge weights: an owner that is gone by the end of the line lends nothing") {
  static_assert(lends_weights<io::packed_judge const&>);
  static_assert(!lends_weights<io::packed_judge>);
}

TEST_CASE("judge weights: packed covers all layers, and unpack_judge gives back those present") {
  auto const judge = small_judge();
  auto const packed = judge.packed();
  REQUIRE(packed.size() == fkv::packed_judge_floats(small_shape));
  auto const layer_floats = small_shape.head_floats() * 2;
  for (int const absent : {0, 2, 3, 4}) {
    auto const at = packed.begin() + static_cast<std::ptrdiff_t>(layer_floats) * absent;
    CHECK(std::count(at, at + static_cast<std::ptrdiff_t>(layer_floats), 0.0f) ==
          static_cast<std::ptrdiff_t>(layer_floats));
  }
  std::map<int, io::judge_file_layer> back = judge.layers;
  std::vector<fkv::mutable_judge_layer> views(6);
  for (auto& [number, layer] : back) {
    for (auto* part : {&layer.fc1_weight, &layer.fc1_bias, &layer.fc2_weight, &layer.fc2_bias}) {
      part->assign(part->size(), -99.0f);
    }
    views[static_cast<std::size_t>(number)] = {layer.fc1_weight.data(), layer.fc1_bias.data(), layer.fc2_weight.data(),
                                               layer.fc2_bias.data()};
  }
  REQUIRE(fkv::unpack_judge({packed.data(), small_shape}, views.data()).ok());
  for (auto const& [number, layer] : judge.layers) CHECK(equal(back.at(number), layer));
}

TEST_CASE("judge weights: a state dict with a LayerNorm, other tensors and bfloat16 weights") {
  test::temporary_folder const folder;
  auto const path = folder / "state_dict";
  parts const good;
  std::vector<fkv::bfloat16> const narrow(2 * 33 * 16, fkv::bfloat16{0x3FC0});
  io::safetensors_writer file(path);
  std::string const prefix = "model.layers.3.self_attn.judge_model.";
  good.add(file, "model.layers.10.self_attn.judge_model.");
  file.add(prefix + "fc1.weight", {2, 33, 16}, narrow)
      .add(prefix + "fc1.bias", {2, 16}, std::span(narrow).first(32))
      .add(prefix + "fc2.weight", {2, 16, 1}, std::span(narrow).first(32))
      .add(prefix + "fc2.bias", {2, 1}, std::span(narrow).first(2));
  for (auto const& name : {prefix + "norm.weight", prefix + "norm.bias", std::string("model.embed_tokens.weight"),
                           std::string("model.layers.03.self_attn.judge_model.fc1.bias"),
                           std::string("model.layers.99999.self_attn.judge_model.fc1.bias")}) {
    file.add(name, {2}, std::span(good.values).first(2));
  }
  file.save();
  auto const judge = io::load_judge(path);
  CHECK(judge.layers.size() == 2);
  CHECK(judge.shape.num_layers == 11);
  CHECK(judge.layers.at(3).fc1_weight == std::vector<float>(2 * 33 * 16, 1.5f));
  CHECK(judge.ignored == std::vector<std::string>{"model.embed_tokens.weight",
                                                  "model.layers.03.self_attn.judge_model.fc1.bias",
                                                  prefix + "norm.bias", prefix + "norm.weight",
                                                  "model.layers.99999.self_attn.judge_model.fc1.bias"});
}

TEST_CASE("judge weights: a prefix of one's own") {
  test::temporary_folder const folder;
  auto judge = small_judge();
  for (std::string_view const prefix : {"judge.{i}.", "{i}", "{i}.x.", "module.model.{i}.judge."}) {
    io::save_judge(folder / "x", judge, prefix);
    CHECK(io::load_judge(folder / "x", {}, prefix).layers.size() == 2);
  }
  CHECK(test::message_of<io::error>([&] { static_cast<void>(io::load_judge(folder / "x")); }) ==
        (folder / "x").string() + ": has no tensor '" + std::string(published) + "fc1.weight'");
  judge.layers.erase(5);
  CHECK(test::message_of<io::error>([&] { io::save_judge(folder / "y", judge, "grad."); }) ==
        (folder / "y").string() + ": bad layer number 1");  // without {i} there is only layer 0
  judge.layers.insert({0, judge.layers.extract(1).mapped()});
  io::save_judge(folder / "y", judge, "grad.");
  auto const loaded = io::load_judge(folder / "y", {}, "grad.");
  CHECK(loaded.shape.num_layers == 1);
  CHECK(equal(loaded.layers.at(0), judge.layers.at(0)));
}

TEST_CASE("judge weights: extents come from the caller or the metadata, and have to agree") {
  test::temporary_folder const folder;
  parts tensors;
  CHECK(tensors.verdict(folder) == "nothing was thrown");
  CHECK(tensors.verdict(folder, {.group = 4}) == "metadata 'group' is 3, expected 4");
  CHECK(tensors.verdict(folder, {.key_head_dim = 5}) == "metadata 'key_head_dim' is 4, expected 5");
  CHECK(tensors.verdict(folder, {.num_layers = 3}) == "nothing was thrown");
  CHECK(tensors.verdict(folder, {.num_layers = 2}) == "has layer 2 of a model of 2 layers");
  CHECK(tensors.verdict(folder, {.num_kv_heads = 3}) ==
        "tensor 'model.layers.2.self_attn.judge_model.fc1.weight' must be [3, 33, 16], is [2, 33, 16]");
  for (auto const* text : {"", "x", "3x", "0", "-3", "3.5", "99999999999", "65537", " 3"}) {
    tensors.metadata["group"] = text;
    CHECK(tensors.verdict(folder) == "metadata 'group' must be a positive number, is '" + std::string(text) + "'");
  }
  tensors.metadata = {{"group", "3"}, {"head_dim", "4"}};
  CHECK(tensors.verdict(folder) ==
        "tensor 'model.layers.2.self_attn.judge_model.fc1.weight' must be [*, 32, 16], is [2, 33, 16]");
  CHECK(tensors.verdict(folder, {.value_head_dim = 5}) == "nothing was thrown");
  tensors.metadata.clear();
  CHECK(tensors.verdict(folder) == "group and head_dim are neither given nor in the metadata");
  CHECK(tensors.verdict(folder, {.key_head_dim = 4, .value_head_dim = 5}) ==
        "group and head_dim are neither given nor in the metadata");
  CHECK(tensors.verdict(folder, {.group = 3, .key_head_dim = 4, .value_head_dim = 5}) == "nothing was thrown");
  CHECK(tensors.verdict(folder, {.group = 2, .key_head_dim = 8, .value_head_dim = 9}) == "nothing was thrown");
  CHECK(tensors.verdict(folder, {.group = 3, .key_head_dim = 4}) ==
        "tensor 'model.layers.2.self_attn.judge_model.fc1.weight' must be [*, 32, 16], is [2, 33, 16]");
}

TEST_CASE("judge weights: tensors that are missing, of another shape or not finite are named") {
  test::temporary_folder const folder;
  parts const good;
  std::string const front = "tensor 'model.layers.2.self_attn.judge_model.";
  for (auto const& [name, shape] : good.shapes) {
    auto tensors = good;
    tensors.shapes.erase(name);
    CHECK(tensors.verdict(folder) == front + name + "' is missing");
  }
  auto const spoilt = [&](char const* name, std::vector<std::int64_t> shape) {
    auto tensors = good;
    tensors.shapes[name] = std::move(shape);
    return tensors.verdict(folder);
  };
  CHECK(spoilt("fc1.weight", {2, 33, 17}) == front + "fc1.weight' must be [*, 33, 16], is [2, 33, 17]");
  CHECK(spoilt("fc1.weight", {66, 16}) == front + "fc1.weight' must be [*, 33, 16], is [66, 16]");
  CHECK(spoilt("fc1.weight", {0, 33, 16}) == front + "fc1.weight' must have between 1 and 65536 KV heads");
  CHECK(spoilt("fc1.bias", {3, 16}) == front + "fc1.bias' must be [2, 16], is [3, 16]");
  CHECK(spoilt("fc2.weight", {2, 16}) == front + "fc2.weight' must be [2, 16, 1], is [2, 16]");
  CHECK(spoilt("fc2.bias", {2}) == front + "fc2.bias' must be [2, 1], is [2]");
  auto tensors = good;
  tensors.values[40] = NAN;
  CHECK(tensors.verdict(folder) == front + "fc1.weight' holds NaN at [0, 2, 8]");
}

TEST_CASE("judge weights: save refuses what would not load, before it writes") {
  test::temporary_folder const folder;
  auto const path = folder / "judge";
  auto const said = [&](io::judge_file const& judge) {
    auto const text = test::message_of<io::error>([&] { io::save_judge(path, judge); });
    CHECK(folder.entries() == 0);
    return text.substr(path.string().size() + 2);
  };
  auto judge = small_judge();
  judge.layers[5].fc2_bias.push_back(0);
  CHECK(said(judge) == "tensor 'model.layers.5.self_attn.judge_model.fc2.bias' [2, 1] of F32 does not fit 12 bytes");
  judge = small_judge();
  judge.layers[5].fc1_bias[17] = INFINITY;
  CHECK(said(judge) == "tensor 'model.layers.5.self_attn.judge_model.fc1.bias' holds infinity at [1, 1]");
  judge = small_judge();
  judge.shape.num_layers = 5;
  CHECK(said(judge) == "bad layer number 5");
  judge = small_judge();
  judge.layers.insert({-1, judge.layers.at(1)});
  CHECK(said(judge) == "bad layer number -1");
  CHECK(said({}) == "a judge needs a shape and a layer");
}

TEST_CASE("judge weights: the bundled judge of a real model") {
  auto const judge = io::load_judge(FORESIGHTKV_EXAMPLE_DATA "/smollm2_135m_judge.safetensors");
  CHECK(judge.shape ==
        fkv::judge_shape{.num_layers = 30, .num_kv_heads = 3, .group = 3, .key_head_dim = 64, .value_head_dim = 64});
  CHECK(judge.layers.size() == 30);
  CHECK(judge.ignored.empty());
  CHECK(judge.metadata.at("orientation") == "larger output = evict");
  CHECK(judge.packed().size() == fkv::packed_judge_floats(judge.shape));
}

TEST_CASE("judge weights: one layer under plain names gives the reference's drop scores") {
  auto const path = testing::vectors_folder() / "judge_forward_h3_g3_d64.safetensors";
  auto const judge = io::load_judge(path, {}, "");
  CHECK(judge.shape.num_layers == 1);
  CHECK(judge.ignored == std::vector<std::string>{"drop_score", "drop_score_float64", "evicted", "k", "stats", "v"});
  auto const& shape = judge.shape;
  auto const& layer = judge.layers.at(0);
  io::safetensors_file const file(path);
  auto const key = file.at("k").to_float(), value = file.at("v").to_float(), stats = file.at("stats").to_float();
  auto const expected = file.at("drop_score_float64").to_float();
  auto const tokens = static_cast<std::size_t>(file.at("k").shape[1]);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    std::size_t const head = i / tokens;
    std::vector<float> inputs;
    for (auto const* part : {&key, &value, &stats}) {
      auto const width = part->size() / expected.size();
      inputs.insert(inputs.end(), part->begin() + static_cast<std::ptrdiff_t>(i * width),
                    part->begin() + static_cast<std::ptrdiff_t>((i + 1) * width));
    }
    REQUIRE(inputs.size() == static_cast<std::size_t>(shape.inputs()));
    double score = layer.fc2_bias[head];
    for (std::size_t h = 0; h < 16; ++h) {
      double sum = layer.fc1_bias[head * 16 + h];
      for (std::size_t n = 0; n < inputs.size(); ++n) {
        sum += double{inputs[n]} * double{layer.fc1_weight[(head * inputs.size() + n) * 16 + h]};
      }
      score += 0.5 * sum * (1 + std::erf(sum / std::sqrt(2.0))) * double{layer.fc2_weight[head * 16 + h]};
    }
    CHECK(std::abs(score - double{expected[i]}) < 2e-5);
  }
}
