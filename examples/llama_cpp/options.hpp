// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policies.hpp"
#include "support/command_line.hpp"

namespace llama_cpp {

inline constexpr char const* usage =
    "llama_evict MODEL.gguf read FILE [options]      a text's loss, beside that of a context that holds all of it\n"
    "llama_evict MODEL.gguf write PROMPT [options]   a text that goes on from a prompt\n"
    "  --policy NAME    window_sum (default), h2o, h2o_per_query, tova, snap_kv, r_kv, key_diff, key_norm,\n"
    "                   streaming_llm, random, foresight; to read with: several, separated by commas, or all\n"
    "  --judge FILE     what foresight scores by, of the same model, trained on traces of transformers\n"
    "  --n-ctx N        cells of the context (512)\n"
    "  --budget N       tokens that an eviction leaves (384)\n"
    "  --interval N     tokens between two evictions (128)\n"
    "  --sinks N        first tokens that always stay (4)\n"
    "  --over mean|max  of the scores of all layers and KV heads, by which a token stays (mean)\n"
    "  --tokens N       tokens to read, or to write (4000)\n"
    "  --threads N      (1)\n"
    "  --seed N         of what is drawn: the next token, the policy random (1)\n"
    "  --               ends the options: what follows may begin with -";

struct options {
  std::string model, command, text, judge;
  bool all_policies = false;
  std::vector<policy_entry const*> policies;
  eviction_settings settings;
  int n_ctx = 512, budget = 384, interval = 128, sinks = 4, tokens = 4000, threads = 1, seed = 1;

  /// To read: the first token that is predicted from a cache that was cut.
  [[nodiscard]] std::int64_t first_counted() const { return std::int64_t{budget} + interval + 1; }
};

inline policy_entry const* find_policy(std::string_view option, std::string_view name) {
  auto const found = std::ranges::find(all_policies(), name, &policy_entry::name);
  if (found == all_policies().end()) support::fail(option, "knows no " + support::quoted(name) + " (see --help)");
  return &*found;
}

inline void parse_policies(options& out, std::string_view option, std::string_view list) {
  out.policies.clear();
  out.all_policies = list == "all";
  if (!out.all_policies)
    for (std::string_view name : support::split(option, list)) out.policies.push_back(find_policy(option, name));
}

inline void parse_over(options& out, std::string_view option, std::string_view value) {
  if (value != "mean" && value != "max") support::fail(option, "must be mean or max");
  out.settings.over = value == "max" ? agreement::max : agreement::mean;
}

inline constexpr support::option_parser<options> parsers[] = {
    {"--policy", parse_policies},
    {"--judge", support::parse_path<&options::judge>},
    {"--over", parse_over},
    {"--n-ctx", support::parse_count<&options::n_ctx, 1>},
    {"--budget", support::parse_count<&options::budget, 1>},
    {"--interval", support::parse_count<&options::interval, 1>},
    {"--sinks", support::parse_count<&options::sinks, 0>},
    {"--tokens", support::parse_count<&options::tokens, 2>},
    {"--threads", support::parse_threads<&options::threads>},
    {"--seed", support::parse_count<&options::seed, 0>},
};

inline void place_word(options& out, std::string_view word) {
  for (std::string* place : {&out.model, &out.command, &out.text})
    if (place->empty()) return void(*place = word);
  throw support::input_error("too many words: " + support::quoted(word) + " (see --help)");
}

inline void choose_policies(options& given) {
  if (given.all_policies)
    for (policy_entry const& each : all_policies())
      if (!each.needs_judge || !given.judge.empty()) given.policies.push_back(&each);
  if (given.policies.empty()) given.policies.push_back(find_policy("--policy", "window_sum"));
  if (given.command == "write" && given.policies.size() != 1) support::fail("--policy", "must be one to write with");
}

inline void check_sizes(options const& given) {
  if (given.interval > given.n_ctx - given.budget)  // their sum may be no int
    support::fail("--n-ctx", "must hold budget + interval tokens");
  for (policy_entry const* policy : given.policies) {
    if (policy->needs_judge && given.judge.empty()) support::fail("--judge", "must name the judge of foresight");
    if (!policy->config(given.settings).valid())
      support::fail("--budget", "must have room for the interval, the sinks and what " + std::string(policy->name) +
                                    " keeps beside them");
  }
  if (given.command == "read" && given.tokens <= given.first_counted())
    support::fail("--tokens", "must be more than " + std::to_string(given.first_counted()));
}

/// \return whether the usage was asked for
[[nodiscard]] inline bool parse(std::span<char const* const> arguments, options& out) {
  if (support::parse_arguments<options>(arguments, parsers, out, place_word)) return true;
  if (out.text.empty() || (out.command != "read" && out.command != "write"))
    throw support::input_error("a model, read or write, and a text are needed (see --help)");
  choose_policies(out);
  out.settings.config = {.budget = out.budget, .interval = out.interval, .sink_tokens = out.sinks};
  out.settings.threads = out.threads;
  out.settings.seed = static_cast<std::uint64_t>(out.seed);
  check_sizes(out);
  return false;
}

}  // namespace llama_cpp
