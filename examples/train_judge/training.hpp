// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

#include "options.hpp"
#include "support/communicator.hpp"

namespace train_judge {

/// Called as work gets done: how much of it, and what it is at.
using progress = std::function<void(double done, std::string const& what)>;

/// Collective: the whole training, from traces to the files in the folder. Says in `summary` what came out,
/// on process 0. Throws `input_error` or `io::error`, the same on every process.
void run_training(options const& chosen, support::communicator const& world, progress const& report,
                  std::string& summary);

}  // namespace train_judge
