// SPDX-License-Identifier: Apache-2.0
// Reads and writes texts many times as long as the context of an unpatched libllama, by freeing its cells one by one.
// Every number that it prints is measured while it runs.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "evicting_context.hpp"
#include "language_model.hpp"
#include "policies.hpp"
#include "support/command_line.hpp"
#include "support/program.hpp"

namespace {

using namespace llama_cpp;

constexpr char const* usage =
    "llama_evict MODEL.gguf read FILE [options]      the loss of a text, beside that of a context that holds all of "
    "it\n"
    "llama_evict MODEL.gguf write PROMPT [options]   a text that goes on from a prompt\n"
    "  --policy NAME    window_sum (default), h2o, h2o_per_query, tova, snap_kv, r_kv, key_diff, key_norm,\n"
    "                   streaming_llm, random; read: several, separated by commas, or all\n"
    "  --n-ctx N        cells of the context (512)\n"
    "  --budget N       tokens that an eviction leaves (384)\n"
    "  --interval N     tokens between two evictions (128)\n"
    "  --sinks N        first tokens that always stay (4)\n"
    "  --over mean|max  of the scores of all layers and KV heads, by which a token stays (mean)\n"
    "  --tokens N       tokens to read, or to write (4000)\n"
    "  --threads N      (1)\n"
    "  --seed N         of what is drawn: the next token, the policy random (1)";

struct options {
  std::string model, command, text;
  std::vector<policy_entry const*> policies;
  eviction_settings settings;
  int n_ctx = 512, budget = 384, interval = 128, sinks = 4, tokens = 4000, threads = 1, seed = 1;
};

policy_entry const* find_policy(std::string_view option, std::string_view name) {
  auto const found = std::ranges::find(all_policies(), name, &policy_entry::name);
  if (found == all_policies().end()) support::fail(option, "names " + support::quoted(name) + ", which is none");
  return &*found;
}

void parse_policies(options& out, std::string_view option, std::string_view list) {
  out.policies.clear();
  if (list == "all")
    for (policy_entry const& each : all_policies()) out.policies.push_back(&each);
  else
    for (std::string_view name : support::split(option, list)) out.policies.push_back(find_policy(option, name));
}

void parse_over(options& out, std::string_view option, std::string_view value) {
  if (value != "mean" && value != "max") support::fail(option, "must be mean or max");
  out.settings.over = value == "max" ? agreement::max : agreement::mean;
}

constexpr support::option_parser<options> parsers[] = {
    {"--policy", parse_policies},
    {"--over", parse_over},
    {"--n-ctx", support::parse_count<&options::n_ctx, 1>},
    {"--budget", support::parse_count<&options::budget, 1>},
    {"--interval", support::parse_count<&options::interval, 1>},
    {"--sinks", support::parse_count<&options::sinks, 0>},
    {"--tokens", support::parse_count<&options::tokens, 2>},
    {"--threads", support::parse_threads<&options::threads>},
    {"--seed", support::parse_count<&options::seed, 0>},
};

void place_word(options& out, std::string_view word) {
  for (std::string* place : {&out.model, &out.command, &out.text})
    if (place->empty()) return void(*place = word);
  throw support::input_error("too many words: " + support::quoted(word) + " (see --help)");
}

void check(options& given) {
  if (given.text.empty() || (given.command != "read" && given.command != "write"))
    throw support::input_error("a model, read or write, and a text are needed (see --help)");
  if (given.policies.empty()) given.policies.push_back(find_policy("--policy", "window_sum"));
  if (given.command == "write" && given.policies.size() != 1) support::fail("--policy", "must be one to write with");
  given.settings.config = {.budget = given.budget, .interval = given.interval, .sink_tokens = given.sinks};
  given.settings.threads = given.threads;
  given.settings.seed = static_cast<std::uint64_t>(given.seed);
  for (policy_entry const* policy : given.policies)
    if (!policy->config(given.settings).valid())
      support::fail("--budget", "must have room for the interval, the sinks and what " + std::string(policy->name) +
                                    " keeps beside them");
  if (given.budget + given.interval > given.n_ctx) support::fail("--n-ctx", "must hold budget + interval tokens");
}

std::string read_file(std::string const& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw support::input_error(path + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

struct reading {
  double loss = 0.0;  // mean over the tokens that were read after the first eviction
  context_counters counters;
};

/// Reads the text; counts losses of tokens from `first` on.
reading read_text(language_model const& model, std::span<llama_token const> text, int first, int n_ctx,
                  policy_entry const* policy, eviction_settings const& settings) {
  evicting_context context(model, n_ctx, policy, settings);
  double total = 0.0;
  auto const size = static_cast<int>(text.size());
  for (int done = 0, count = 0; done < size; done += count) {
    count = std::min(context.room(), size - done);
    context.decode(text.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(count)));
    for (int i = 0; i < count; ++i)
      if (int const next = done + i + 1; next >= first && next < size)
        total += model.loss(context.logits(i), text[static_cast<std::size_t>(next)]);
  }
  return {total / (size - first), context.counters()};
}

void print_row(std::string_view name, reading const& row, reading const& full, int n_ctx) {
  double const tokens = row.counters.tokens;
  std::printf("%-14.*s %7.4f %7.4f %10d %11d %6d %9.2f %9.3f\n", static_cast<int>(name.size()), name.data(), row.loss,
              row.loss / full.loss, row.counters.evictions, row.counters.most_cells, n_ctx,
              1e3 * row.counters.seconds / tokens, 1e3 * row.counters.eviction_seconds / tokens);
  std::fflush(stdout);
}

void read_command(language_model const& model, options const& given) {
  auto text = model.tokens(read_file(given.text));
  int const first = given.budget + given.interval + 1;  // the first token that is predicted from a cache that was cut
  if (static_cast<int>(text.size()) < given.tokens)
    throw support::input_error(given.text + ": has " + std::to_string(text.size()) + " tokens, --tokens asks for " +
                               std::to_string(given.tokens));
  if (given.tokens <= first) support::fail("--tokens", "must be more than " + std::to_string(first));
  text.resize(static_cast<std::size_t>(given.tokens));
  std::printf("%s, %d tokens; budget %d, interval %d, %d sinks; -ln p of tokens %d to %d\n\n",
              std::filesystem::path(given.text).filename().c_str(), given.tokens, given.budget, given.interval,
              given.sinks, first, given.tokens - 1);
  std::puts("policy            loss  / full  evictions  most cells  n_ctx  ms/token  evicting");
  reading const full = read_text(model, text, first, given.tokens, nullptr, given.settings);
  print_row("full", full, full, given.tokens);
  for (policy_entry const* policy : given.policies)
    print_row(policy->name, read_text(model, text, first, given.n_ctx, policy, given.settings), full, given.n_ctx);
}

void write_command(language_model const& model, options const& given) {
  evicting_context context(model, given.n_ctx, given.policies.front(), given.settings);
  token_sampler sampler(model, static_cast<std::uint32_t>(given.seed));
  auto const prompt = model.tokens(given.text);
  for (std::size_t done = 0, count = 0; done < prompt.size(); done += count) {
    count = std::min(static_cast<std::size_t>(context.room()), prompt.size() - done);
    context.decode(std::span(prompt).subspan(done, count));
  }
  std::printf("%s", given.text.c_str());
  for (int i = 0; i < given.tokens; ++i) {
    llama_token const next = sampler.next(context.get());
    std::printf("%s", model.text(next).c_str());
    std::fflush(stdout);
    context.decode({&next, 1});
  }
  context_counters const& counted = context.counters();
  std::printf("\n\n%d tokens, at most %d of %d cells in use, %d evictions; %.2f ms/token, %.3f of it evicting\n",
              counted.tokens, counted.most_cells, context.n_ctx(), counted.evictions,
              1e3 * counted.seconds / counted.tokens, 1e3 * counted.eviction_seconds / counted.tokens);
}

void run(std::span<char const* const> arguments) {
  options given;
  if (support::parse_arguments<options>(arguments, parsers, given, place_word)) return void(std::puts(usage));
  check(given);
  language_model const model(given.model);
  given.command == "read" ? read_command(model, given) : write_command(model, given);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<char const*> const arguments(argv + 1, argv + argc);
  return support::run_program("llama_evict", [&] { run(arguments); });
}
