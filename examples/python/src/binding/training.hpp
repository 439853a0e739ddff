// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/nanobind.h>

namespace binding {

/// The steps of training, in the library's order.
void bind_training(nanobind::module_& module);
/// Of these, what a rollout earns and what it teaches.
void bind_policy_gradient(nanobind::module_& module);

}  // namespace binding
