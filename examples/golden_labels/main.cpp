// SPDX-License-Identifier: Apache-2.0
// golden_labels: files of Golden Eviction's labels, layer by layer, from recorded attention of any length.
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <foresightkv/io/label_shard.hpp>
#include <foresightkv/io/trace.hpp>
#include <optional>
#include <span>
#include <string>

#include "layer_labels.hpp"
#include "options.hpp"
#include "plan.hpp"
#include "support/communicator.hpp"
#include "support/program.hpp"
#include "support/progress.hpp"

namespace {

using namespace golden_labels;
using support::communicator, support::together;

/// The plan of process 0, told to everyone: what is finished must not be asked for twice, as it changes.
work_plan agree_on_plan(communicator const& world, options const& chosen) {
  work_plan plan;
  together(world, [&] {
    if (world.first()) plan = make_plan(chosen);
  });
  auto count = plan.missing.size();
  world.broadcast(std::span(&count, 1));
  plan.missing.resize(count);
  world.broadcast(std::span(plan.missing));
  return plan;
}

/// Makes files of labels; keeps the trace open that it was asked for last.
class labeller {
 public:
  explicit labeller(options const& chosen) : chosen_(chosen) {}

  template <class Progress>
  void make(work const& unit, Progress const& progress) {
    if (open_ != unit.trace) {
      trace_ = open_trace(chosen_, unit.trace);
      open_ = unit.trace;
    }
    auto const source = source_of(chosen_, *trace_, unit);
    progress(0.0);
    auto const made = label_layer(fkv::host.threads(chosen_.threads), chosen_.config, *trace_, unit.layer,
                                  source.tokens, [&](int heads) { progress(double(heads) / source.kv_heads); });
    fkv::io::write_label_shard(shard_path(chosen_, unit), source, made.labels, made.evicted);
  }

 private:
  options const& chosen_;
  int open_ = -1;
  std::optional<fkv::io::trace> trace_;
};

/// Rounds of one file per process. After each all know whether all of them are there.
void make_all(communicator const& world, options const& chosen, work_plan const& plan) {
  support::progress_bar bar(world.first());
  labeller maker(chosen);
  auto const processes = static_cast<std::size_t>(world.size());
  auto const total = static_cast<double>(plan.missing.size());
  for (std::size_t round = 0; round < plan.missing.size(); round += processes) {
    auto const mine = round + static_cast<std::size_t>(world.rank());
    auto const now = std::min(processes, plan.missing.size() - round);
    together(world, [&] {
      if (mine >= plan.missing.size()) return;
      auto const& unit = plan.missing[mine];
      auto const what = shard_path(chosen, unit).filename().string();
      maker.make(unit, [&](double share) {
        bar.show((static_cast<double>(round) + share * static_cast<double>(now)) / total, what);
      });
    });
  }
}

void run(communicator const& world, std::span<char const* const> arguments) {
  options chosen;
  together(world, [&] { chosen = parse_options(arguments); });
  if (chosen.help) {
    if (world.first()) std::fputs(help_text().c_str(), stdout);
    return;
  }
  auto const plan = agree_on_plan(world, chosen);
  make_all(world, chosen, plan);
  if (world.first())
    std::printf("%zu made, %d already there: %s\n", plan.missing.size(), plan.finished, chosen.out.c_str());
}

}  // namespace

int main(int count, char** arguments) {
  communicator const world;
  return support::run_program("golden_labels", world, [&] { run(world, {arguments + 1, arguments + count}); });
}
