// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "experiment.hpp"

namespace evict_trace {

/// One HTML page that needs nothing else: the table, curves over budgets, and maps of what was kept.
[[nodiscard]] std::string page(experiment const& done);

}  // namespace evict_trace
