// SPDX-License-Identifier: Apache-2.0
// Runs the program train_judge: what its judges are worth, its files after every kind of accident, and what
// it says to bad input.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <foresightkv/io/judge_weights.hpp>
#include <foresightkv/io/safetensors.hpp>
#include <foresightkv/io/trace.hpp>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "io/temporary_folder.hpp"
#include "support/run_program.hpp"

namespace fkv = foresightkv;
namespace io = foresightkv::io;

namespace {

using test::contents, test::joined, test::read_file, test::temporary_folder, test::write_file;

std::string const example_trace = FORESIGHTKV_EXAMPLE_DATA "/smollm2_135m_small.safetensors";
std::string const example_judge = FORESIGHTKV_EXAMPLE_DATA "/smollm2_135m_judge.safetensors";

test::outcome run(std::vector<std::string> const& arguments, std::string const& launcher = "") {
  return test::run_program(FORESIGHTKV_TRAIN_JUDGE, arguments, launcher);
}

/// The lines of the metrics that have a key.
std::vector<nlohmann::json> lines_with(std::filesystem::path const& folder, char const* key) {
  std::istringstream text(read_file(folder / "metrics.jsonl"));
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(text, line);) {
    auto parsed = nlohmann::json::parse(line);
    if (parsed.contains(key)) lines.push_back(std::move(parsed));
  }
  return lines;
}

std::vector<float> random_numbers(std::mt19937& generator, int count) {
  std::normal_distribution<float> normal;
  std::vector<float> made(static_cast<std::size_t>(count));
  for (auto& value : made) value = normal(generator);
  return made;
}

/// Random layers of 4 query and 2 KV heads.
std::vector<io::trace_layer> random_layers(std::vector<int> const& numbers, int tokens, int value_dim = 3) {
  std::mt19937 generator(7);
  std::vector<io::trace_layer> layers;
  for (int const number : numbers) {
    io::trace_shape const shape{
        .heads = 4, .kv_heads = 2, .tokens = tokens, .key_head_dim = 8, .value_head_dim = value_dim};
    layers.push_back({number, shape, random_numbers(generator, 4 * tokens * 8),
                      random_numbers(generator, 2 * tokens * 8), random_numbers(generator, 2 * tokens * value_dim)});
  }
  return layers;
}

/// A small training that goes through everything: two rounds on both kinds of caches, prompts, measuring,
/// checkpoints.
std::vector<std::string> small_training(std::string const& trace) {
  return {trace,   "--budget",   "16", "--interval",      "4",  "--from",
          "20,40", "--held-out", "20", "--steps",         "12", "--batch",
          "6",     "--rounds",   "3",  "--measure-every", "5",  "--checkpoint-every",
          "2",     "--shifts",   "5"};
}

}  // namespace

TEST_CASE("train_judge: what it measures on held-out tokens is what evict_trace measures with its weights") {
  temporary_folder const folder;
  auto const out = (folder / "out").string();
  auto const result =
      run({example_trace, "--layers", "21", "--budget", "64", "--interval", "16", "--held-out", "512", "--steps", "30",
           "--rounds", "2", "--on-policy", "0.5", "--measure-every", "15", "--out", out});
  INFO(result.err);
  REQUIRE(result.status == 0);
  CHECK(result.err.empty());
  CHECK(contents(out).size() == 5);

  auto const policies = lines_with(out, "policy");
  auto const measured = lines_with(out, "held_out");
  REQUIRE(policies.size() == 2);
  REQUIRE(measured.size() == 2 + 3);
  auto const replayed = test::run_program(
      FORESIGHTKV_EVICT_TRACE, {example_trace, "--layers", "21", "--budget", "64", "--interval", "16", "--from", "512",
                                "--weights", out + "/weights.safetensors", "--policies", "foresight,golden,window_sum",
                                "--json", (folder / "json").string()});
  INFO(replayed.err);
  REQUIRE(replayed.status == 0);
  auto const expected = nlohmann::json::parse(read_file(folder / "json"))["policies"];
  for (auto const* what : {"output_error", "attention_recall"}) {
    CHECK(measured.back()["held_out"][what] == expected["foresight"][what]);
    CHECK(policies[0]["held_out"][what] == expected["golden"][what]);
    CHECK(policies[1]["held_out"][what] == expected["window_sum"][what]);
    // Started at the window's sum, and not trained yet.
    CHECK(measured[2]["held_out"][what] == expected["window_sum"][what]);
  }
  auto const steps = lines_with(out, "loss");
  REQUIRE(steps.size() == 30);
  double early = 0.0, late = 0.0;
  for (std::size_t i = 0; i < 8; ++i) {
    early += steps[i]["loss"].get<double>();
    late += steps[22 + i]["loss"].get<double>();
  }
  CHECK(late < 0.9 * early);
  CHECK(steps[14]["round"] == 0);
  CHECK(steps[15]["round"] == 1);
}

TEST_CASE("train_judge: whole traces can be held out, and both parts add up as evict_trace adds layers up") {
  temporary_folder const folder;
  io::write_trace(folder / "trace", random_layers({0, 2}, 100));
  io::write_trace(folder / "other", random_layers({0, 2}, 70));
  auto const out = (folder / "out").string();
  REQUIRE(run({(folder / "trace").string(), "--held-out-traces", (folder / "other").string(), "--budget", "16",
               "--interval", "4", "--steps", "4", "--measure-every", "4", "--out", out})
              .status == 0);
  auto const replayed =
      test::run_program(FORESIGHTKV_EVICT_TRACE, {(folder / "other").string(), "--budget", "16", "--interval", "4",
                                                  "--weights", out + "/weights.safetensors", "--policies", "foresight",
                                                  "--json", (folder / "json").string()});
  REQUIRE(replayed.status == 0);
  auto const expected = nlohmann::json::parse(read_file(folder / "json"))["policies"]["foresight"];
  auto const measured = lines_with(out, "held_out").back();
  CHECK(measured["step"] == 4);
  CHECK(measured["held_out"]["output_error"] == expected["output_error"]);
  CHECK(measured["held_out"]["attention_recall"] == expected["attention_recall"]);
  CHECK(measured["held_out"]["layers"].size() == 2);
}

TEST_CASE("train_judge: the same files whatever the number of threads and processes") {
  temporary_folder const folder;
  io::write_trace(folder / "trace", random_layers({0, 2, 5}, 100));
  auto const start = small_training((folder / "trace").string());
  int number = 0;
  auto const files = [&](std::vector<std::string> const& more, std::string const& launcher = "") {
    // The page says the folder's name, so it is the same one in folders of their own.
    auto const out = folder / ("run" + std::to_string(number++)) / "out";
    auto const result = run(joined(joined(start, more), {"--out", out.string()}), launcher);
    INFO(result.err);
    REQUIRE(result.status == 0);
    return contents(out);
  };
  auto const expected = files({"--threads", "1"});
  REQUIRE(expected.size() == 5);
  CHECK(files({"--threads", "2"}) == expected);
  if (!test::has_mpirun) {
    MESSAGE("not run over processes: MPI was not found");
    return;
  }
  CHECK(files({"--threads", "1"}, test::mpirun(1)) == expected);
  CHECK(files({"--threads", "2"}, test::mpirun(2)) == expected);
  CHECK(files({"--threads", "1"}, test::mpirun(4)) == expected);
}

TEST_CASE("train_judge: killed at any moment and resumed, it ends with the same bytes") {
  temporary_folder const folder;
  io::write_trace<fkv::half>(folder / "trace", random_layers({0, 3}, 120));
  auto const start = joined(small_training((folder / "trace").string()), {"--threads", "1", "--resume", "--out"});
  auto const complete = (folder / "a" / "out").string(), out = (folder / "b" / "out").string();
  using clock = std::chrono::steady_clock;
  auto const began = clock::now();
  REQUIRE(run(joined(start, {complete})).status == 0);
  auto const took = clock::now() - began;
  auto const expected = contents(complete);
  REQUIRE(expected.size() == 5);

  unsigned const seed = 5;
  CAPTURE(seed);
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> share(0.1, 0.7);
  int kills = 0, resumed = 0;
  for (int attempt = 0; attempt < 200 && kills < 10; ++attempt) {
    auto const delay = std::chrono::duration_cast<std::chrono::microseconds>(took * share(generator));
    if (!test::kill_after(delay, FORESIGHTKV_TRAIN_JUDGE, joined(start, {out}))) {
      CHECK(contents(out) == expected);
      std::filesystem::remove_all(out);
      continue;
    }
    ++kills;
    if (!std::filesystem::exists(std::filesystem::path(out) / "checkpoint.safetensors")) continue;
    ++resumed;
    io::safetensors_file const whole(std::filesystem::path(out) / "checkpoint.safetensors");
    CHECK(whole.metadata("format") == "foresightkv training 1");
    if (std::filesystem::exists(std::filesystem::path(out) / "weights.safetensors"))
      CHECK(read_file(std::filesystem::path(out) / "weights.safetensors") == expected.at("weights.safetensors"));
  }
  REQUIRE(kills == 10);
  CHECK(resumed > 0);
  REQUIRE(run(joined(start, {out})).status == 0);
  CHECK(contents(out) == expected);
  // Finished already: nothing changes.
  REQUIRE(run(joined(start, {out})).status == 0);
  CHECK(contents(out) == expected);
}

TEST_CASE("train_judge: resumed at every checkpoint, by any number of processes") {
  temporary_folder const folder;
  io::write_trace(folder / "trace", random_layers({4}, 100));
  auto start = small_training((folder / "trace").string());
  *std::find(start.begin(), start.end(), "5") = "3";  // measure every 3 steps
  auto const complete = folder / "a" / "out", out = folder / "b" / "out";
  REQUIRE(run(joined(start, {"--out", complete.string()})).status == 0);
  auto const expected = contents(complete);
  // A training that stops on its way is one whose checkpoint is older: taken while it runs.
  int older = 0;
  for (int attempt = 0; attempt < 60 && older < 2; ++attempt) {
    std::filesystem::remove_all(out);
    (void)test::kill_after(std::chrono::milliseconds(4 + 6 * attempt), FORESIGHTKV_TRAIN_JUDGE,
                           joined(start, {"--threads", "1", "--out", out.string()}));
    if (!std::filesystem::exists(out / "checkpoint.safetensors")) continue;
    ++older;
    auto const launcher = test::has_mpirun ? test::mpirun(1 + older) : std::string();
    REQUIRE(run(joined(start, {"--resume", "--out", out.string()}), launcher).status == 0);
    CHECK(contents(out) == expected);
  }
  CHECK(older == 2);
}

TEST_CASE("train_judge: a folder that holds a training is not begun anew, nor gone on with by another one") {
  temporary_folder const folder;
  io::write_trace(folder / "trace", random_layers({0}, 100));
  auto const out = folder / "out";
  auto const start = joined(small_training((folder / "trace").string()), {"--out", out.string()});
  REQUIRE(run(start).status == 0);
  auto const before = contents(out);
  auto const refused = [&](std::vector<std::string> const& more, std::string const& reason) {
    auto const result = run(joined(start, more));
    CHECK(result.status == 2);
    CHECK(result.err == "train_judge: " + reason + "\n");
    CHECK(contents(out) == before);
  };
  refused({}, out.string() + ": holds a training already: --resume goes on with it");
  auto const other = (out / "checkpoint.safetensors").string() + ": belongs to another training: there, not ";
  refused({"--resume", "--lr", "0.02"}, other + "'lr 0.02'");
  refused({"--resume", "--steps", "13"}, other + "'steps 13'");
  auto layers = random_layers({0}, 100);
  layers[0].value[5] += 1.0f;
  io::write_trace(folder / "trace", layers);
  auto const result = run(joined(start, {"--resume"}));
  CHECK(result.status == 2);
  CHECK(result.err.starts_with("train_judge: " + other + "'data "));
  CHECK(contents(out) == before);
}

TEST_CASE("train_judge: published weights go in, and what comes out has their names and shapes") {
  temporary_folder const folder;
  auto const out = (folder / "out").string();
  std::vector<std::string> const start{example_trace, "--budget",  "64",          "--interval",    "16", "--to",
                                       "256",         "--steps",   "1",           "--rounds",      "1",  "--batch",
                                       "2",           "--weights", example_judge, "--standardise", "no", "--out"};
  REQUIRE(run(joined(start, {out, "--lr", "0"})).status == 0);
  auto const published = io::load_judge(example_judge);
  auto const made = io::load_judge(out + "/weights.safetensors");
  CHECK(made.metadata.at("features") == "paper");
  CHECK(made.layers.size() == 2);
  for (int const layer : {8, 21}) {
    CHECK(made.layers.at(layer).fc1_weight == published.layers.at(layer).fc1_weight);
    CHECK(made.layers.at(layer).fc1_bias == published.layers.at(layer).fc1_bias);
    CHECK(made.layers.at(layer).fc2_weight == published.layers.at(layer).fc2_weight);
    CHECK(made.layers.at(layer).fc2_bias == published.layers.at(layer).fc2_bias);
  }
  // The output's bias is frozen, everything else moves.
  auto const trained = (folder / "trained").string();
  REQUIRE(run(joined(start, {trained})).status == 0);
  auto const moved = io::load_judge(trained + "/weights.safetensors");
  CHECK(moved.layers.at(8).fc1_weight != published.layers.at(8).fc1_weight);
  CHECK(moved.layers.at(8).fc2_weight != published.layers.at(8).fc2_weight);
  CHECK(moved.layers.at(8).fc2_bias == published.layers.at(8).fc2_bias);
}

TEST_CASE("train_judge: starts, features, inputs, schedules and clipping are what they are called") {
  temporary_folder const folder;
  io::write_trace(folder / "trace", random_layers({0, 1}, 100));
  int number = 0;
  auto const trained = [&](std::vector<std::string> const& more) {
    auto const out = folder / std::to_string(number++);
    auto const result = run(joined(small_training((folder / "trace").string()), joined(more, {"--out", out.string()})));
    INFO(result.err);
    REQUIRE(result.status == 0);
    return out;
  };
  auto const judge_of = [](std::filesystem::path const& out) { return io::load_judge(out / "weights.safetensors"); };
  auto const plain = trained({});
  auto const reference = trained({"--features", "reference_checkpoint", "--start", "random", "--deviation", "0.1"});
  CHECK(judge_of(reference).metadata.at("features") == "reference_checkpoint");

  auto const blind = judge_of(trained({"--inputs", "statistics"}));
  for (int const layer : {0, 1})
    for (std::size_t head = 0; head < 2; ++head) {
      auto const* const weights = blind.layers.at(layer).fc1_weight.data() + head * (8 + 3 + 16) * 16;
      CHECK(std::all_of(weights, weights + 11 * 16, [](float weight) { return weight == 0.0f; }));
      CHECK_FALSE(std::all_of(weights + 11 * 16, weights + 27 * 16, [](float weight) { return weight == 0.0f; }));
    }

  auto const published = lines_with(trained({"--schedule", "published_supervised"}), "loss");
  CHECK(published[0]["learning_rate"] == 0.0);
  CHECK(published[5]["learning_rate"].get<double>() == doctest::Approx(0.005));
  CHECK(lines_with(trained({"--schedule", "constant", "--lr", "0.003"}), "loss")[7]["learning_rate"] == 0.003);

  for (auto const& [scope, limit, expected] :
       {std::tuple{"layer", "0.0000001", 1.0}, std::tuple{"joint", "0.0000001", 1.0},
        std::tuple{"joint", "100000", 0.0}}) {
    auto const steps = lines_with(trained({"--clip-scope", scope, "--clip", limit}), "loss");
    for (auto const& line : steps) CHECK(line["clip_rate"] == expected);
  }
  CHECK(contents(trained({"--seed", "1"})).at("weights.safetensors") != contents(plain).at("weights.safetensors"));
}

TEST_CASE("train_judge: labels of golden_labels stand in for golden's own caches") {
  temporary_folder const folder;
  io::write_trace(folder / "trace.safetensors", random_layers({0, 1}, 100));
  auto const trace = (folder / "trace.safetensors").string(), labels = (folder / "labels").string();
  std::vector<std::string> const start{trace,      "--budget", "16",          "--interval", "4",       "--steps", "6",
                                       "--rounds", "1",        "--on-policy", "0",          "--batch", "4"};
  REQUIRE(run(joined(start, {"--out", (folder / "a" / "out").string()})).status == 0);
  REQUIRE(test::run_program(FORESIGHTKV_GOLDEN_LABELS, {trace, "--budget", "16", "--interval", "4", "--out", labels})
              .status == 0);
  REQUIRE(run(joined(start, {"--labels", labels, "--out", (folder / "b" / "out").string()})).status == 0);
  CHECK(contents(folder / "a" / "out") == contents(folder / "b" / "out"));

  auto const refused = [&](std::vector<std::string> const& more, std::string const& part) {
    auto const result = run(joined(start, joined(more, {"--labels", labels, "--out", (folder / "c").string()})));
    CHECK(result.status == 2);
    CHECK(result.err.find(part) != std::string::npos);
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
  };
  refused({"--on-policy", "0.5"}, "--labels knows golden's own caches alone");
  refused({"--budget", "20"}, "was made with other options");
  refused({"--to", "90"}, "was made with other options");
  io::write_trace(folder / "trace.safetensors", random_layers({0, 1}, 100, 4));
  auto layers = random_layers({0, 1}, 100);
  layers[0].query[0] += 1.0f;
  io::write_trace(folder / "trace.safetensors", layers);
  refused({}, "was made from another trace");
}

TEST_CASE("train_judge: other trainings are drawn beside this one") {
  temporary_folder const folder;
  io::write_trace(folder / "trace", random_layers({0}, 100));
  auto const first = folder / "first <one>", second = folder / "second";
  REQUIRE(run(joined(small_training((folder / "trace").string()), {"--out", first.string()})).status == 0);
  REQUIRE(run(joined(small_training((folder / "trace").string()),
                     {"--on-policy", "0", "--compare", first.string(), "--out", second.string()}))
              .status == 0);
  for (auto const* name : {"page.html", "curves.svg"}) {
    auto const text = read_file(second / name);
    CHECK(text.find("first &lt;one>") != std::string::npos);
    CHECK(text.find("class=\"run1\"") != std::string::npos);
    CHECK(text.find("http://") == text.rfind("http://"));  // the name of the SVG format alone
    CHECK(text.find("src=") == std::string::npos);
  }
}

TEST_CASE("train_judge: rollouts out, a language model's losses in, and what pays becomes likelier") {
  temporary_folder const folder;
  io::write_trace(folder / "trace", random_layers({0, 2}, 100));
  std::vector<std::string> const regime{(folder / "trace").string(), "--budget", "16", "--interval", "4"};
  auto const first = (folder / "first").string();
  REQUIRE(run(joined(regime, {"--start", "random", "--deviation", "0.2", "--standardise", "no", "--steps", "1",
                              "--rounds", "1", "--lr", "0", "--out", first}))
              .status == 0);
  auto const start =
      joined(regime, {"--rollouts", "6", "--steps", "8", "--rounds", "1", "--schedule", "constant", "--lr", "0.03"});
  auto const drawn = [&](std::string const& weights, char const* seed, char const* name) {
    auto const out = folder / name;
    REQUIRE(run(joined(start, {"--weights", weights, "--seed", seed, "--out", out.string()})).status == 0);
    CHECK(contents(out).size() == 1);
    io::safetensors_file const file(out / "rollouts.safetensors");
    CHECK(file.metadata("format") == "foresightkv rollouts 1");
    return file.at("layer.2.evicted_positions").expect_shape({6, 20, 2, 4}).copy<std::int32_t>();
  };
  // The stand-in for a language model: it loses a token for each evicted position that is even.
  auto const bad_of = [](std::vector<std::int32_t> const& evicted, std::size_t rollout) {
    auto const each = static_cast<std::ptrdiff_t>(evicted.size() / 6);
    auto const own = evicted.begin() + each * static_cast<std::ptrdiff_t>(rollout);
    return std::count_if(own, own + each, [](std::int32_t position) { return position % 2 == 0; });
  };
  auto const judge = first + "/weights.safetensors";
  auto const before = drawn(judge, "3", "before");
  std::vector<float> full(220, 1.0f), entropy(220, 1.0f), evicted(6 * 220, 1.0f);
  for (std::size_t rollout = 0; rollout < 6; ++rollout)
    std::fill_n(evicted.begin() + static_cast<std::ptrdiff_t>(rollout * 220 + 20), bad_of(before, rollout), 4.0f);
  auto const write_losses = [&](bool with_entropy) {
    io::safetensors_writer file(folder / "losses");
    file.add("loss_full", {220}, full).add("loss_evicted", {6, 220}, evicted);
    if (with_entropy) file.add("entropy", {220}, entropy);
    file.save();
  };
  write_losses(true);
  auto const trained = [&](char const* name, std::string const& launcher) {
    auto const out = folder / name;
    auto const result = run(joined(start, {"--weights", judge, "--seed", "3", "--losses", (folder / "losses").string(),
                                           "--out", out.string()}),
                            launcher);
    INFO(result.err);
    REQUIRE(result.status == 0);
    return out;
  };
  auto const out = trained("trained", "");
  CHECK(contents(out).size() == 3);
  if (test::has_mpirun) CHECK(contents(trained("by two", test::mpirun(2))) == contents(out));
  auto const steps = lines_with(out, "loss");
  REQUIRE(steps.size() == 8);
  CHECK(steps[0]["kl"].get<double>() == doctest::Approx(0.0));
  CHECK(steps[7]["kl"].get<double>() > 0.0);
  CHECK(steps[7]["loss"].get<double>() < steps[0]["loss"].get<double>());

  std::ptrdiff_t less = 0;
  for (auto const* seed : {"4", "5", "6"}) {
    auto const name = std::string("again ") + seed;
    auto const old_judge = drawn(judge, seed, name.c_str());
    auto const new_judge = drawn((out / "weights.safetensors").string(), seed, (name + " trained").c_str());
    for (std::size_t rollout = 0; rollout < 6; ++rollout)
      less += bad_of(old_judge, rollout) - bad_of(new_judge, rollout);
  }
  CHECK(less > 0);

  auto const refused = [&](std::vector<std::string> const& arguments, std::string const& part) {
    auto const result = run(arguments);
    CAPTURE(result.err);
    CHECK(result.status == 2);
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
    CHECK(result.err.find(part) != std::string::npos);
  };
  auto const nowhere = (folder / "nowhere").string(), losses = (folder / "losses").string();
  refused(joined(start, {"--out", nowhere}), "needs --weights FILE");
  refused(joined(regime, {"--losses", losses, "--out", nowhere}), "needs --rollouts N");
  refused(joined(start, {"--weights", judge, "--losses", losses, "--out", first}), "refusing to replace the input");
  refused(joined(start, {"--weights", judge, "--losses", losses, "--rollouts", "5", "--out", nowhere}), "loss_evicted");
  write_losses(false);
  refused(joined(start, {"--weights", judge, "--losses", losses, "--out", nowhere}), "entropy");
  CHECK_FALSE(std::filesystem::exists(nowhere));
}

TEST_CASE("train_judge: input that cannot be trained on is one line, status 2, and no file") {
  temporary_folder const folder;
  auto const trace = (folder / "trace").string(), out = (folder / "out").string();
  io::write_trace(trace, random_layers({0, 1}, 100));
  auto const refused = [&](std::vector<std::string> const& arguments, std::string const& part,
                           std::string const& launcher = "") {
    auto const result = run(arguments, launcher);
    CAPTURE(part);
    CAPTURE(result.err);
    CHECK(result.status == 2);
    CHECK(result.out.empty());
    CHECK(result.err.starts_with("train_judge: "));
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
    CHECK(result.err.find(part) != std::string::npos);
    if (std::filesystem::exists(out)) CHECK(contents(out).empty());
  };
  std::vector<std::string> const start{"--budget", "16",       "--interval", "4",     "--steps",
                                       "4",        "--rounds", "1",          "--out", out};
  auto const with = [&](std::vector<std::string> const& more) { return joined(start, more); };

  refused(start, "which trace?");
  refused({trace}, "--out: which folder?");
  refused(with({trace, "--budget", "17"}), "--budget must be a multiple of the interval 4, is 17");
  refused(with({trace, "--from", "18"}), "--from must be at least budget + interval and a multiple of the interval");
  refused(with({trace, "--from", "12"}), "--from must be at least");
  refused(with({trace, "--on-policy", "1.5"}), "--on-policy must be a number between 0 and 1, is '1.5'");
  refused(with({trace, "--lr", "nan"}), "--lr must be a number");
  refused(with({trace, "--start", "golden"}), "--start must be one of random, window_sum, is 'golden'");
  refused(with({trace, "--rounds", "5"}), "--rounds must not be more than the 4 steps");
  refused(with({trace, "--layers", "7"}), "has no layer 7");
  refused(with({trace, "--to", "101"}), "lies behind the 100 tokens");
  refused(with({trace, "--held-out", "90"}), "are no multiple of the interval");
  refused(with({trace, "--held-out", "80"}), "nothing to train on: 20 tokens");
  refused(with({(folder / "nowhere").string()}), "cannot open");

  auto const spoilt = (folder / "spoilt").string();
  write_file(spoilt, read_file(trace).substr(0, 3000));
  refused(with({spoilt}), "spoilt");
  auto layers = random_layers({0, 1}, 100);
  layers[1].key[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_AS(io::write_trace(spoilt, layers), io::error);
  auto bytes = read_file(trace);
  float const nan = std::numeric_limits<float>::quiet_NaN();
  bytes.replace(bytes.size() - 40, sizeof nan, reinterpret_cast<char const*>(&nan), sizeof nan);
  write_file(spoilt, bytes);
  refused(with({trace, spoilt}), "holds NaN");
  io::write_trace(spoilt, random_layers({0, 1}, 100, 5));
  refused(with({trace, spoilt}), "spoilt: layer 0 has 2 KV heads of 2 query heads, head dims 8 and 5, expected");
  refused(with({trace, "--held-out-traces", spoilt}), "head dims 8 and 5");
  refused(with({trace, "--weights", example_judge}), "smollm2_135m_judge");
  auto const mixed = random_layers({0, 1}, 100);
  io::write_trace(spoilt, std::vector{mixed[0]});
  refused(with({trace, spoilt}), "has no layer 1");
  refused({trace, "--budget", "16", "--interval", "4", "--out", trace}, "trace");
  if (test::has_mpirun) {
    write_file(spoilt, bytes);
    refused(with({trace, spoilt}), "holds NaN", test::mpirun(2));
  }
}

TEST_CASE("train_judge: the help names every option") {
  auto const result = run({"--help"});
  CHECK(result.status == 0);
  CHECK(result.err.empty());
  for (auto const* option : {"--held-out-traces",
                             "--labels",
                             "--out",
                             "--weights",
                             "--compare",
                             "--budget",
                             "--interval",
                             "--recent",
                             "--layers",
                             "--from",
                             "--to",
                             "--held-out",
                             "--steps",
                             "--batch",
                             "--rounds",
                             "--on-policy",
                             "--start",
                             "--features",
                             "--inputs",
                             "--standardise",
                             "--deviation",
                             "--margin",
                             "--shifts",
                             "--lr",
                             "--schedule",
                             "--warm-up",
                             "--clip",
                             "--clip-scope",
                             "--seed",
                             "--threads",
                             "--measure-every",
                             "--checkpoint-every",
                             "--rollouts",
                             "--losses",
                             "--resume",
                             "--help"})
    CHECK_MESSAGE(result.out.find(option) != std::string::npos, option);
}
