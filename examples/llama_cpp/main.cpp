// SPDX-License-Identifier: Apache-2.0
// Reads and writes texts many times as long as the context of an unpatched libllama, by freeing its cells one by one.
// Every number that it prints is measured while it runs.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "evicting_context.hpp"
#include "judge.hpp"
#include "language_model.hpp"
#include "options.hpp"
#include "support/command_line.hpp"
#include "support/program.hpp"

namespace {

using namespace llama_cpp;

std::string read_file(std::string const& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text;
  for (char part[1 << 16]; file.read(part, sizeof part), file.gcount() > 0;)
    text.append(part, static_cast<std::size_t>(file.gcount()));
  if (!file.is_open() || file.bad()) throw support::input_error(path + ": cannot be read");  // bad: a folder
  return text;
}

/// Beside what is printed, as it is no error: some models go on well.
void warn_beyond_training(language_model const& model, std::size_t tokens) {
  auto const sentence = model.beyond_training(static_cast<std::int64_t>(tokens));
  if (!sentence.empty()) std::fprintf(stderr, "llama_evict: %s\n", sentence.c_str());
}

struct reading {
  double loss = 0.0;  // mean over the tokens that were read after the first eviction
  int n_ctx = 0;
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
  return {total / (size - first), context.n_ctx(), context.counters()};
}

void print_row(std::string_view name, reading const& row, reading const& full) {
  double const tokens = row.counters.tokens;
  std::printf("%-14.*s %7.4f %7.4f %10d %11d %6d %9.2f %9.3f\n", static_cast<int>(name.size()), name.data(), row.loss,
              row.loss / full.loss, row.counters.evictions, row.counters.most_cells, row.n_ctx,
              1e3 * row.counters.seconds / tokens, 1e3 * row.counters.eviction_seconds / tokens);
  std::fflush(stdout);
}

void read_command(language_model const& model, options const& given) {
  auto text = model.tokens(read_file(given.text), given.text);
  auto const first = static_cast<int>(given.first_counted());
  if (text.size() < static_cast<std::size_t>(given.tokens))
    throw support::input_error(given.text + ": has " + std::to_string(text.size()) + " tokens, --tokens asks for " +
                               std::to_string(given.tokens));
  text.resize(static_cast<std::size_t>(given.tokens));
  warn_beyond_training(model, text.size());
  std::printf("%s, %d tokens; budget %d, interval %d, %d sinks; -ln p of tokens %d to %d\n\n",
              std::filesystem::path(given.text).filename().c_str(), given.tokens, given.budget, given.interval,
              given.sinks, first, given.tokens - 1);
  std::puts(
      "                                                             CPU ms per token\n"
      "policy            loss  / full  evictions  most cells  n_ctx       all  evicting");
  reading const full = read_text(model, text, first, given.tokens, nullptr, given.settings);
  print_row("full", full, full);
  for (policy_entry const* policy : given.policies)
    print_row(policy->name, read_text(model, text, first, given.n_ctx, policy, given.settings), full);
}

void write_command(language_model const& model, options const& given) {
  evicting_context context(model, given.n_ctx, given.policies.front(), given.settings);
  token_sampler sampler(model, static_cast<std::uint32_t>(given.seed));
  auto const prompt = model.tokens(given.text, "the prompt");
  if (prompt.empty()) throw support::input_error("the prompt has no token");  // nothing that the first one follows
  warn_beyond_training(model, prompt.size() + static_cast<std::size_t>(given.tokens));
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
  std::printf(
      "\n\n%d tokens, at most %d of %d cells in use, %d evictions; %.2f CPU ms per token, %.3f of it evicting\n",
      counted.tokens, counted.most_cells, context.n_ctx(), counted.evictions, 1e3 * counted.seconds / counted.tokens,
      1e3 * counted.eviction_seconds / counted.tokens);
}

void run(std::span<char const* const> arguments) {
  options given;
  if (parse(arguments, given)) return void(std::puts(usage));
  language_model const model(given.model);
  std::optional<fkv::io::packed_judge> judge;
  if (!given.judge.empty()) given.settings.judge = judge.emplace(load_judge(given.judge, model)).weights();
  given.command == "read" ? read_command(model, given) : write_command(model, given);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<char const*> const arguments(argv + 1, argv + argc);
  return support::run_program("llama_evict", [&] { run(arguments); });
}
