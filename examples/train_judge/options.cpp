// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <algorithm>
#include <charconv>
#include <foresightkv/training/replay_config.hpp>
#include <iterator>
#include <limits>
#include <string_view>
#include <system_error>
#include <type_traits>

namespace train_judge {
namespace {

using namespace support;
namespace training = fkv::training;

constexpr std::string_view start_names[] = {"random", "window_sum"};
constexpr std::string_view feature_names[] = {"paper", "reference_checkpoint"};
constexpr std::string_view schedule_names[] = {"warm_up_cosine", "constant", "published_supervised", "published_rl"};
constexpr std::string_view scope_names[] = {"layer", "joint"};
constexpr std::string_view input_names[] = {"all", "statistics"};
constexpr std::string_view answers[] = {"no", "yes"};

void add_trace(options& out, std::string_view word) {
  if (word.empty()) throw input_error("a trace's name is empty");
  out.traces.emplace_back(word);
}

template <auto Member>
void parse_paths(options& out, std::string_view option, std::string_view list) {
  for (auto const part : split(option, list)) (out.*Member).emplace_back(part);
}

template <auto Member, int Least>
void parse_counts(options& out, std::string_view option, std::string_view list) {
  for (auto const part : split(option, list)) (out.*Member).push_back(parse_number(option, part, Least));
  std::ranges::sort(out.*Member);
}

template <auto Member, auto const& Names>
void parse_name(options& out, std::string_view option, std::string_view value) {
  auto const place = std::ranges::find(Names, value);
  if (place == std::end(Names)) {
    std::string known;
    for (auto const name : Names) known += (known.empty() ? "" : ", ") + std::string(name);
    fail(option, "must be one of " + known + ", is " + quoted(value));
  }
  auto& member = out.*Member;
  member = static_cast<std::remove_reference_t<decltype(member)>>(place - std::begin(Names));
}

/// A number between 0 and `Most`.
template <auto Member, int Most>
void parse_real(options& out, std::string_view option, std::string_view text) {
  double value = 0.0;
  auto const* const last = text.data() + text.size();
  auto const [end, problem] = std::from_chars(text.data(), last, value);
  if (problem != std::errc() || end != last || !(value >= 0.0 && value <= Most))
    fail(option, "must be a number between 0 and " + std::to_string(Most) + ", is " + quoted(text));
  out.*Member = value;
}

constexpr option_parser<options> parsers[] = {
    {"--held-out-traces", parse_paths<&options::held_out_traces>},
    {"--labels", parse_path<&options::labels>},
    {"--out", parse_path<&options::out>},
    {"--weights", parse_path<&options::weights>},
    {"--compare", parse_paths<&options::compare>},
    {"--budget", parse_count<&options::budget, 1>},
    {"--interval", parse_count<&options::interval, 1>},
    {"--recent", parse_count<&options::recent, 0>},
    {"--layers", parse_counts<&options::layers, 0>},
    {"--from", parse_counts<&options::from, 1>},
    {"--to", parse_count<&options::to, 1>},
    {"--held-out", parse_count<&options::held_out, 0>},
    {"--rollouts", parse_count<&options::rollouts, 2>},
    {"--losses", parse_path<&options::losses>},
    {"--steps", parse_count<&options::steps, 1>},
    {"--batch", parse_count<&options::batch, 1>},
    {"--rounds", parse_count<&options::rounds, 1>},
    {"--on-policy", parse_real<&options::on_policy, 1>},
    {"--start", parse_name<&options::start, start_names>},
    {"--features", parse_name<&options::features, feature_names>},
    {"--inputs", parse_name<&options::statistics_only, input_names>},
    {"--standardise", parse_name<&options::standardise, answers>},
    {"--deviation", parse_real<&options::deviation, 100>},
    {"--margin", parse_real<&options::margin, 1000000>},
    {"--shifts", parse_count<&options::shifts, 0>},
    {"--lr", parse_real<&options::rate, 1000>},
    {"--schedule", parse_name<&options::schedule, schedule_names>},
    {"--warm-up", parse_count<&options::warm_up, 0>},
    {"--clip", parse_real<&options::clip, 1000000>},
    {"--clip-scope", parse_name<&options::clip_scope, scope_names>},
    {"--seed", [](options& out, std::string_view option,
                  std::string_view value) { out.seed = parse_number<std::uint64_t>(option, value, 0); }},
    {"--threads", parse_threads<&options::threads>},
    {"--measure-every", parse_count<&options::measure_every, 1>},
    {"--checkpoint-every", parse_count<&options::checkpoint_every, 1>},
    {.name = "--resume",
     .parse = [](options& out, std::string_view, std::string_view) { out.resume = true; },
     .takes_value = false},
};

void check_regime(options const& chosen) {
  if (chosen.budget % chosen.interval != 0)
    fail("--budget", "must be a multiple of the interval " + std::to_string(chosen.interval) + ", is " +
                         std::to_string(chosen.budget));
  if (chosen.budget > 0x3fffffff) fail("--budget", "is too large: " + std::to_string(chosen.budget));
  if (chosen.recent.value_or(0) > chosen.budget)
    fail("--recent", "must not be larger than the budget " + std::to_string(chosen.budget) + ", is " +
                         std::to_string(*chosen.recent));
  for (int const from : chosen.from)
    if (!training::replay_config{chosen.eviction(), from}.valid())
      fail("--from", "must be at least budget + interval and a multiple of the interval, is " + std::to_string(from));
}

void check_rollouts(options const& chosen) {
  if (chosen.rollouts == 0) {
    if (!chosen.losses.empty()) fail("--losses", "are losses of rollouts: needs --rollouts N");
    return;
  }
  if (chosen.weights.empty()) fail("--rollouts", "are drawn by judges that exist: needs --weights FILE");
  if (chosen.traces.size() != 1 || !chosen.from.empty() || !chosen.labels.empty() || chosen.resume)
    fail("--rollouts", "takes one trace, and no --from, --labels or --resume");
}

void check(options& chosen) {
  if (chosen.traces.empty()) throw input_error("which trace? (see --help)");
  if (chosen.out.empty()) throw input_error("--out: which folder? (see --help)");
  check_regime(chosen);
  if (chosen.rounds == 0) chosen.rounds = std::min(5, chosen.steps);
  if (chosen.rounds > chosen.steps)
    fail("--rounds",
         "must not be more than the " + std::to_string(chosen.steps) + " steps, is " + std::to_string(chosen.rounds));
  if (!(chosen.clip > 0.0)) fail("--clip", "must be above 0");
  check_rollouts(chosen);
  if (!chosen.labels.empty() && (chosen.on_policy > 0.0 || !chosen.from.empty()))
    fail("--labels", "knows golden's own caches alone: give --on-policy 0 and no --from, or leave it away");
}

template <class Names, class Value>
std::string name_of(Names const& names, Value value) {
  return std::string(names[static_cast<int>(value)]);
}

std::string real_text(double value) {
  char text[40];
  return {text, std::to_chars(text, std::end(text), value).ptr};
}

}  // namespace

std::string options::identity() const {
  std::string text;
  auto const add = [&](char const* name, std::string const& value) { text += std::string(name) + " " + value + "\n"; };
  auto const list = [](std::vector<int> const& numbers) {
    std::string joined;
    for (int const number : numbers) joined += (joined.empty() ? "" : ",") + std::to_string(number);
    return joined;
  };
  add("budget", std::to_string(budget));
  add("interval", std::to_string(interval));
  add("recent", std::to_string(recent.value_or(interval)));
  add("from", list(from));
  add("held-out", std::to_string(held_out));
  add("steps", std::to_string(steps));
  add("batch", std::to_string(batch));
  add("rounds", std::to_string(rounds));
  add("on-policy", real_text(on_policy));
  add("start", name_of(start_names, start));
  add("features", name_of(feature_names, features));
  add("inputs", name_of(input_names, statistics_only));
  add("standardise", name_of(answers, standardise));
  add("deviation", real_text(deviation));
  add("margin", real_text(margin));
  add("shifts", std::to_string(shifts));
  add("lr", real_text(rate));
  add("schedule", name_of(schedule_names, schedule));
  add("warm-up", std::to_string(warm_up));
  add("clip", real_text(clip));
  add("clip-scope", name_of(scope_names, clip_scope));
  add("seed", std::to_string(seed));
  add("measure-every", std::to_string(measure_every));
  return text;
}

options parse_options(std::span<char const* const> arguments) {
  options chosen;
  chosen.help = parse_arguments<options>(arguments, parsers, chosen, add_trace);
  if (!chosen.help) check(chosen);
  return chosen;
}

std::string help_text() {
  return R"(train_judge: trains ForesightKV's judges on recorded attention.

usage: train_judge TRACE... --out FOLDER [options]
       mpirun -n 4 train_judge TRACE... --out FOLDER [options]

TRACE is a safetensors file as evict_trace takes it. Each trace is replayed as evict_trace replays it; before each
eviction the judge is taught to rank the candidates as Golden Eviction does. FOLDER gets

  weights.safetensors      the judges, under their published names: for evict_trace --weights
  metrics.jsonl            one line a step: loss, learning rate, gradient norm, clip rate; and what was lost on held-out
                           tokens: output error and attention recall, as evict_trace measures them
  page.html                the curves; curves.svg is its picture
  checkpoint.safetensors   where --resume goes on, bit for bit

Files appear whole. The same files come out whatever the number of processes and threads.

what to train on
  --layers 0,7          layers whose judges to train                               (default: all that were recorded)
  --to N                look at the first N tokens of each trace only              (default: all)
  --held-out N          of these, the last N are for measuring alone, a multiple of the interval      (default 0)
  --held-out-traces A,B traces that are for measuring alone
  --from N,M            replay once for each: keys before N are the prompt, cut at its end
                                                                                   (default: budget + interval)
  --labels FOLDER       of golden_labels, in place of finding out what golden does; with --on-policy 0
  --budget N, --interval N, --recent N   as for evict_trace                        (default 256, 64, the interval)
  --features F          paper, or reference_checkpoint: what the published training code computes     (default paper)

how
  --steps N             optimiser steps                                            (default 1000)
  --batch N             evictions in each, of every layer                          (default 32)
  --on-policy X         share of them that the judge in training brought about, 0 to 1; the others are golden's
                                                                                   (default 0.75)
  --rounds N            how often the judge in training is replayed anew           (default 5, or every step)
  --start S             random, or window_sum: begin at that policy                (default window_sum)
  --deviation X         of the random weights                                      (default 0.02)
  --weights FILE        judges to begin with instead
  --inputs I            all, or statistics: the judge looks at no key and value        (default all)
  --standardise yes|no  train on standardised inputs, folded into the weights      (default yes)
  --margin X            of the ranking hinge                                       (default 0.01)
  --shifts N            compare the pairs of N random shifts only; 0: all pairs    (default 0)
  --lr X, --warm-up N   highest learning rate, and the steps that it takes to it   (default 0.01, 10)
  --schedule S          warm_up_cosine, constant, published_supervised or published_rl    (default warm_up_cosine)
  --clip X              largest gradient norm                                      (default 1)
  --clip-scope S        of each layer, or joint: of all                            (default layer)
  --seed N              of all draws                                               (default 0)

reinforcement: in two runs with a language model between them
  --rollouts N          write rollouts.safetensors: N samples of what the judges of --weights evict
  --losses FILE         take --steps of GRPO over the same rollouts. FILE (safetensors) has the language model's losses
                        [tokens], loss_full and loss_evicted [rollouts, tokens], and its entropy

  --resume              go on from the checkpoint in FOLDER, if there is one
  --checkpoint-every N  steps between two checkpoints                              (default 100)
  --measure-every N     steps between two measurements                             (default 100)
  --compare A,B         folders of other trainings, whose curves to draw too
  --threads N           threads of each process                                    (default: all)
  --help                this text

Exit status: 0, or 2 with one line on standard error if the input cannot be trained on.
)";
}

}  // namespace train_judge
