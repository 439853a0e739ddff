// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "training.hpp"

namespace train_judge {

/// Collective: draws rollouts and says what they evict; with the losses that a language model had under them,
/// the steps of GRPO too. As `run_training`, but without checkpoints.
void run_policy_training(options const& chosen, support::communicator const& world, progress const& report,
                         std::string& summary);

}  // namespace train_judge
