// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>

#include "experiment.hpp"

namespace evict_trace {

/// The table for people.
[[nodiscard]] std::string table(experiment const& done);

/// The same for programs: budget, interval, layers, and policies: name -> measures.
[[nodiscard]] std::string json(experiment const& done);

/// 1234567 -> "1,234,567".
[[nodiscard]] std::string grouped(long long value);

/// 491520 -> "480 KiB".
[[nodiscard]] std::string human_bytes(double bytes);

}  // namespace evict_trace
