// SPDX-License-Identifier: Apache-2.0
// Runs the program evict_trace: its numbers, its files, and what it says to bad input.
#include <doctest/doctest.h>

#if defined(FORESIGHTKV_EVICT_TRACE)

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <foresightkv/io/safetensors.hpp>
#include <foresightkv/io/trace.hpp>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/temporary_folder.hpp"
#include "support/run_program.hpp"

namespace io = foresightkv::io;

namespace {

using test::read_file, test::temporary_folder, test::write_file;

std::string const trace_file = FORESIGHTKV_EXAMPLE_DATA "/smollm2_135m_small.safetensors";
std::string const judge_file = FORESIGHTKV_EXAMPLE_DATA "/smollm2_135m_judge.safetensors";

test::outcome run(std::vector<std::string> const& arguments) {
  return test::run_program(FORESIGHTKV_EVICT_TRACE, arguments);
}

/// What the program measures, read back from its JSON.
nlohmann::json measure(std::vector<std::string> arguments) {
  temporary_folder const folder;
  arguments.insert(arguments.end(), {"--json", (folder / "measures.json").string()});
  auto const result = run(arguments);
  INFO(result.err);
  REQUIRE(result.status == 0);
  CHECK(result.err.empty());
  CHECK(folder.entries() == 1);
  return nlohmann::json::parse(read_file(folder / "measures.json"));
}

std::vector<std::string> names_of(nlohmann::json const& policies) {
  std::vector<std::string> names;
  for (auto const& [name, measures] : policies.items()) names.push_back(name);
  return names;
}

/// A run is repeatable in everything but its timings.
nlohmann::json untimed(nlohmann::json measured) {
  measured.erase("threads");
  for (auto& [name, measures] : measured["policies"].items()) measures.erase("microseconds");
  return measured;
}

/// A random trace of 2 KV heads with groups of 2, tensor by tensor, so that one of them can be spoilt.
struct small_trace {
  std::int64_t tokens = 20;
  std::vector<std::int64_t> query{4, tokens, 8}, key{2, tokens, 8}, value{2, tokens, 6};
  std::vector<float> values = std::vector<float>(4 * 20 * 8, 0.5f);
  bool has_value = true;

  void save(std::filesystem::path const& path) const {
    io::safetensors_writer file(path);
    add(file, "layer.3.query", query);
    add(file, "layer.3.key", key);
    if (has_value) add(file, "layer.3.value", value);
    file.save();
  }
  void add(io::safetensors_writer& file, std::string const& name, std::vector<std::int64_t> const& shape) const {
    std::size_t count = 1;
    for (auto const extent : shape) count *= static_cast<std::size_t>(extent);
    file.add(name, shape, std::span(values).first(count));
  }
};

/// Two layers of random tokens, of which one has wider values.
void write_random_trace(std::filesystem::path const& path, int tokens) {
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  auto const numbers = [&](int count) {
    std::vector<float> made(static_cast<std::size_t>(count));
    for (auto& value : made) value = normal(generator);
    return made;
  };
  std::vector<io::trace_layer> layers;
  for (int const number : {2, 5}) {
    io::trace_shape const shape{
        .heads = 4, .kv_heads = 2, .tokens = tokens, .key_head_dim = 8, .value_head_dim = 3 + number};
    layers.push_back(
        {number, shape, numbers(4 * tokens * 8), numbers(2 * tokens * 8), numbers(2 * tokens * (3 + number))});
  }
  io::write_trace(path, layers);
}

}  // namespace

TEST_CASE("evict_trace: every policy on the bundled trace agrees with an independent replay") {
  auto const measured = measure({trace_file, "--weights", judge_file, "--budget", "256", "--interval", "64"});
  CHECK(measured["budget"] == 256);
  CHECK(measured["interval"] == 64);
  CHECK(measured["layers"] == nlohmann::json{8, 21});

  // attention_recall and output_error, replayed in float64 by other code.
  std::vector<std::pair<std::string, std::pair<double, double>>> const expected{
      {"golden", {0.98182, 0.02703}},        {"foresight", {0.97546, 0.06010}}, {"window_sum", {0.97249, 0.07550}},
      {"h2o_per_query", {0.96798, 0.07859}}, {"h2o", {0.96704, 0.05986}},       {"tova", {0.96668, 0.09100}},
      {"accumulated", {0.95058, 0.09476}},   {"key_norm", {0.93234, 0.14051}},  {"key_diff", {0.92491, 0.13164}},
      {"streaming_llm", {0.72897, 0.28839}}};
  auto const& policies = measured["policies"];
  for (auto const& [policy, values] : expected) {
    std::string const name = policy;  // clang 14: a binding cannot be captured
    INFO(name);
    REQUIRE(policies.contains(name));
    CHECK(std::abs(policies[name]["attention_recall"].get<double>() - values.first) <= 5e-4);
    CHECK(std::abs(policies[name]["output_error"].get<double>() - values.second) <= 2e-3);
  }
  CHECK(std::abs(policies["full"]["attention_recall"].get<double>() - 1.0) <= 1e-6);
  CHECK(policies["full"]["output_error"].get<double>() <= 1e-6);
  CHECK(policies["full"]["golden_overlap"].is_null());
  CHECK(policies["full"]["bytes_moved"] == 0);
  CHECK(policies["golden"]["golden_overlap"] == 1.0);
  CHECK(names_of(policies).size() == 14);

  for (auto const& [policy, measures] : policies.items()) {
    std::string const name = policy;
    INFO(name);
    CHECK(measures.size() == 6);
    if (name == "full") continue;
    CHECK(measures["golden_overlap"].get<double>() > 64.0 / 256 / 4);
    CHECK(measures["golden_overlap"].get<double>() <= 1.0);
    CHECK(measures["cache_bytes"] == 320 * 3 * 128 * 4);
    CHECK(measures["microseconds"].get<double>() > 0.0);
  }
  // Keys, values and position of 64 tokens in 3 heads; the judge carries two sums per query head, H2O one.
  CHECK(policies["window_sum"]["bytes_moved"] == 64 * 3 * (128 * 4 + 4));
  CHECK(policies["accumulated"]["bytes_moved"] == 64 * 3 * (128 * 4 + 4 + 3 * 4));
  CHECK(policies["foresight"]["bytes_moved"] == 64 * 3 * (128 * 4 + 4 + 6 * 4));
}

TEST_CASE("evict_trace: the table lists the policies in the given order") {
  auto const result = run({trace_file, "--policies", "tova,full,golden", "--to", "500"});
  CHECK(result.status == 0);
  CHECK(result.err.empty());
  auto const tova = result.out.find("\ntova "), full = result.out.find("\nfull "),
             golden = result.out.find("\ngolden ");
  CHECK(tova < full);
  CHECK(full < golden);
  CHECK(golden != std::string::npos);
  CHECK(result.out.find("random") == std::string::npos);
}

TEST_CASE("evict_trace: without weights foresight is left out, and the table says so") {
  auto const result = run({trace_file, "--to", "400"});
  CHECK(result.status == 0);
  CHECK(result.out.find("foresight is left out") != std::string::npos);
  CHECK(result.out.find("\nforesight  ") == std::string::npos);
}

TEST_CASE("evict_trace: streaming_llm keeps its sinks, whatever is protected") {
  auto const recall = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(),
                     {trace_file, "--policies", "streaming_llm", "--budget", "64", "--interval", "64"});
    return measure(arguments)["policies"]["streaming_llm"]["attention_recall"].get<double>();
  };
  CHECK(recall({}) == recall({"--recent", "60"}));
}

TEST_CASE("evict_trace: threads do not show in the measures, the seed only in random") {
  std::vector<std::string> const arguments{trace_file, "--to", "512", "--policies", "window_sum,snap_kv,random"};
  auto const with = [&](std::vector<std::string> const& more) {
    auto all = arguments;
    all.insert(all.end(), more.begin(), more.end());
    return untimed(measure(all));
  };
  auto const one = with({"--threads", "1"});
  CHECK(one == with({"--threads=3"}));
  auto const other = with({"--seed", "1"});
  CHECK(one["policies"]["random"] != other["policies"]["random"]);
  CHECK(one["policies"]["window_sum"] == other["policies"]["window_sum"]);
}

TEST_CASE("evict_trace: layers, ranges and sizes of every kind") {
  temporary_folder const folder;
  auto const path = (folder / "random.safetensors").string();
  write_random_trace(path, 101);
  std::vector<std::vector<std::string>> const variants{
      {"--budget", "16", "--interval", "8"},
      {"--budget", "8", "--interval", "8"},  // every candidate goes
      {"--budget", "1", "--interval", "1"},
      {"--budget", "30", "--interval", "10", "--recent", "0"},
      {"--budget", "30", "--interval", "10", "--recent", "30"},
      {"--budget", "16", "--interval", "8", "--layers", "5"},
      {"--budget", "16", "--interval", "8", "--from", "50"},                // a prompt longer than budget + interval
      {"--budget", "16", "--interval", "8", "--from", "24", "--to", "25"},  // one query
      {"--budget", "90", "--interval", "10", "--to", "101"},
  };
  for (auto variant : variants) {
    variant.insert(variant.begin(), path);
    std::string command;
    for (auto const& argument : variant) command += " " + argument;
    INFO(command);
    auto const measured = measure(variant);
    auto const& policies = measured["policies"];
    CHECK(std::abs(policies["full"]["attention_recall"].get<double>() - 1.0) < 1e-6);
    CHECK(policies["full"]["output_error"].get<double>() < 1e-6);
    CHECK(policies["golden"]["golden_overlap"] == 1.0);
    for (auto const& [policy, measures] : policies.items()) {
      std::string const name = policy;
      INFO(name);
      CHECK(measures["attention_recall"].get<double>() > 0.0);
      CHECK(measures["attention_recall"].get<double>() < 1.0 + 1e-6);
      if (name != "full") CHECK(measures["output_error"].get<double>() > 0.0);
      CHECK(measures["output_error"].get<double>() < 10.0);
    }
  }
  // The prompt decides where evicting begins; a prompt of budget + interval is the default.
  auto const plain = untimed(measure({path, "--budget", "16", "--interval", "8"}));
  CHECK(plain["from"] == 24);
  for (auto const* prompt : {"0", "24"})
    CHECK(plain == untimed(measure({path, "--budget", "16", "--interval", "8", "--from", prompt})));
  CHECK(plain["policies"] != untimed(measure({path, "--budget", "16", "--interval", "8", "--from", "50"}))["policies"]);
}

TEST_CASE("evict_trace: pages change no figure but the size of the cache") {
  std::vector<std::string> const arguments{
      trace_file, "--budget", "120", "--interval", "40", "--policies", "golden,h2o,snap_kv,key_diff"};
  auto const with_layout = [&](std::string const& layout) {
    auto given = arguments;
    given.insert(given.end(), {"--layout", layout});
    return untimed(measure(given));
  };
  auto const rows = untimed(measure(arguments));
  CHECK(rows == with_layout("rows"));
  for (auto const& [layout, slots] :
       {std::pair{"paged:16", 160}, {"paged:1", 160}, {"paged:48", 192}, {"paged:1000", 1000}}) {
    CAPTURE(layout);
    auto paged = with_layout(layout);
    for (auto& [name, measures] : paged["policies"].items()) {
      CHECK(measures["cache_bytes"] == slots * 3 * 128 * 4);
      measures["cache_bytes"] = rows["policies"][name]["cache_bytes"];
    }
    CHECK(paged == rows);
  }
}

TEST_CASE("evict_trace: --help explains itself") {
  auto const result = run({"--help"});
  CHECK(result.status == 0);
  CHECK(result.err.empty());
  for (auto const* word :
       {"--budget", "--interval", "--recent", "--policies", "--layers", "--from", "--to", "--weights", "--device",
        "--layout", "--seed", "--threads", "--json", "--html", "streaming_llm", "h2o_per_query"})
    CHECK_MESSAGE(result.out.find(word) != std::string::npos, word);
}

TEST_CASE("evict_trace: bad input is one line, status 2, and nothing written") {
  temporary_folder const inputs;
  auto const file = [&](char const* name) { return (inputs / name).string(); };
  {
    auto const whole = read_file(trace_file);
    write_file(inputs / "truncated", std::string_view(whole).substr(0, whole.size() / 2));
    write_file(inputs / "empty", "");
    small_trace bad;
    bad.save(inputs / "good");
    bad.has_value = false;
    bad.save(inputs / "no_value");
    bad = {};
    bad.query = {4 * 20, 8};
    bad.save(inputs / "rank");
    bad = {};
    bad.query = {3, 20, 8};
    bad.save(inputs / "heads");
    bad = {};
    bad.key = {2, 19, 8};
    bad.save(inputs / "tokens");
    bad = {};
    bad.values[70] = std::numeric_limits<float>::quiet_NaN();
    bad.save(inputs / "nan");
    bad.values[70] = std::numeric_limits<float>::infinity();
    bad.save(inputs / "infinity");
  }
  struct bad_input {
    std::vector<std::string> arguments;
    std::string says;
  };
  std::vector<bad_input> const cases{
      {{}, "which trace?"},
      {{file("missing")}, "cannot open"},
      {{inputs.path().string()}, "not a regular file"},
      {{file("empty")}, ""},
      {{file("truncated")}, ""},
      {{file("no_value"), "--budget", "8", "--interval", "4"}, "layer.3.value"},
      {{file("rank"), "--budget", "8", "--interval", "4"}, "layer.3.query"},
      {{file("heads"), "--budget", "8", "--interval", "4"}, "not a multiple"},
      {{file("tokens"), "--budget", "8", "--interval", "4"}, "layer.3.key"},
      {{file("nan"), "--budget", "8", "--interval", "4"}, "layer.3."},
      {{file("infinity"), "--budget", "8", "--interval", "4"}, "layer.3."},
      {{judge_file}, "layer.{i}.query"},
      {{file("good")}, "nothing to evict"},
      {{file("good"), "--budget", "16", "--interval", "4"}, "nothing to evict"},
      {{trace_file, "--budget", "100", "--interval", "64"}, "multiple of the interval"},
      {{trace_file, "--budget", "0"}, "at least 1"},
      {{trace_file, "--budget", "-64"}, "at least 1"},
      {{trace_file, "--budget", "many"}, "whole number"},
      {{trace_file, "--budget", "256.5"}, "whole number"},
      {{trace_file, "--budget", "99999999999"}, "too large"},
      {{trace_file, "--budget", "2147483647", "--interval", "1"}, "too large"},
      {{trace_file, "--budget"}, "needs a value"},
      {{trace_file, "--interval", "--json"}, "needs a value"},
      {{trace_file, "--recent", "257"}, "larger than the budget"},
      {{trace_file, "--policies", "golden,lru"}, "'lru'"},
      {{trace_file, "--policies", "tova,tova"}, "twice"},
      {{trace_file, "--policies", "tova,"}, "empty entry"},
      {{trace_file, "--policies", "foresight"}, "needs --weights"},
      {{trace_file, "--layers", "8,9"}, "no layer 9"},
      {{trace_file, "--layers", "x"}, "whole number"},
      {{trace_file, "--from", "first"}, "whole number"},
      {{trace_file, "--from", "1024"}, "nothing to evict"},
      {{trace_file, "--to", "320"}, "nothing to evict"},
      {{trace_file, "--to", "1025"}, "1024"},
      {{trace_file, "--weights", file("missing")}, "cannot open"},
      {{trace_file, "--weights", trace_file}, "fc1.weight"},
      {{file("good"), "--budget", "8", "--interval", "4", "--weights", judge_file}, "group"},
      {{trace_file, "--device", "cuda"}, "built without CUDA"},
      {{trace_file, "--device", "tpu"}, "auto, host or cuda"},
      {{trace_file, "--layout", "pages"}, "rows or paged:N"},
      {{trace_file, "--layout", "paged:0"}, "at least 1"},
      {{trace_file, "--layout", "paged:65537"}, "at most 65536"},
      {{trace_file, "--layout", "paged:x"}, "whole number"},
      {{trace_file, "--seed", "-1"}, "whole number"},
      {{trace_file, "--threads", "0"}, "at least 1"},
      {{trace_file, "--threads", "100000"}, "at most 1024"},
      {{trace_file, "--bogus", "1"}, "--bogus"},
      {{trace_file, "-x"}, "-x"},
      {{trace_file, trace_file}, "one too many"},
      {{trace_file, "two\nlines"}, "one too many"},
      {{file("two\nlines")}, "cannot open"},
  };
  for (auto const& [arguments, says] : cases) {
    std::string command;
    for (auto const& argument : arguments) command += " " + argument;
    INFO(command);
    temporary_folder const outputs;
    auto all = arguments;
    all.insert(all.begin(), {"--json", (outputs / "a.json").string(), "--html", (outputs / "a.html").string()});
    auto const result = run(all);
    INFO(result.err);
    CHECK(result.status == 2);
    CHECK(result.out.empty());
    CHECK(result.err.starts_with("evict_trace: "));
    CHECK(std::ranges::count(result.err, '\n') == 1);
    CHECK(result.err.ends_with("\n"));
    CHECK(result.err.find(says) != std::string::npos);
    CHECK(outputs.entries() == 0);
  }
}

TEST_CASE("evict_trace: outputs that cannot be written, or that would replace an input") {
  temporary_folder const folder;
  write_random_trace(folder / "trace", 40);
  auto const before = read_file(folder / "trace");
  auto const path = [&](char const* name) { return (folder / name).string(); };
  std::vector<std::string> const start{path("trace"), "--budget", "8", "--interval", "4"};
  std::vector<std::vector<std::string>> const cases{{"--json", path("no/such/folder.json")},
                                                    {"--html", path("no/such/folder.html")},
                                                    {"--json", folder.path().string()},
                                                    {"--json", path("trace")},
                                                    {"--html", path("./trace")},
                                                    {"--json", path("same"), "--html", path("same")},
                                                    {"--json", path("fine.json"), "--html", path("no/folder.html")}};
  for (auto const& more : cases) {
    auto all = start;
    all.insert(all.end(), more.begin(), more.end());
    auto const result = run(all);
    INFO(result.err);
    CHECK(result.status == 2);
    CHECK(std::ranges::count(result.err, '\n') == 1);
    CHECK(result.out.empty());
    CHECK(folder.entries() == 1);
    CHECK(read_file(folder / "trace") == before);
  }
}

namespace {

/// Balance of the elements of a page; raw text of script and style is skipped. Returns what is wrong, or
/// nothing.
std::string unbalanced(std::string_view page) {
  constexpr std::string_view closed_by_themselves[] = {"meta", "br", "hr", "link", "img", "input"};
  std::vector<std::string> open;
  for (std::size_t at = page.find('<'); at != page.npos; at = page.find('<', at)) {
    if (page.substr(at).starts_with("<!--")) {
      at = page.find("-->", at);
      if (at == page.npos) return "a comment has no end";
      continue;
    }
    auto const end = page.find('>', at);
    if (end == page.npos) return "a tag has no end";
    bool const closes = page[at + 1] == '/';
    auto const first = at + (closes ? 2 : 1);
    std::string const name(page.substr(first, page.find_first_of(" >\n", first) - first));
    at = end + 1;
    if (name.starts_with("!") || std::ranges::count(closed_by_themselves, name) > 0) continue;
    if (!closes) {
      open.push_back(name);
      if (name == "script" || name == "style") at = page.find("</" + name + ">", at);
      if (at == page.npos) return name + " has no end";
    } else {
      if (open.empty() || open.back() != name) return "</" + name + "> closes nothing";
      open.pop_back();
    }
  }
  return open.empty() ? "" : open.back() + " stays open";
}

/// What the page's maps say: for each token the eviction in which it went.
std::vector<std::uint32_t> unpack(std::string const& text, int digits) {
  constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  std::vector<std::uint32_t> values(text.size() / static_cast<std::size_t>(digits));
  for (std::size_t i = 0; i < text.size(); ++i) {
    auto& value = values[i / static_cast<std::size_t>(digits)];
    value = value * 64 + static_cast<std::uint32_t>(alphabet.find(text[i]));
  }
  return values;
}

nlohmann::json data_of(std::string const& page) {
  std::string_view constexpr begins = "id=\"data\">";
  auto const begin = page.find(begins) + begins.size();
  return nlohmann::json::parse(page.substr(begin, page.find("</script>", begin) - begin));
}

}  // namespace

TEST_CASE("evict_trace: the page is one sound file that needs nothing else") {
  temporary_folder const folder;
  auto const html = (folder / "page.html").string(), json = (folder / "page.json").string();
  auto const result = run({trace_file, "--to", "700", "--policies", "full,golden,window_sum", "--budget", "128",
                           "--interval", "32", "--html", html, "--json", json});
  INFO(result.err);
  REQUIRE(result.status == 0);
  CHECK(folder.entries() == 2);
  auto const page = read_file(html);
  CHECK(page.starts_with("<!doctype html>"));
  CHECK(unbalanced(page) == "");
  for (auto const* fetch :
       {"http:", "https:", "//www", "src=", "href=", "@import", "url(", "fetch(", "XMLHttpRequest", "import("})
    CHECK_MESSAGE(page.find(fetch) == std::string::npos, fetch);

  auto const data = data_of(page);
  auto const measured = nlohmann::json::parse(read_file(json));
  CHECK(data["budgets"].size() > 3);
  CHECK(data["budgets"][0]["budget"] == 128);
  for (auto const& [name, measures] : measured["policies"].items()) {
    auto const& drawn = data["budgets"][0]["measures"][name];
    CHECK(drawn["error"] == measures["output_error"]);
    CHECK(std::abs(drawn["lost"].get<double>() + measures["attention_recall"].get<double>() - 1.0) < 1e-9);
  }
  // Budgets of the curves are measured as the chosen one is.
  for (auto const& budget : data["budgets"]) {
    if (budget["budget"] != 256) continue;
    auto const other =
        measure({trace_file, "--to", "700", "--policies", "golden", "--budget", "256", "--interval", "32"});
    CHECK(budget["measures"]["golden"]["error"] == other["policies"]["golden"]["output_error"]);
  }

  // (700 - 128 - 1) / 32 = 17 evictions of 32 tokens each, none of them from the newest 32.
  auto const& maps = data["maps"]["window_sum"];
  CHECK(maps.size() == 2);
  for (auto const& layer : maps)
    for (auto const& head : layer["heads"]) {
      auto const evicted_at = unpack(head.get<std::string>(), data["digits"].get<int>());
      CHECK(evicted_at.size() == 700);
      for (std::uint32_t eviction = 0; eviction < 17; ++eviction) CHECK(std::ranges::count(evicted_at, eviction) == 32);
      CHECK(std::ranges::count(evicted_at, 17u) == 700 - 17 * 32);
      for (std::size_t k = 0; k < evicted_at.size(); ++k)
        if (evicted_at[k] < 17) CHECK(k < 128 + 32 * evicted_at[k]);
    }
}

TEST_CASE("evict_trace: a file's name cannot break out of the page") {
  temporary_folder const folder;
  auto const path = folder / "<!--<script>x";
  write_random_trace(path, 60);
  auto const html = (folder / "page.html").string();
  CHECK(run({path.string(), "--budget", "8", "--interval", "4", "--policies", "tova", "--html", html}).status == 0);
  auto const page = read_file(html);
  CHECK(unbalanced(page) == "");
  CHECK(data_of(page)["trace"] == "<!--<script>x");
}

#else

TEST_CASE("evict_trace is not built here" * doctest::skip()) {}

#endif
