// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <foresightkv/golden/eviction.hpp>
#include <foresightkv/io/label_shard.hpp>

#include "io/temporary_folder.hpp"

namespace fkv = foresightkv;
namespace io = foresightkv::io;

namespace {

/// Labels of random block means, as golden_eviction makes them.
struct labels_case {
  io::label_source source{.trace = "a trace.safetensors",
                          .fingerprint = "0123456789abcdef",
                          .layer = 14,
                          .kv_heads = 2,
                          .tokens = 61,
                          .config = {.budget = 16, .interval = 4}};
  std::vector<float> labels;
  std::vector<std::int32_t> evicted, evicted_positions;

  explicit labels_case(fkv::golden_config config = {.budget = 16, .interval = 4}, int tokens = 61) {
    source.config = config;
    source.tokens = tokens;
    int const blocks = config.future_blocks(tokens);
    auto const rows = static_cast<std::size_t>(source.steps() * source.kv_heads);
    labels.resize(rows * static_cast<std::size_t>(config.budget));
    evicted.resize(rows * static_cast<std::size_t>(config.interval));
    evicted_positions.resize(evicted.size());
    std::mt19937 generator(5);
    std::vector<float> means(static_cast<std::size_t>(source.kv_heads * blocks * tokens));
    for (auto& mean : means) mean = static_cast<float>(generator() % 9) / 8;  // many of them equal
    auto const view = fkv::golden_means::block_major(means.data(), source.kv_heads, tokens, blocks);
    std::vector<std::byte> scratch(fkv::golden_eviction_bytes(fkv::host, config, view));
    auto const done = fkv::golden_eviction(
        fkv::host, config, view,
        {.labels = labels.data(), .evicted = evicted.data(), .evicted_positions = evicted_positions.data()},
        {scratch.data(), scratch.size()});
    REQUIRE(done.ok());
  }

  void write(std::filesystem::path const& path) const { io::write_label_shard(path, source, labels, evicted); }
};

/// What opening says, without the file's name.
std::string verdict(std::filesystem::path const& path) {
  auto const said = test::message_of<io::error>([&] { io::label_shard shard(path); });
  auto const front = path.string() + ": ";
  return said.starts_with(front) ? said.substr(front.size()) : said;
}

std::string write_verdict(labels_case const& wrong) {
  test::temporary_folder const folder;
  auto const said = test::message_of<io::error>([&] { wrong.write(folder / "x"); });
  CHECK(folder.entries() == 0);
  return said;
}

/// A shard rewritten with one part changed.
template <class Change>
std::string changed(Change const& change) {
  test::temporary_folder const folder;
  labels_case const right;
  right.write(folder / "right");
  struct parts {
    io::metadata_map metadata;
    std::vector<std::int64_t> labels_shape, evicted_shape;
    std::vector<float> labels;
    std::vector<std::int32_t> evicted;
  } what;
  {
    io::safetensors_file const file(folder / "right");
    what = {file.metadata(), file.at("labels").shape, file.at("evicted").shape, right.labels, right.evicted};
  }
  change(what);
  io::safetensors_writer file(folder / "changed");
  file.add("labels", what.labels_shape, what.labels).add("evicted", what.evicted_shape, what.evicted);
  for (auto const& [key, value] : what.metadata) file.metadata(key, value);
  file.save();
  return verdict(folder / "changed");
}

bool has(std::string const& text, std::string_view part) { return text.find(part) != text.npos; }

}  // namespace

TEST_CASE("label_shard: gives back what was written, whatever the rule") {
  using enum fkv::golden_future;
  std::vector<fkv::golden_config> const configs{
      {.budget = 16, .interval = 4},
      {.budget = 16, .interval = 16},
      {.budget = 1, .interval = 1, .future = sum},
      {.budget = 18, .interval = 4, .future = mean, .rules = fkv::golden_rules::published},
      {.budget = 16,
       .interval = 8,
       .future = discounted,
       .discount = 0.1f,
       .reduction = fkv::golden_reduction::maximum}};
  for (auto const& config : configs) {
    CAPTURE(config.budget);
    CAPTURE(config.interval);
    test::temporary_folder const folder;
    labels_case const made(config);
    made.write(folder / "shard");
    io::label_shard const shard(folder / "shard");
    CHECK(shard.source() == made.source);
    CHECK(shard.steps() == config.steps(made.source.tokens));
    CHECK(std::ranges::equal(shard.labels(), made.labels));
    CHECK(std::ranges::equal(shard.evicted(), made.evicted));
    CHECK(folder.entries() == 1);
  }
}

TEST_CASE("label_shard: the same labels are the same bytes") {
  test::temporary_folder const folder;
  labels_case().write(folder / "one");
  labels_case().write(folder / "two");
  CHECK(test::read_file(folder / "one") == test::read_file(folder / "two"));
}

TEST_CASE("candidate_positions: the evicted candidates stand where golden_eviction says") {
  for (auto const& config :
       {fkv::golden_config{.budget = 16, .interval = 4}, fkv::golden_config{.budget = 8, .interval = 8},
        fkv::golden_config{.budget = 3, .interval = 1}}) {
    test::temporary_folder const folder;
    labels_case const made(config);
    made.write(folder / "shard");
    io::label_shard const shard(folder / "shard");
    auto const positions = io::candidate_positions(shard);
    auto const budget = static_cast<std::size_t>(config.budget);
    auto const interval = static_cast<std::size_t>(config.interval);
    REQUIRE(positions.size() == shard.labels().size());
    for (std::size_t i = 0; i < made.evicted.size(); ++i) {
      auto const candidate = i / interval * budget + static_cast<std::size_t>(made.evicted[i]);
      CHECK(positions[candidate] == made.evicted_positions[i]);
    }
    for (std::size_t row = 0; row < positions.size() / budget; ++row) {
      auto const* const first = positions.data() + row * budget;
      CHECK(std::adjacent_find(first, first + budget, std::greater_equal<>()) == first + budget);
      // The newest candidate is the last token before the protected ones.
      auto const step = static_cast<int>(row) / made.source.kv_heads;
      CHECK(first[budget - 1] == config.budget + step * config.interval - 1);
    }
  }
}

TEST_CASE("label_shard: a truncated file, at any length, is one line") {
  test::temporary_folder const folder;
  labels_case().write(folder / "whole");
  auto const whole = test::read_file(folder / "whole");
  for (std::size_t length = 0; length < whole.size(); length += 37) {
    test::write_file(folder / "cut", std::string_view(whole).substr(0, length));
    auto const said = verdict(folder / "cut");
    CHECK(said != "nothing was thrown");
    CHECK_FALSE(has(said, "\n"));
  }
}

TEST_CASE("label_shard: what does not fit together is refused, and named") {
  CHECK(changed([](auto&) {}) == "nothing was thrown");
  auto const metadata = [](char const* key, char const* value) {
    return changed([&](auto& what) { what.metadata[key] = value; });
  };
  CHECK(has(changed([](auto& what) { what.metadata.erase("format"); }), "no label shard"));
  CHECK(has(metadata("format", "foresightkv labels 2"), "no label shard"));
  for (auto const* key : {"trace", "fingerprint", "layer", "kv_heads", "tokens", "budget", "interval", "future",
                          "discount", "reduction", "rules"})
    CHECK(changed([&](auto& what) { what.metadata.erase(key); }) == "metadata '" + std::string(key) + "' is missing");
  std::vector<std::pair<char const*, char const*>> const wrong{
      {"layer", "-1"},     {"layer", "10000"}, {"layer", ""},         {"kv_heads", "0"},
      {"kv_heads", "2x"},  {"tokens", "0"},    {"tokens", "1e3"},     {"budget", "99999999999"},
      {"interval", "17"},  {"interval", "0"},  {"future", "Maximum"}, {"discount", "1.5"},
      {"discount", "nan"}, {"reduction", ""},  {"rules", "exact\n"}};
  for (auto const& [key, value] : wrong) {
    auto const said = metadata(key, value);
    CAPTURE(said);
    CHECK(said.starts_with("metadata '" + std::string(key) + "' must not be '"));
    CHECK_FALSE(has(said, "\n"));
  }
  CHECK(has(metadata("tokens", "65"), "tensor 'labels' must be [12, 2, 16], is [11, 2, 16]"));
  CHECK(has(metadata("tokens", "20"), "more than budget + interval"));
  CHECK(has(metadata("kv_heads", "4"), "tensor 'labels' must be"));
  CHECK(has(metadata("interval", "2"), "tensor 'labels' must be"));
  CHECK(has(changed([](auto& what) { what.evicted_shape = {11, 4, 2}; }), "tensor 'evicted' must be [11, 2, 4]"));
  CHECK(has(changed([](auto& what) { what.labels[40] = std::numeric_limits<float>::quiet_NaN(); }),
            "tensor 'labels' holds NaN at [1, 0, 8]"));
  CHECK(has(changed([](auto& what) { what.labels[0] = std::numeric_limits<float>::infinity(); }),
            "tensor 'labels' holds infinity at [0, 0, 0]"));
}

TEST_CASE("label_shard: evicted indices must be those that the labels say") {
  auto const evicted = [](auto const& change) {
    return changed([&](auto& what) { change(what.evicted, what.labels); });
  };
  constexpr std::string_view says = "tensor 'evicted' is not what the labels say, at step 1, KV head 1";
  std::size_t const row = 3 * 4;  // step 1, KV head 1
  CHECK(has(evicted([&](auto& list, auto&) { std::swap(list[row], list[row + 1]); }), says));
  CHECK(has(evicted([&](auto& list, auto&) { list[row + 3] = 16; }), says));
  CHECK(has(evicted([&](auto& list, auto&) { list[row] = -1; }), says));
  CHECK(has(evicted([&](auto& list, auto&) { list[row + 1] = list[row]; }), says));
  // An evicted candidate's label rises over those of all others.
  CHECK(has(evicted([&](auto& list, auto& labels) { labels[3 * 16 + static_cast<std::size_t>(list[row])] = 2.0f; }),
            says));
}

TEST_CASE("write_label_shard: arrays that are not what the source says are not written") {
  labels_case wrong;
  wrong.labels.pop_back();
  CHECK(has(write_verdict(wrong), "tensor 'labels'"));
  wrong = labels_case();
  wrong.labels[5] = std::numeric_limits<float>::quiet_NaN();
  CHECK(has(write_verdict(wrong), "holds NaN"));
  wrong = labels_case();
  wrong.evicted.assign(wrong.evicted.size(), 0);
  CHECK(has(write_verdict(wrong), "is not what the labels say"));
  wrong = labels_case();
  wrong.source.config.discount = 2.0f;
  CHECK(has(write_verdict(wrong), "valid config"));
  wrong = labels_case();
  wrong.source.kv_heads = 0;
  CHECK(write_verdict(wrong) != "nothing was thrown");
  wrong = labels_case();
  wrong.source.tokens = 20;
  wrong.labels.clear();
  wrong.evicted.clear();
  CHECK(has(write_verdict(wrong), "more than budget + interval"));
}

TEST_CASE("layer_fingerprint: knows queries, keys, types and shapes, and nothing else") {
  test::temporary_folder const folder;
  io::trace_shape const shape{.heads = 2, .kv_heads = 1, .tokens = 3, .key_head_dim = 2, .value_head_dim = 1};
  io::trace_layer const layer{3, shape, std::vector<float>(12, 1.0f), std::vector<float>(6, 2.0f),
                              std::vector<float>(3, 3.0f)};
  auto const print = [&]<class Element = float>(io::trace_layer const& changed, Element = {}) {
    std::array const layers{changed};
    io::write_trace<Element>(folder / "trace", layers);
    return io::layer_fingerprint(io::trace(folder / "trace"), changed.number);
  };
  auto const original = print(layer);
  CHECK(original.size() == 16);
  auto other = layer;
  other.value[1] = 4.0f;
  other.number = 4;
  CHECK(print(other) == original);
  other = layer;
  other.query[11] = 1.5f;
  CHECK(print(other) != original);
  other = layer;
  other.key[0] = 1.5f;
  CHECK(print(other) != original);
  CHECK(print(layer, fkv::half{}) != original);
  CHECK(print(layer, fkv::half{}) != print(layer, fkv::bfloat16{}));
  other = layer;
  other.shape.tokens = 1;
  other.shape.key_head_dim = 6;
  other.value = {3.0f};
  CHECK(print(other) != original);
}

TEST_CASE("label_shard_name: by trace and layer") {
  CHECK(io::label_shard_name("/some/folder/math_4096.safetensors", 7) == "math_4096.layer7.labels.safetensors");
  CHECK(io::label_shard_name("a.b.safetensors", 0) == "a.b.layer0.labels.safetensors");
}
