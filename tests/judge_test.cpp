// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstring>
#include <vector>

#include <foresightkv/judge.hpp>

#include "support/random_judges.hpp"
#include "support/red_zone.hpp"

namespace fkv = foresightkv;
using testing::guarded;

namespace {

constexpr fkv::judge_shape shape{
    .num_layers = 3, .num_kv_heads = 2, .group = 3, .key_head_dim = 5, .value_head_dim = 4};

/// Room for one layer in the published layout.
struct layer_memory {
  guarded<float> fc1_weight{static_cast<std::size_t>(shape.num_kv_heads * shape.inputs() * 16)};
  guarded<float> fc1_bias{static_cast<std::size_t>(shape.num_kv_heads * 16)};
  guarded<float> fc2_weight{static_cast<std::size_t>(shape.num_kv_heads * 16)};
  guarded<float> fc2_bias{static_cast<std::size_t>(shape.num_kv_heads)};

  [[nodiscard]] fkv::mutable_judge_layer view() {
    return {fc1_weight.data(), fc1_bias.data(), fc2_weight.data(), fc2_bias.data()};
  }
  [[nodiscard]] bool intact() const {
    return fc1_weight.intact() && fc1_bias.intact() && fc2_weight.intact() && fc2_bias.intact();
  }
};

template <class Memory>
bool equal(Memory const& memory, std::vector<float> const& values) {
  return memory.size() == values.size() &&
         std::memcmp(memory.data(), values.data(), values.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("judge: extents") {
  static_assert(shape.inputs() == 5 + 4 + 8 * 3);
  static_assert(shape.head_floats() == static_cast<std::size_t>(shape.inputs() + 3) * 16);
  static_assert(fkv::packed_judge_floats(shape) == 6 * shape.head_floats());
  static_assert(shape.valid());
  for (int field = 0; field < 5; ++field)
    for (int const bad : {0, -1}) {
      fkv::judge_shape broken = shape;
      int* const fields[] = {&broken.num_layers, &broken.num_kv_heads, &broken.group, &broken.key_head_dim,
                             &broken.value_head_dim};
      *fields[field] = bad;
      CHECK_FALSE(broken.valid());
      CHECK_FALSE(broken == shape);
    }
}

TEST_CASE("judge: packing turns the published drop score into a keep score, once, and unpacking turns it back") {
  testing::random_source random(1);
  testing::random_judges const published(shape, random);
  fkv::judge_weights const packed = published.view();
  for (int layer = 0; layer < shape.num_layers; ++layer)
    for (int head = 0; head < shape.num_kv_heads; ++head) {
      auto const at = [&](auto const& all, int width, int i) {
        return all[static_cast<std::size_t>(layer)][static_cast<std::size_t>(head * width + i)];
      };
      float const* const weights = packed.head(layer, head);
      int const count = shape.inputs() * 16;
      int wrong = 0;
      for (int i = 0; i < count; ++i) wrong += weights[i] != at(published.fc1_weight, count, i);
      for (int unit = 0; unit < 16; ++unit) {
        wrong += weights[count + unit] != at(published.fc1_bias, 16, unit);
        wrong += weights[count + 16 + unit] != -at(published.fc2_weight, 16, unit);
      }
      wrong += weights[count + 32] != -at(published.fc2_bias, 1, 0);
      CHECK(wrong == 0);
    }

  std::vector<layer_memory> back(3);
  std::vector<fkv::mutable_judge_layer> views;
  for (auto& layer : back) views.push_back(layer.view());
  views[1].fc2_weight = nullptr;  // a layer that nobody wants
  REQUIRE(fkv::unpack_judge(packed, views.data()).ok());
  layer_memory const blank;
  for (std::size_t layer = 0; layer < 3; ++layer) {
    bool const wanted = layer != 1;
    CHECK(equal(back[layer].fc1_weight, published.fc1_weight[layer]) == wanted);
    CHECK(equal(back[layer].fc1_bias, published.fc1_bias[layer]) == wanted);
    CHECK(equal(back[layer].fc2_weight, published.fc2_weight[layer]) == wanted);
    CHECK(equal(back[layer].fc2_bias, published.fc2_bias[layer]) == wanted);
    CHECK(back[layer].fc1_weight.same_bytes(blank.fc1_weight) == !wanted);
    CHECK(back[layer].intact());
  }
}

TEST_CASE("judge: a layer without weights packs to zeros, and the packing stays inside its buffer") {
  layer_memory one;
  for (auto* part : {&one.fc1_weight, &one.fc1_bias, &one.fc2_weight, &one.fc2_bias})
    for (float& value : *part) value = 2.0f;
  auto const given = one.view();
  fkv::judge_layer layers[3] = {{}, {given.fc1_weight, given.fc1_bias, given.fc2_weight, given.fc2_bias}, {}};
  layers[2] = layers[1];
  layers[2].fc1_bias = nullptr;
  guarded<float> packed(fkv::packed_judge_floats(shape));
  REQUIRE(fkv::pack_judge(shape, layers, packed.data()).ok());
  CHECK(packed.intact());
  std::size_t const part = packed.size() / 3;
  for (std::size_t i = 0; i < packed.size(); ++i)
    if (i / part != 1 && packed[i] != 0.0f) FAIL_CHECK("float " << i << " of an absent layer");
  CHECK(packed[part] == 2.0f);
}

TEST_CASE("judge: bad arguments are refused, and nothing is written") {
  guarded<float> packed(fkv::packed_judge_floats(shape));
  auto const blank = packed;
  fkv::judge_layer const layers[3] = {};
  fkv::judge_shape broken = shape;
  broken.group = 0;
  using fkv::errc;
  CHECK(fkv::pack_judge(broken, layers, packed.data()).code == errc::invalid_shape);
  CHECK(fkv::pack_judge(shape, nullptr, packed.data()).code == errc::null_pointer);
  CHECK(fkv::pack_judge(shape, layers, nullptr).code == errc::null_pointer);
  CHECK(packed.same_bytes(blank));

  layer_memory memory;
  fkv::mutable_judge_layer const into[3] = {memory.view(), memory.view(), memory.view()};
  CHECK(fkv::unpack_judge({packed.data(), broken}, into).code == errc::invalid_shape);
  CHECK(fkv::unpack_judge({nullptr, shape}, into).code == errc::null_pointer);
  CHECK(fkv::unpack_judge({packed.data(), shape}, nullptr).code == errc::null_pointer);
  CHECK(memory.fc1_weight.same_bytes(layer_memory().fc1_weight));
}
