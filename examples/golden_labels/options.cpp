// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <algorithm>
#include <charconv>
#include <foresightkv/io/label_shard.hpp>
#include <iterator>
#include <limits>
#include <string_view>
#include <system_error>

namespace golden_labels {
namespace {

using namespace support;
namespace io = foresightkv::io;

void add_trace(options& out, std::string_view word) {
  if (word.empty()) throw input_error("a trace's name is empty");
  out.traces.emplace_back(word);
}

template <auto Member>
void parse_config(options& out, std::string_view option, std::string_view value) {
  out.config.*Member = parse_number(option, value, 1);
}

template <auto Member, auto const& Names>
void parse_name(options& out, std::string_view option, std::string_view value) {
  auto const place = std::ranges::find(Names, value);
  if (place == std::end(Names)) {
    std::string known;
    for (auto const name : Names) known += (known.empty() ? "" : ", ") + std::string(name);
    fail(option, "must be one of " + known + ", is " + quoted(value));
  }
  auto& member = out.config.*Member;
  member = static_cast<std::remove_reference_t<decltype(member)>>(place - std::begin(Names));
}

void parse_discount(options& out, std::string_view option, std::string_view value) {
  auto const* const last = value.data() + value.size();
  auto const [end, problem] = std::from_chars(value.data(), last, out.config.discount);
  if (problem != std::errc() || end != last || !(out.config.discount >= 0.0f && out.config.discount <= 1.0f))
    fail(option, "must be a number between 0 and 1, is " + quoted(value));
}

void parse_layers(options& out, std::string_view option, std::string_view list) {
  for (auto const layer : split(option, list)) out.layers.push_back(parse_number(option, layer, 0));
  std::ranges::sort(out.layers);
  auto const twice = std::ranges::unique(out.layers);
  out.layers.erase(twice.begin(), twice.end());
}

constexpr option_parser<options> parsers[] = {
    {"--out", parse_path<&options::out>},
    {"--budget", parse_config<&fkv::golden_config::budget>},
    {"--interval", parse_config<&fkv::golden_config::interval>},
    {"--future", parse_name<&fkv::golden_config::future, io::golden_future_names>},
    {"--discount", parse_discount},
    {"--reduction", parse_name<&fkv::golden_config::reduction, io::golden_reduction_names>},
    {"--rules", parse_name<&fkv::golden_config::rules, io::golden_rules_names>},
    {"--layers", parse_layers},
    {"--to", parse_count<&options::to, 1>},
    {"--threads", parse_threads<&options::threads>},
    {.name = "--force",
     .parse = [](options& out, std::string_view, std::string_view) { out.force = true; },
     .takes_value = false},
};

void check(options const& chosen) {
  auto const& config = chosen.config;
  if (chosen.traces.empty()) throw input_error("which trace? (see --help)");
  if (chosen.out.empty()) throw input_error("--out: which folder? (see --help)");
  if (config.interval > config.budget)
    fail("--interval", "must not be larger than the budget " + std::to_string(config.budget) + ", is " +
                           std::to_string(config.interval));
  if (!config.aligned())
    fail("--budget", "must be a multiple of the interval " + std::to_string(config.interval) + ", is " +
                         std::to_string(config.budget));
  if (config.budget > std::numeric_limits<int>::max() - config.interval)
    fail("--budget", "is too large: " + std::to_string(config.budget));
}

}  // namespace

options parse_options(std::span<char const* const> arguments) {
  options chosen;
  chosen.help = parse_arguments<options>(arguments, parsers, chosen, add_trace);
  if (!chosen.help) check(chosen);
  return chosen;
}

std::string help_text() {
  return R"(golden_labels: what would Golden Eviction evict from recorded attention, and how much is each token still worth?

usage: golden_labels TRACE... --out FOLDER [options]
       mpirun -n 4 golden_labels TRACE... --out FOLDER [options]

TRACE is a safetensors file as evict_trace takes it. For each trace and layer, FOLDER gets one file of labels,
TRACE.layer{i}.labels.safetensors, with

  labels   F32 [steps, kv_heads, budget]     future score of each candidate: higher = keep
  evicted  I32 [steps, kv_heads, interval]   indices among the candidates, ascending

Files appear whole. A run that was killed goes on where it was: files that are there are kept. The same files come out
whatever the number of processes and threads.

  --out FOLDER     where to; made if it is not there, and shared by all processes
  --budget N       tokens that an eviction keeps beside the newest, a multiple of the interval   (default 256)
  --interval N     tokens between two evictions, and evicted by each                             (default 64)
  --future F       of the attention that is still to come take the maximum, the sum, the mean
                   or the discounted sum                                                         (default maximum)
  --discount X     of --future discounted, 0 to 1                                                (default 0.9)
  --reduction R    over the query heads of a KV head: mean or maximum                            (default mean)
  --rules R        exact, or published: the rules of the paper's code                            (default exact)
  --layers 0,7     layers to label                                                               (default: all)
  --to N           look at the first N tokens only                                               (default: all)
  --threads N      threads of each process                                                       (default: all)
  --force          replace labels that are there already, of this or of another kind
  --help           this text

Exit status: 0, or 2 with one line on standard error if the input cannot be labelled.
)";
}

}  // namespace golden_labels
