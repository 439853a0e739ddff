// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <foresightkv/io/trace.hpp>

#include "io/temporary_folder.hpp"

namespace fkv = foresightkv;
namespace io = foresightkv::io;

namespace {

/// Values that half holds exactly.
std::vector<float> numbers(std::size_t count, float first) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = first + 0.5f * static_cast<float>(i);
  return values;
}

io::trace_layer small_layer(int number) {
  io::trace_shape const shape{.heads = 4, .kv_heads = 2, .tokens = 3, .key_head_dim = 2, .value_head_dim = 5};
  return {number, shape, numbers(24, static_cast<float>(number)), numbers(12, -3), numbers(30, 7)};
}

/// A trace tensor by tensor, so that one of them can be spoilt.
struct parts {
  std::vector<std::int64_t> query{4, 3, 2}, key{2, 3, 2}, value{2, 3, 5};
  std::vector<float> values = numbers(100, 1);

  [[nodiscard]] io::safetensors_writer writer(std::filesystem::path const& path, std::string const& layer = "6") const {
    io::safetensors_writer file(path);
    add(file, "layer." + layer + ".query", query);
    add(file, "layer." + layer + ".key", key);
    add(file, "layer." + layer + ".value", value);
    return file;
  }
  void add(io::safetensors_writer& file, std::string const& name, std::vector<std::int64_t> const& shape) const {
    auto const count = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
    file.add(name, shape, std::span(values).first(static_cast<std::size_t>(count)));
  }
};

/// What opening says, without the file's name.
std::string verdict(std::filesystem::path const& path) {
  auto const said = test::message_of<io::error>([&] { io::trace trace(path); });
  auto const label = path.string() + ": ";
  return said.starts_with(label) ? said.substr(label.size()) : said;
}

std::string verdict(test::temporary_folder const& folder, parts const& tensors) {
  tensors.writer(folder / "x").save();
  return verdict(folder / "x");
}

std::string write_error(test::temporary_folder const& folder, std::vector<io::trace_layer> const& layers,
                        io::trace_notes const& notes = {}) {
  auto const path = folder / "written";
  auto const said = test::message_of<io::error>([&] { io::write_trace<fkv::half>(path, layers, notes); });
  CHECK(folder.entries() == 0);
  return said.substr(path.string().size() + 2);
}

}  // namespace

TEST_CASE("trace: what is written is read back") {
  test::temporary_folder const folder;
  auto const path = folder / "small.safetensors";
  std::array const layers{small_layer(12), small_layer(3)};
  io::trace_notes const notes{.token_ids = {5, 1LL << 40, 7}, .losses = {0.25f, 3.0f}, .metadata = {{"text", "none"}}};
  for (bool const narrow : {false, true}) {
    narrow ? io::write_trace<fkv::half>(path, layers, notes) : io::write_trace(path, layers, notes);
    io::trace const trace(path);
    CHECK(trace.layers() == std::vector{3, 12});
    CHECK(trace.tokens() == 3);
    for (auto const& written : layers) {
      auto const read = trace.layer(written.number);
      CHECK(read.number == written.number);
      CHECK(read.shape == written.shape);
      CHECK(trace.shape(written.number) == written.shape);
      CHECK(read.shape.group() == 2);
      CHECK(read.query == written.query);
      CHECK(read.key == written.key);
      CHECK(read.value == written.value);
    }
    CHECK(trace.notes().token_ids == notes.token_ids);
    CHECK(trace.notes().losses == notes.losses);
    CHECK(trace.notes().metadata == notes.metadata);
    CHECK(io::safetensors_file(path).at("layer.3.key").dtype == (narrow ? io::dtype::f16 : io::dtype::f32));
    CHECK(test::message_of<io::error>([&] { static_cast<void>(trace.layer(4)); }) ==
          path.string() + ": has no layer 4");
    CHECK(test::message_of<io::error>([&] { static_cast<void>(trace.shape(-1)); }) ==
          path.string() + ": has no layer -1");
  }
  io::write_trace<fkv::bfloat16>(path, layers);
  CHECK(io::trace(path).layer(3).value == layers[1].value);
  CHECK(io::trace(path).notes().token_ids.empty());
  CHECK(io::trace(path).notes().losses.empty());
}

TEST_CASE("trace: any floating-point type, I32 tokens, and tensors that are none of its own") {
  test::temporary_folder const folder;
  parts const tensors;
  auto file = tensors.writer(folder / "x", "0");
  std::vector<double> const wide(12, 0.1);
  std::vector<fkv::float8_e5m2> const query(24, fkv::float8_e5m2{0x3E});
  std::vector<std::int32_t> const tokens{4, 5, 6};
  file.add("layer.7.key", {2, 3, 2}, wide).add("layer.7.value", {2, 3, 2}, wide).add("layer.7.query", {4, 3, 2}, query);
  file.add("token_ids", {3}, tokens);
  for (auto const* name : {"layer.1.output", "layer.01.query", "layer.query", "layer.-1.key", "layer.10000.key",
                           "layer.2.keys", "layer.", "layer.+2.key", "Layer.2.key", "layer.99999999999.key"}) {
    tensors.add(file, name, {1});
  }
  file.save();
  io::trace const trace(folder / "x");
  CHECK(trace.layers() == std::vector{0, 7});
  CHECK(trace.layer(7).query == std::vector<float>(24, 1.5f));
  CHECK(trace.layer(7).value == std::vector<float>(12, 0.1f));
  CHECK(trace.notes().token_ids == std::vector<std::int64_t>{4, 5, 6});
}

TEST_CASE("trace: tensors that are missing or do not fit each other are named") {
  test::temporary_folder const folder;
  io::safetensors_writer(folder / "none").save();
  CHECK(verdict(folder / "none") == "has no tensors layer.{i}.query, .key and .value");
  CHECK(verdict(folder / "missing") == "cannot open: No such file or directory");
  parts const good;
  REQUIRE(verdict(folder, good) == "nothing was thrown");
  for (std::string const part : {"query", "key", "value"}) {
    io::safetensors_writer file(folder / "x");
    for (std::string const other : {"query", "key", "value"}) {
      if (other != part) good.add(file, "layer.6." + other, {2, 3, 2});
    }
    file.save();
    CHECK(verdict(folder / "x") == "tensor 'layer.6." + part + "' is missing");
  }
  auto const spoilt = [&](std::vector<std::int64_t> parts::*part, std::vector<std::int64_t> shape) {
    parts tensors;
    tensors.*part = std::move(shape);
    return verdict(folder, tensors);
  };
  CHECK(spoilt(&parts::query, {12, 2}) == "tensor 'layer.6.query' must be [*, *, *], is [12, 2]");
  CHECK(spoilt(&parts::query, {1, 4, 3, 2}) == "tensor 'layer.6.query' must be [*, *, *], is [1, 4, 3, 2]");
  CHECK(spoilt(&parts::query, {5, 3, 2}) == "tensor 'layer.6.query' has 5 heads, not a multiple of the 2 KV heads");
  CHECK(spoilt(&parts::query, {1, 3, 2}) == "tensor 'layer.6.query' has 1 heads, not a multiple of the 2 KV heads");
  CHECK(spoilt(&parts::key, {2, 4, 2}) == "tensor 'layer.6.key' must be [*, 3, 2], is [2, 4, 2]");
  CHECK(spoilt(&parts::key, {2, 3, 4}) == "tensor 'layer.6.key' must be [*, 3, 2], is [2, 3, 4]");
  CHECK(spoilt(&parts::value, {1, 3, 5}) == "tensor 'layer.6.value' must be [2, 3, *], is [1, 3, 5]");
  CHECK(spoilt(&parts::value, {2, 4, 5}) == "tensor 'layer.6.value' must be [2, 3, *], is [2, 4, 5]");
  CHECK(spoilt(&parts::value, {2, 3, 0}) ==
        "tensor 'layer.6.value' must have extents between 1 and 2^31 - 1, is [2, 3, 0]");
  CHECK(spoilt(&parts::key, {0, 3, 2}) == "tensor 'layer.6.value' must be [0, 3, *], is [2, 3, 5]");
  CHECK(spoilt(&parts::query, {0, 3, 2}) ==
        "tensor 'layer.6.query' must have extents between 1 and 2^31 - 1, is [0, 3, 2]");

  auto longer = good.writer(folder / "x");
  good.add(longer, "layer.10.query", {4, 4, 2});
  good.add(longer, "layer.10.key", {2, 4, 2});
  good.add(longer, "layer.10.value", {2, 4, 5});
  longer.save();
  CHECK(verdict(folder / "x") == "tensor 'layer.10.query' must be [*, 3, *], is [4, 4, 2]");
}

TEST_CASE("trace: values that are no finite numbers are named") {
  test::temporary_folder const folder;
  for (float const value : {NAN, INFINITY, -INFINITY}) {
    parts tensors;
    tensors.values[23] = value;  // beyond the key's 12 elements
    CHECK(verdict(folder, tensors) ==
          std::string("tensor 'layer.6.query' holds ") + (std::isnan(value) ? "NaN" : "infinity") + " at [3, 2, 1]");
    tensors.query = {2, 3, 2};
    CHECK(verdict(folder, tensors) ==
          std::string("tensor 'layer.6.value' holds ") + (std::isnan(value) ? "NaN" : "infinity") + " at [1, 1, 3]");
  }
  parts const good;
  io::safetensors_writer file(folder / "x");
  std::vector<std::int32_t> const whole(24);
  file.add("layer.6.query", {4, 3, 2}, whole);
  good.add(file, "layer.6.key", good.key);
  good.add(file, "layer.6.value", good.value);
  file.save();
  CHECK(verdict(folder / "x") == "tensor 'layer.6.query' must have a floating-point type, has I32");
}

TEST_CASE("trace: token_ids and losses have to fit") {
  test::temporary_folder const folder;
  parts const good;
  auto const with = [&](auto const& name, auto const& values) {
    auto file = good.writer(folder / "x");
    file.add(name, {std::ssize(values)}, values).save();
    return verdict(folder / "x");
  };
  CHECK(with("token_ids", std::vector<std::int64_t>(2)) == "tensor 'token_ids' must be [3], is [2]");
  CHECK(with("token_ids", std::vector<float>(3)) == "tensor 'token_ids' must be I32 or I64, is F32");
  CHECK(with("losses", std::vector<float>(3)) == "tensor 'losses' must be [2], is [3]");
  CHECK(with("losses", std::vector<float>{1, NAN}) == "tensor 'losses' holds NaN at [1]");
  CHECK(with("losses", std::vector<std::int64_t>(2)) == "tensor 'losses' must have a floating-point type, has I64");
}

TEST_CASE("write_trace: refuses what would not open, before it writes") {
  test::temporary_folder const folder;
  CHECK(write_error(folder, {}) == "a trace needs a layer");
  CHECK(write_error(folder, {small_layer(1), small_layer(1)}) == "tensor 'layer.1.query' has a name that is taken");
  CHECK(write_error(folder, {small_layer(-1)}) == "bad layer number -1");
  CHECK(write_error(folder, {small_layer(10'000)}) == "bad layer number 10000");
  auto layer = small_layer(1);
  layer.key.pop_back();
  CHECK(write_error(folder, {layer}) == "tensor 'layer.1.key' [2, 3, 2] of F16 does not fit 22 bytes");
  layer = small_layer(1);
  layer.value[29] = 65520.0f;  // the first that half rounds to infinity
  CHECK(write_error(folder, {layer}) == "tensor 'layer.1.value' holds infinity at [1, 2, 4]");
  layer = small_layer(1);
  layer.query[0] = NAN;
  CHECK(write_error(folder, {layer}) == "tensor 'layer.1.query' holds NaN at [0, 0, 0]");
  layer = {2, {.heads = 1, .kv_heads = 1, .tokens = 2, .key_head_dim = 1, .value_head_dim = 1}, {1, 2}, {1, 2}, {1, 2}};
  CHECK(write_error(folder, {small_layer(1), layer}) == "tensor 'layer.2.query' must be [*, 3, *], is [1, 2, 1]");
  CHECK(write_error(folder, {io::trace_layer{}}) ==
        "tensor 'layer.0.query' must have extents between 1 and 2^31 - 1, is [0, 0, 0]");
  CHECK(write_error(folder, {small_layer(1)}, {.token_ids = {1, 2}, .losses = {}, .metadata = {}}) ==
        "tensor 'token_ids' must be [3], is [2]");
  CHECK(write_error(folder, {small_layer(1)}, {.token_ids = {}, .losses = {1}, .metadata = {}}) ==
        "tensor 'losses' must be [2], is [1]");
}

TEST_CASE("trace: mutated traces open or are refused with io::error") {
  test::temporary_folder const folder;
  io::write_trace<fkv::half>(folder / "good", std::array{small_layer(1), small_layer(2)},
                             {.token_ids = {1, 2, 3}, .losses = {1, 2}, .metadata = {{"a", "b"}}});
  std::string const good = test::read_file(folder / "good");
  std::mt19937 random(3);
  auto const below = [&](std::size_t end) { return std::uniform_int_distribution<std::size_t>(0, end - 1)(random); };
  int opened = 0, refused = 0;
  for (int round = 0; round < 1'000; ++round) {
    std::string bytes = good;
    for (std::size_t flips = 1 + below(2); flips > 0; --flips)
      bytes[below(bytes.size())] ^= static_cast<char>(1 << below(8));
    test::write_file(folder / "x", bytes);
    try {
      io::trace const trace(folder / "x");
      for (int const number : trace.layers()) {
        auto const layer = trace.layer(number);
        CHECK(layer.query.size() ==
              static_cast<std::size_t>(layer.shape.heads * trace.tokens() * layer.shape.key_head_dim));
      }
      static_cast<void>(trace.notes());
      ++opened;
    } catch (io::error const&) {
      ++refused;
    }
  }
  MESSAGE("mutated traces: " << opened << " opened, " << refused << " refused");
  CHECK(opened > 100);
  CHECK(refused > 100);
}

TEST_CASE("trace: the bundled recording of a real model") {
  io::trace const trace(FORESIGHTKV_EXAMPLE_DATA "/smollm2_135m_small.safetensors");
  CHECK(trace.layers() == std::vector{8, 21});
  CHECK(trace.tokens() == 1024);
  io::trace_shape const shape{.heads = 9, .kv_heads = 3, .tokens = 1024, .key_head_dim = 64, .value_head_dim = 64};
  for (int const number : trace.layers()) {
    CHECK(trace.shape(number) == shape);
    CHECK(trace.layer(number).query.size() == std::size_t{9} * 1024 * 64);
  }
  auto const notes = trace.notes();
  CHECK(notes.token_ids.size() == 1024);
  double const mean = std::accumulate(notes.losses.begin(), notes.losses.end(), 0.0) / 1023;
  CHECK(mean == doctest::Approx(std::stod(notes.metadata.at("mean_loss"))).epsilon(1e-6));
}
