// SPDX-License-Identifier: Apache-2.0
// One step of supervised training of one layer from stored statistics and labels, told to run by
// side_by_side.py; README.md says what is timed.

#include "worker.hpp"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <foresightkv/training/adam.hpp>
#include <foresightkv/training/clip.hpp>
#include <foresightkv/training/judge_gradient.hpp>
#include <foresightkv/training/ranking_hinge.hpp>
#include <fstream>

namespace fkv = foresightkv;
namespace training = fkv::training;

namespace {

constexpr int steps = 16;
constexpr int interval = 256;
constexpr int tokens = peers::budget + steps * interval;
constexpr fkv::judge_shape shape{1, peers::kv_heads, peers::group, peers::head_dim, peers::head_dim};
constexpr std::size_t candidates = std::size_t{steps} * peers::kv_heads * peers::budget;
constexpr std::size_t weight_count = peers::kv_heads * shape.head_floats();

std::vector<std::int32_t> read_positions(std::string const& directory) {
  std::vector<std::int32_t> positions(candidates);
  std::ifstream file(std::filesystem::path(directory) / "position.i32", std::ios::binary);
  file.read(reinterpret_cast<char*>(positions.data()), static_cast<std::streamsize>(positions.size() * 4));
  if (!file) peers::fail("position.i32: too short or missing");
  return positions;
}

std::vector<float> read_weights(std::string const& directory) {
  constexpr auto hidden = static_cast<std::size_t>(fkv::judge_shape::hidden);
  auto const fc1_weight =
      peers::read(directory, "fc1_weight", peers::kv_heads * static_cast<std::size_t>(shape.inputs()) * hidden);
  auto const fc1_bias = peers::read(directory, "fc1_bias", peers::kv_heads * hidden);
  auto const fc2_weight = peers::read(directory, "fc2_weight", peers::kv_heads * hidden);
  auto const fc2_bias = peers::read(directory, "fc2_bias", peers::kv_heads);
  fkv::judge_layer const layer{fc1_weight.data(), fc1_bias.data(), fc2_weight.data(), fc2_bias.data()};
  std::vector<float> packed(weight_count);
  if (!fkv::pack_judge(shape, &layer, packed.data()).ok()) peers::fail("the weights do not pack");
  return packed;
}

/// All buffers of a training program that works on one sample of one layer at a time.
class trainer {
 public:
  trainer(peers::options const& given)
      : exec_(fkv::host.threads(given.threads)),
        keys_(peers::read(given.inputs, "key", std::size_t{peers::kv_heads} * tokens * peers::head_dim)),
        values_(peers::read(given.inputs, "value", std::size_t{peers::kv_heads} * tokens * peers::head_dim)),
        statistics_(peers::read(given.inputs, "statistics", candidates * fkv::judge_shape::features * peers::group)),
        labels_(peers::read(given.inputs, "label", candidates)),
        weights_(read_weights(given.inputs)),
        positions_(read_positions(given.inputs)) {
    ranking_memory_.resize(training::ranking_hinge_bytes(exec_, ranking()));
    backward_memory_.resize(training::judge_backward_bytes(exec_, shape, rows()));
  }

  void step() {
    std::fill(gradient_.begin(), gradient_.end(), 0.0f);
    check(training::judge_forward(exec_, shape, weights_.data(), rows(), hidden_.data(), scores_.data()));
    check(training::ranking_hinge(exec_, {}, ranking(), slopes_.data(), &result_, ranking_memory_));
    check(training::judge_backward(exec_, shape, weights_.data(), rows(), hidden_.data(), slopes_.data(),
                                   gradient_.data(), backward_memory_));
    double norm = 0.0;
    training::clip_result clipped;
    check(training::clip_gradient(exec_, {}, shape, gradient_.data(), &norm, &clipped));
    check(
        training::adam_step(exec_, {}, 0.0, ++number_, gradient_.data(),
                            training::adam_state<float>{weights_.data(), mean_.data(), square_.data(), weight_count}));
  }

  void save(std::string const& directory) const {
    constexpr auto hidden = static_cast<std::size_t>(fkv::judge_shape::hidden);
    std::vector<float> fc1_weight(peers::kv_heads * static_cast<std::size_t>(shape.inputs()) * hidden);
    std::vector<float> fc1_bias(peers::kv_heads * hidden), fc2_weight(fc1_bias.size()), fc2_bias(peers::kv_heads);
    fkv::mutable_judge_layer const layer{fc1_weight.data(), fc1_bias.data(), fc2_weight.data(), fc2_bias.data()};
    check(fkv::unpack_judge({gradient_.data(), shape}, &layer));
    peers::write<float>(directory, "fc1_weight.f32", fc1_weight);
    peers::write<float>(directory, "fc1_bias.f32", fc1_bias);
    peers::write<float>(directory, "fc2_weight.f32", fc2_weight);
    peers::write<float>(directory, "loss.f32", std::vector{static_cast<float>(result_.loss)});
  }

 private:
  static void check(fkv::status done) {
    if (!done.ok()) peers::fail(done.message());
  }
  [[nodiscard]] training::judge_rows<float> rows() const {
    return {keys_.data(), values_.data(), positions_.data(), statistics_.data(), steps, peers::budget, tokens, {}, {}};
  }
  [[nodiscard]] training::ranking_rows<float> ranking() const {
    return {scores_.data(), labels_.data(), steps * peers::kv_heads, peers::budget};
  }

  fkv::host_execution exec_;
  std::vector<float> keys_, values_, statistics_, labels_, weights_;
  std::vector<std::int32_t> positions_;
  std::vector<float> scores_ = std::vector<float>(candidates), slopes_ = scores_;
  std::vector<float> hidden_ = std::vector<float>(candidates * fkv::judge_shape::hidden);
  std::vector<float> gradient_ = std::vector<float>(weight_count), mean_ = gradient_, square_ = gradient_;
  std::vector<std::byte> ranking_memory_, backward_memory_;
  training::hinge_result result_;
  std::int64_t number_ = 0;
};

}  // namespace

int main(int count, char** words) {
  auto const given = peers::parse(count, words);
  trainer layer(given);
  auto const run = [&] { return peers::seconds_of([&] { layer.step(); }); };
  auto const save = [&](std::string const& directory) { layer.save(directory); };
  return peers::serve("ranking step", given, run, save);
}
