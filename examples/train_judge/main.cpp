// SPDX-License-Identifier: Apache-2.0
// train_judge: trains judges on recorded attention, on golden's caches and on their own.
#include <cstdio>
#include <string>

#include "options.hpp"
#include "policy_training.hpp"
#include "support/communicator.hpp"
#include "support/program.hpp"
#include "support/progress.hpp"
#include "training.hpp"

namespace {

using namespace train_judge;

void run(support::communicator const& world, options const& chosen) {
  if (chosen.help) {
    if (world.first()) std::fputs(help_text().c_str(), stdout);
    return;
  }
  std::string summary;
  {
    support::progress_bar bar(world.first());
    auto const train = chosen.rollouts > 0 ? run_policy_training : run_training;
    train(
        chosen, world, [&](double done, std::string const& what) { bar.show(done, what); }, summary);
  }
  std::fputs(summary.c_str(), stdout);
}

}  // namespace

int main(int count, char** arguments) {
  support::communicator const world;
  return support::run_program("train_judge", world, [&] {
    options chosen;
    support::together(world, [&] { chosen = parse_options({arguments + 1, arguments + count}); });
    run(world, chosen);
  });
}
