// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <limits>
#include <string_view>

#include "policies.hpp"
#include "support/device.hpp"

namespace evict_trace {
namespace {

using namespace support;

void parse_policies(options& out, std::string_view list) {
  for (auto const name : split("--policies", list)) {
    if (find_policy(name) == nullptr) fail("--policies", "knows no policy " + quoted(name) + " (see --help)");
    out.policies.emplace_back(name);
  }
}

void parse_device(options& out, std::string_view name) {
  out.device = name == "cuda" ? device_choice::cuda : name == "host" ? device_choice::host : device_choice::automatic;
  if (std::string const problem = name == "cuda" ? cuda_problem() : ""; !problem.empty())
    fail("--device", "cuda: " + problem);
  if (name != "auto" && name != "host" && name != "cuda")
    fail("--device", "must be auto, host or cuda, is " + quoted(name));
}

void parse_layout(options& out, std::string_view name) {
  constexpr std::string_view paged = "paged:";
  bool const pages = name.starts_with(paged);
  if (!pages && name != "rows") fail("--layout", "must be rows or paged:N, is " + quoted(name));
  out.page_size = pages ? parse_number("--layout", name.substr(paged.size()), 1) : 0;
  if (out.page_size > 65536) fail("--layout", "a page has at most 65536 tokens");
}

void parse_layers(options& out, std::string_view list) {
  for (auto const layer : split("--layers", list)) out.layers.push_back(parse_number("--layers", layer, 0));
}

void parse_trace(options& out, std::string_view word) {
  if (!out.trace.empty()) throw input_error("one trace at a time: " + quoted(word) + " is one too many");
  if (word.empty()) throw input_error("the trace's name is empty");
  out.trace = word;
}

constexpr option_parser<options> parsers[] = {
    {"--budget", parse_count<&options::budget, 1>},
    {"--interval", parse_count<&options::interval, 1>},
    {"--recent", parse_count<&options::recent, 0>},
    {"--policies", [](options& out, std::string_view, std::string_view value) { parse_policies(out, value); }},
    {"--layers", [](options& out, std::string_view, std::string_view value) { parse_layers(out, value); }},
    {"--from", parse_count<&options::from, 0>},
    {"--to", parse_count<&options::to, 1>},
    {"--weights", parse_path<&options::weights>},
    {"--device", [](options& out, std::string_view, std::string_view value) { parse_device(out, value); }},
    {"--layout", [](options& out, std::string_view, std::string_view value) { parse_layout(out, value); }},
    {"--seed", [](options& out, std::string_view option,
                  std::string_view value) { out.seed = parse_number<std::uint64_t>(option, value, 0); }},
    {"--threads", parse_threads<&options::threads>},
    {"--json", parse_path<&options::json>},
    {"--html", parse_path<&options::html>},
};

void check(options const& chosen) {
  if (chosen.trace.empty()) throw input_error("which trace? (see --help)");
  if (chosen.budget % chosen.interval != 0)
    fail("--budget", "must be a multiple of the interval " + std::to_string(chosen.interval) + ", is " +
                         std::to_string(chosen.budget));
  if (chosen.budget > std::numeric_limits<int>::max() - chosen.interval)
    fail("--budget", "is too large: " + std::to_string(chosen.budget));
  if (chosen.recent.value_or(0) > chosen.budget)
    fail("--recent", "must not be larger than the budget " + std::to_string(chosen.budget) + ", is " +
                         std::to_string(*chosen.recent));
  for (auto const* output : {&chosen.json, &chosen.html})
    for (auto const* input : {&chosen.trace, &chosen.weights})
      if (!output->empty() && !input->empty() && same_file(*output, *input))
        throw input_error("refusing to replace the input " + input->string());
  if (!chosen.json.empty() && !chosen.html.empty() && same_file(chosen.json, chosen.html))
    throw input_error("--json and --html name the same file");
}

}  // namespace

options parse_options(std::span<char const* const> arguments) {
  options chosen;
  chosen.help = parse_arguments<options>(arguments, parsers, chosen, parse_trace);
  if (chosen.help) return chosen;
  check(chosen);
  return chosen;
}

std::string help_text() {
  std::string text = R"(evict_trace: what does each KV-cache eviction policy lose on recorded attention?

usage: evict_trace TRACE [options]

TRACE is a safetensors file with layer.{i}.query [heads, T, D], layer.{i}.key and layer.{i}.value [kv_heads, T, D],
queries and keys after RoPE. For each layer and KV head the first budget + interval tokens are cached; then, again and
again, the policy evicts `interval` tokens and the next `interval` tokens arrive. Each query's attention over what is
left is compared with its attention over the full cache.

  --budget N       tokens that a row keeps, a multiple of the interval        (default 256)
  --interval N     tokens between two evictions, and evicted by each          (default 64)
  --recent N       newest tokens that are never evicted                       (default: the interval)
  --policies A,B   policies to replay, in this order                          (default: all)
  --layers 0,7     layers to replay                                           (default: all that were recorded)
  --from N         keys before N are the prompt: no eviction before its end   (default: budget + interval)
  --to N           replay the first N tokens only                             (default: the whole trace)
  --weights FILE   judge weights (safetensors), for the policy foresight
  --device D       auto, host or cuda                                         (default auto)
  --layout L       of the cache: rows, or pages of N tokens (paged:N)         (default rows)
  --seed N         of the policy random                                       (default 0)
  --threads N      threads to evict and to measure with                       (default: one to evict, all to measure)
  --json FILE      write the measures
  --html FILE      write a page with curves over budgets and maps of what was kept
  --help           this text

measures, over all queries after the first eviction:
  attention recall   share of the full cache's attention that falls on tokens still cached; 1 is best
  output error       ||o - o_full|| / ||o_full|| of the attention outputs o; 0 is best
  golden overlap     share of the evicted tokens that Golden Eviction would have evicted from the same cache
  cache              largest size of one layer's keys and values (fp32, as replayed; whole pages)
  moved              bytes of keys, values and state that one eviction moves in one layer
  time               median of one eviction in one layer, from observing to compacting

policies, and what they keep:
)";
  for (auto const& policy : all_policies())
    text += "  " + std::string(policy.name) + std::string(19 - policy.name.size(), ' ') + std::string(policy.summary) +
            "\n";
  return text + "\nExit status: 0, or 2 with one line on standard error if the input cannot be replayed.\n";
}

}  // namespace evict_trace
