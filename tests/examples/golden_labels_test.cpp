// SPDX-License-Identifier: Apache-2.0
// Runs the program golden_labels: its labels, its files after every kind of accident, and what it says to bad
// input.
#include <doctest/doctest.h>

#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <foresightkv/golden/eviction.hpp>
#include <foresightkv/io/label_shard.hpp>
#include <foresightkv/io/safetensors.hpp>
#include <foresightkv/io/trace.hpp>
#include <limits>
#include <map>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/temporary_folder.hpp"
#include "support/run_program.hpp"

namespace fkv = foresightkv;
namespace io = foresightkv::io;

namespace {

using test::contents, test::joined, test::read_file, test::temporary_folder, test::write_file;

std::string const example_trace = FORESIGHTKV_EXAMPLE_DATA "/smollm2_135m_small.safetensors";

test::outcome run(std::vector<std::string> const& arguments, std::string const& launcher = "") {
  return test::run_program(FORESIGHTKV_GOLDEN_LABELS, arguments, launcher);
}

std::vector<float> random_numbers(std::mt19937& generator, int count) {
  std::normal_distribution<float> normal;
  std::vector<float> made(static_cast<std::size_t>(count));
  for (auto& value : made) value = normal(generator);
  return made;
}

/// Random layers of 4 query and 2 KV heads.
std::vector<io::trace_layer> random_layers(std::vector<int> const& numbers, int tokens, unsigned seed = 7) {
  std::mt19937 generator(seed);
  std::vector<io::trace_layer> layers;
  for (int const number : numbers) {
    io::trace_shape const shape{.heads = 4, .kv_heads = 2, .tokens = tokens, .key_head_dim = 8, .value_head_dim = 3};
    layers.push_back({number, shape, random_numbers(generator, 4 * tokens * 8),
                      random_numbers(generator, 2 * tokens * 8), random_numbers(generator, 2 * tokens * 3)});
  }
  return layers;
}

/// What golden_eviction makes of a whole layer in one call.
void check_labels(std::filesystem::path const& path, io::trace const& trace, fkv::golden_config const& config,
                  int tokens) {
  CAPTURE(path.string());
  io::label_shard const shard(path);
  auto const layer = trace.layer(shard.source().layer);
  auto const& shape = layer.shape;
  std::int64_t const head = std::int64_t{shape.tokens} * shape.key_head_dim;
  fkv::golden_input<float> const input{
      .queries = layer.query.data(),
      .keys = layer.key.data(),
      .shape = {.kv_heads = shape.kv_heads, .group = shape.group(), .tokens = tokens, .head_dim = shape.key_head_dim},
      .query_strides = {.head = head, .token = shape.key_head_dim},
      .key_strides = {.head = head, .token = shape.key_head_dim}};
  std::vector<float> labels(shard.labels().size());
  std::vector<std::int32_t> evicted(shard.evicted().size()), positions(evicted.size());
  std::vector<std::byte> scratch(fkv::golden_eviction_bytes(fkv::host, config, input.shape));
  REQUIRE(
      fkv::golden_eviction(fkv::host, config, input,
                           {.labels = labels.data(), .evicted = evicted.data(), .evicted_positions = positions.data()},
                           {scratch.data(), scratch.size()})
          .ok());
  CHECK(shard.source().config == config);
  CHECK(shard.source().tokens == tokens);
  CHECK(shard.source().kv_heads == shape.kv_heads);
  CHECK(shard.source().fingerprint == io::layer_fingerprint(trace, layer.number));
  CHECK(std::ranges::equal(shard.labels(), labels));
  CHECK(std::ranges::equal(shard.evicted(), evicted));
  auto const candidates = io::candidate_positions(shard);
  auto const budget = static_cast<std::size_t>(config.budget), interval = static_cast<std::size_t>(config.interval);
  bool right = true;
  for (std::size_t i = 0; i < evicted.size(); ++i)
    right &= candidates[i / interval * budget + static_cast<std::size_t>(evicted[i])] == positions[i];
  CHECK(right);
}

}  // namespace

TEST_CASE("golden_labels: one file per trace and layer, with golden_eviction's labels") {
  temporary_folder const folder;
  auto const out = (folder / "labels" / "of two").string();
  io::write_trace<fkv::half>(folder / "half.safetensors", random_layers({2, 5}, 101));
  io::write_trace<fkv::bfloat16>(folder / "other", random_layers({0}, 90, 8));
  struct variant {
    fkv::golden_config config;
    std::vector<std::string> options;
    int tokens = 0;  // 0: all
  };
  using enum fkv::golden_future;
  std::vector<variant> const variants{
      {{.budget = 16, .interval = 8}, {"--budget", "16", "--interval", "8"}},
      {{.budget = 8, .interval = 8, .future = sum}, {"--budget=8", "--interval=8", "--future=sum", "--to=57"}, 57},
      {{.budget = 1, .interval = 1, .future = mean}, {"--budget", "1", "--interval", "1", "--future", "mean"}},
      {{.budget = 12,
        .interval = 8,
        .future = discounted,
        .discount = 0.25f,
        .reduction = fkv::golden_reduction::maximum,
        .rules = fkv::golden_rules::published},
       {"--budget", "12", "--interval", "8", "--future", "discounted", "--discount", "0.25", "--reduction", "maximum",
        "--rules", "published", "--threads", "2"}}};
  for (auto const& [config, options, tokens] : variants) {
    std::filesystem::remove_all(out);
    auto const result =
        run(joined({(folder / "half.safetensors").string(), (folder / "other").string(), "--out", out}, options));
    CHECK(result.status == 0);
    CHECK(result.err.empty());
    CHECK(result.out == "3 made, 0 already there: " + out + "\n");
    CHECK(contents(out).size() == 3);
    io::trace const half(folder / "half.safetensors"), other(folder / "other");
    for (auto const* name : {"half.layer2", "half.layer5"})
      check_labels(out + "/" + name + ".labels.safetensors", half, config, tokens == 0 ? 101 : tokens);
    check_labels(out + "/other.layer0.labels.safetensors", other, config, tokens == 0 ? 90 : tokens);
  }
}

TEST_CASE("golden_labels: any element type, aligned or not") {
  temporary_folder const folder;
  std::mt19937 generator(3);
  std::vector<double> queries;
  for (float const value : random_numbers(generator, 2 * 40 * 4)) queries.push_back(value);
  auto const keys = random_numbers(generator, 40 * 4);
  std::vector<fkv::half> values(40);
  // The header's length is not a multiple of 8, so no tensor is aligned to its elements.
  io::safetensors_writer file(folder / "aligned");
  file.add("layer.0.query", {2, 40, 4}, queries).add("layer.0.key", {1, 40, 4}, keys);
  file.add("layer.0.value", {1, 40, 1}, values).save();
  auto bytes = read_file(folder / "aligned");
  ++bytes[0];
  bytes.insert(bytes.find('{') + 1, 1, ' ');
  write_file(folder / "trace", bytes);

  auto const result =
      run({(folder / "trace").string(), "--out", folder.path().string(), "--budget", "8", "--interval", "4"});
  CHECK(result.err == "");
  REQUIRE(result.status == 0);
  check_labels(folder / "trace.layer0.labels.safetensors", io::trace(folder / "trace"), {.budget = 8, .interval = 4},
               40);
}

#if !defined(__SANITIZE_ADDRESS__)  // whose shadow memory no limit allows
TEST_CASE("golden_labels: memory for one KV head's blocks is enough") {
  // A T x T matrix of one head would take 64 MiB, the layer's queries and keys in fp32 24 MiB.
  temporary_folder const folder;
  std::mt19937 generator(5);
  int const tokens = 4096;
  io::trace_shape const shape{.heads = 16, .kv_heads = 8, .tokens = tokens, .key_head_dim = 64, .value_head_dim = 1};
  io::trace_layer const layer{0, shape, random_numbers(generator, 16 * tokens * 64),
                              random_numbers(generator, 8 * tokens * 64), random_numbers(generator, 8 * tokens)};
  io::write_trace<fkv::half>(folder / "trace", std::span(&layer, 1));
  auto const with_limit = [&](int kibibytes) {
    return run({(folder / "trace").string(), "--out", folder.path().string(), "--threads", "1", "--force"},
               "sh -c 'ulimit -d " + std::to_string(kibibytes) + " && exec \"$0\" \"$@\"'");
  };
  auto const enough = with_limit(16 * 1024);
  CHECK(enough.err == "");
  CHECK(enough.status == 0);
  auto const too_little = with_limit(2 * 1024);
  CHECK(too_little.status == 2);
  CHECK(too_little.err == "golden_labels: std::bad_alloc\n");
}
#endif

TEST_CASE("golden_labels: --layers takes some, and says which is missing") {
  temporary_folder const folder, out;
  auto const path = (folder / "trace").string();
  io::write_trace(path, random_layers({1, 4, 6}, 50));
  std::vector<std::string> const start{path, "--out", out.path().string(), "--budget", "8", "--interval", "4"};
  auto const names = [&] {
    std::vector<std::string> all;
    for (auto const& [name, bytes] : contents(out.path())) all.push_back(name);
    return all;
  };
  CHECK(run(joined(start, {"--layers", "4,7"})).status == 2);
  CHECK(names().empty());
  CHECK(run(joined(start, {"--layers", "6,1,01"})).status == 0);
  CHECK(names() == std::vector<std::string>{"trace.layer1.labels.safetensors", "trace.layer6.labels.safetensors"});
}

TEST_CASE("golden_labels: the same bytes whatever the number of threads and processes") {
  temporary_folder const folder;
  io::write_trace<fkv::half>(folder / "a", random_layers({0, 1, 2, 9}, 120));
  io::write_trace<fkv::half>(folder / "b", random_layers({3}, 90, 9));
  std::vector<std::string> const start{
      (folder / "a").string(), (folder / "b").string(), "--budget", "16", "--interval", "8"};
  auto const files = [&](std::vector<std::string> const& more, std::string const& launcher) {
    temporary_folder const out;
    auto const result = run(joined(joined(start, {"--out", out.path().string()}), more), launcher);
    INFO(result.err);
    CHECK(result.status == 0);
    CHECK(result.err.empty());
    CHECK(result.out == "5 made, 0 already there: " + out.path().string() + "\n");
    return contents(out.path());
  };
  auto const expected = files({"--threads", "1"}, "");
  CHECK(expected.size() == 5);
  CHECK(files({"--threads", "3"}, "") == expected);
  if (!test::has_mpirun) {
    MESSAGE("not run with several processes: MPI was not found");
    return;
  }
  for (int const processes : {1, 2, 4}) {
    CAPTURE(processes);
    CHECK(files({"--threads", "1"}, test::mpirun(processes)) == expected);
  }
  CHECK(files({"--threads", "2"}, test::mpirun(2)) == expected);
}

TEST_CASE("golden_labels: killed at any moment and started again, it ends with the same bytes") {
  temporary_folder const folder;
  io::write_trace<fkv::half>(folder / "trace", random_layers({0, 1, 2, 3, 4, 5, 6, 7}, 500));
  std::vector<std::string> const start{
      (folder / "trace").string(), "--budget", "32", "--interval", "4", "--threads", "1", "--out"};
  auto const complete = (folder / "complete").string(), out = (folder / "out").string();
  using clock = std::chrono::steady_clock;
  auto const began = clock::now();
  REQUIRE(run(joined(start, {complete})).status == 0);
  auto const took = clock::now() - began;
  auto const expected = contents(complete);
  REQUIRE(expected.size() == 8);

  unsigned const seed = 11;
  CAPTURE(seed);
  std::mt19937 generator(seed);
  // Starts and kills so many times, after shares of a whole run's time; who ends before that starts again
  // with nothing.
  auto const resume = [&](int wanted, auto const& kill_after) {
    std::filesystem::remove_all(out);
    std::uniform_real_distribution<double> share(0.0, 0.5);
    int kills = 0;
    bool cut_short = false;
    for (int attempt = 0; attempt < 200 && kills < wanted; ++attempt) {
      if (!kill_after(std::chrono::duration_cast<std::chrono::microseconds>(took * share(generator)))) {
        CHECK(contents(out) == expected);
        std::filesystem::remove_all(out);
        continue;
      }
      ++kills;
      int finished = 0;
      if (std::filesystem::exists(out)) {
        for (auto const& [name, bytes] : contents(out)) {
          if (!name.ends_with(".safetensors")) continue;  // a temporary file
          CHECK(bytes == expected.at(name));
          ++finished;
        }
      }
      cut_short |= finished < 8;
    }
    REQUIRE(kills == wanted);
    CHECK(cut_short);
  };
  SUBCASE("alone") {
    resume(10, [&](std::chrono::microseconds delay) {
      return test::kill_after(delay, FORESIGHTKV_GOLDEN_LABELS, joined(start, {out}));
    });
    CHECK(run(joined(start, {out})).status == 0);
    CHECK(contents(out) == expected);
  }
  SUBCASE("one of two processes") {
    if (!test::has_mpirun) {
      MESSAGE("not run: MPI was not found");
      return;
    }
    resume(3, [&](std::chrono::microseconds delay) {
      // The shell becomes the program, and keeps its process number.
      auto const victim = " sh -c 'if [ \"${OMPI_COMM_WORLD_RANK:-$PMI_RANK}\" = 1 ]; then (sleep " +
                          std::to_string(0.05 + 1e-6 * static_cast<double>(delay.count())) +
                          "; kill -9 $$) & fi; exec \"$0\" \"$@\"'";
      return run(joined(start, {out}), test::mpirun(2) + victim).status != 0;
    });
    CHECK(run(joined(start, {out}), test::mpirun(2)).status == 0);
    CHECK(contents(out) == expected);
  }
}

TEST_CASE("golden_labels: files that are there stay, damaged ones are made again, abandoned ones go") {
  temporary_folder const folder;
  auto const out = folder / "out";
  io::write_trace(folder / "trace", random_layers({0, 1, 2}, 60));
  std::vector<std::string> const start{
      (folder / "trace").string(), "--out", out.string(), "--budget", "8", "--interval", "4"};
  REQUIRE(run(start).status == 0);
  auto const expected = contents(out);
  auto const file = [&](int layer) { return out / ("trace.layer" + std::to_string(layer) + ".labels.safetensors"); };
  auto const inode = [&](int layer) {
    struct stat facts {};
    REQUIRE(::stat(file(layer).c_str(), &facts) == 0);
    return facts.st_ino;
  };
  auto const kept = inode(0);
  std::filesystem::remove(file(1));
  auto const whole = read_file(file(2));
  auto const gone = std::to_string(std::numeric_limits<pid_t>::max());
  write_file(out / (file(1).filename().string() + ".tmp" + gone + "-0"), "half");
  for (auto const& damaged :
       {whole.substr(0, whole.size() / 2), std::string(), whole.substr(0, 200) + "x" + whole.substr(201)}) {
    write_file(file(2), damaged);
    CHECK(run(start).status == 0);
    CHECK(contents(out) == expected);
    CHECK(inode(0) == kept);
  }
  CHECK(run(start).out == "0 made, 3 already there: " + out.string() + "\n");
  CHECK(run(joined(start, {"--force"})).out == "3 made, 0 already there: " + out.string() + "\n");
  CHECK(contents(out) == expected);
}

TEST_CASE("golden_labels: labels of another kind are not replaced unless told so") {
  temporary_folder const folder;
  auto const out = folder / "out", path = folder / "trace";
  io::write_trace(path, random_layers({0, 1}, 60));
  auto const arguments = [&](std::vector<std::string> const& more) {
    return joined({path.string(), "--out", out.string(), "--interval", "4"}, more);
  };
  std::vector<std::string> const budget{"--budget", "8"};
  REQUIRE(run(arguments(budget)).status == 0);
  auto const before = contents(out);
  auto const refused = [&](std::vector<std::string> const& more) {
    auto const result = run(arguments(more));
    INFO(result.err);
    CHECK(result.status == 2);
    CHECK(result.err.find("layer0.labels.safetensors: holds labels of another") != std::string::npos);
    CHECK(std::ranges::count(result.err, '\n') == 1);
    CHECK(contents(out) == before);
  };
  refused({"--budget", "12"});
  refused(joined(budget, {"--to", "59"}));
  refused(joined(budget, {"--future", "sum"}));
  io::write_trace(path, random_layers({0, 1}, 60, 99));  // another sequence under the same name
  refused(budget);
  CHECK(run(arguments(joined(budget, {"--force"}))).status == 0);
  CHECK(contents(out).size() == 2);
  CHECK(contents(out) != before);
}

TEST_CASE("golden_labels: --help explains itself") {
  auto const result = run({"--help"});
  CHECK(result.status == 0);
  CHECK(result.err.empty());
  for (auto const* word : {"--out", "--budget", "--interval", "--future", "--discount", "--reduction", "--rules",
                           "--layers", "--to", "--threads", "--force", "mpirun", "labels", "evicted"})
    CHECK_MESSAGE(result.out.find(word) != std::string::npos, word);
}

TEST_CASE("golden_labels: bad input is one line, status 2, and nothing written, from any number of processes") {
  temporary_folder const inputs;
  auto const file = [&](char const* name) { return (inputs / name).string(); };
  auto layers = random_layers({3, 4}, 20);
  io::write_trace(file("good"), layers);
  auto const whole = read_file(file("good"));
  write_file(file("truncated"), std::string_view(whole).substr(0, whole.size() - 100));
  write_file(file("header"), std::string_view(whole).substr(0, 100));
  write_file(file("empty"), "");
  std::filesystem::create_directory(inputs / "folder");
  io::write_trace(inputs / "folder" / "good", layers);
  io::write_trace(file("good.layer3.labels.safetensors"), layers);
  auto const spoil = [&](char const* name, char const* tensor, std::vector<std::int64_t> shape, float last) {
    std::size_t count = 1;
    for (auto const extent : shape) count *= static_cast<std::size_t>(extent);
    std::vector<float> values(count, 0.5f);
    values.back() = last;
    io::safetensors_writer writer(file(name));
    for (auto const& [part, extents] : std::map<std::string, std::vector<std::int64_t>>{
             {"query", {4, 20, 8}}, {"key", {2, 20, 8}}, {"value", {2, 20, 3}}}) {
      auto const full = "layer.3." + part;
      if (part != tensor) {
        static std::vector<float> const right(4 * 20 * 8, 0.5f);
        auto const size = static_cast<std::size_t>(extents[0] * extents[1] * extents[2]);
        writer.add(full, extents, std::span(right).first(size));
      }
    }
    writer.add("layer.3." + std::string(tensor), std::move(shape), values).save();
  };
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  spoil("nan", "key", {2, 20, 8}, nan);
  spoil("infinity", "query", {4, 20, 8}, -std::numeric_limits<float>::infinity());
  spoil("value", "value", {2, 20, 3}, nan);
  spoil("heads", "query", {3, 20, 8}, 0.5f);
  spoil("tokens", "key", {2, 19, 8}, 0.5f);
  spoil("dim", "key", {2, 20, 4}, 0.5f);

  struct bad_input {
    std::vector<std::string> arguments;
    std::string says;
  };
  std::vector<std::string> const small{"--budget", "8", "--interval", "4"};
  auto const with = [&](std::vector<std::string> const& traces, std::vector<std::string> const& more = {}) {
    return joined(joined(traces, small), more);
  };
  std::vector<bad_input> const cases{
      {{}, "which trace?"},
      {with({file("missing")}), "cannot open"},
      {with({file("folder")}), "not a regular file"},
      {with({file("empty")}), "too short"},
      {with({file("truncated")}), "truncated file?"},
      {with({file("header")}), "header"},
      {with({file("good"), file("truncated")}), "truncated file?"},
      {with({file("nan")}), "tensor 'layer.3.key' holds NaN at [1, 19, 7]"},
      {with({file("good"), file("nan")}), "holds NaN"},
      {with({file("infinity")}), "holds infinity"},
      {with({file("value")}), "holds NaN"},
      {with({file("heads")}), "not a multiple"},
      {with({file("tokens")}), "tensor 'layer.3.key' must be [*, 20, 8], is [2, 19, 8]"},
      {with({file("dim")}), "tensor 'layer.3.key' must be"},
      {{file("good")}, "nothing to evict: 20 tokens"},
      {with({file("good")}, {"--to", "12"}), "nothing to evict: 12 tokens"},
      {with({file("good")}, {"--to", "21"}), "behind its 20 tokens"},
      {with({file("good")}, {"--layers", "3,5"}), "no layer 5"},
      {with({file("good"), file("folder/good")}), "files of the same name"},
      {with({file("good"), file("good")}), "files of the same name"},
      {{file("good"), "--budget", "10", "--interval", "4"}, "multiple of the interval 4, is 10"},
      {{file("good"), "--budget", "4", "--interval", "8"}, "larger than the budget"},
      {{file("good"), "--budget", "2147483647", "--interval", "1"}, "too large"},
      {{file("good"), "--budget", "0"}, "at least 1"},
      {{file("good"), "--budget", "8.5"}, "whole number"},
      {{file("good"), "--interval", "99999999999"}, "too large"},
      {{file("good"), "--budget"}, "needs a value"},
      {{file("good"), "--threads", "0"}, "at least 1"},
      {{file("good"), "--future", "median"}, "maximum, sum, mean, discounted, is 'median'"},
      {{file("good"), "--reduction", "sum"}, "mean, maximum, is 'sum'"},
      {{file("good"), "--rules", "mine"}, "exact, published, is 'mine'"},
      {{file("good"), "--discount", "1.5"}, "between 0 and 1"},
      {{file("good"), "--discount", "nan"}, "between 0 and 1"},
      {{file("good"), "--discount", "0.5x"}, "between 0 and 1"},
      {{file("good"), "--force=yes"}, "takes no value"},
      {{file("good"), "--bogus", "1"}, "unknown option '--bogus'"},
      {{file("two\nlines")}, "cannot open"},
  };
  auto const check = [&](bad_input const& bad, std::string const& launcher) {
    std::string command = launcher;
    for (auto const& argument : bad.arguments) command += " " + argument;
    CAPTURE(command);
    temporary_folder const outputs;
    auto const result = run(joined(bad.arguments, {"--out", (outputs / "labels").string()}), launcher);
    CAPTURE(result.err);
    CHECK(result.status == 2);
    CHECK(result.out.empty());
    CHECK(result.err.starts_with("golden_labels: "));
    CHECK(std::ranges::count(result.err, '\n') == 1);
    CHECK(result.err.ends_with("\n"));
    CHECK(result.err.find(bad.says) != std::string::npos);
    CHECK(outputs.entries() == 0);
  };
  for (auto const& bad : cases) check(bad, "");
  if (test::has_mpirun)
    for (auto const& says : {"which trace?", "truncated file?", "holds NaN", "nothing to evict: 12", "multiple of"})
      check(*std::ranges::find(cases, std::string(says),
                               [&](bad_input const& bad) { return bad.says.substr(0, std::string_view(says).size()); }),
            test::mpirun(3));
}

TEST_CASE("golden_labels: outputs that cannot be written, or that would replace an input") {
  temporary_folder const folder;
  auto const name = [&](char const* entry) { return (folder / entry).string(); };
  io::write_trace(name("trace"), random_layers({0, 1, 2}, 40));
  io::write_trace(name("trace.layer1.labels.safetensors"), random_layers({0}, 40));
  auto const before = contents(folder.path());
  std::vector<std::string> const small{"--budget", "8", "--interval", "4"};
  auto const refused = [&](std::vector<std::string> const& arguments, std::string_view says,
                           std::string const& launcher = "") {
    auto const result = run(joined(arguments, small), launcher);
    INFO(result.err);
    CHECK(result.status == 2);
    CHECK(result.out.empty());
    CHECK(std::ranges::count(result.err, '\n') == 1);
    CHECK(result.err.find(says) != std::string::npos);
  };
  refused({name("trace")}, "--out: which folder?");
  refused({name("trace"), "--out", name("trace")}, "--out");  // is a file
  refused({name("trace"), name("trace.layer1.labels.safetensors"), "--out", folder.path().string()},
          "refusing to replace the input");
  CHECK(contents(folder.path()) == before);

  // The last file cannot be written: the others stay, whole, and everyone ends.
  std::filesystem::create_directories(folder / "out" / "trace.layer2.labels.safetensors" / "occupied");
  refused({name("trace"), "--out", name("out")}, "cannot replace");
  CHECK(std::filesystem::exists(folder / "out" / "trace.layer1.labels.safetensors"));
  if (!test::has_mpirun) return;
  std::filesystem::remove(folder / "out" / "trace.layer1.labels.safetensors");
  refused({name("trace"), "--out", name("out")}, "cannot replace", test::mpirun(3));
  CHECK(std::distance(std::filesystem::directory_iterator(folder / "out"), {}) == 3);
}
