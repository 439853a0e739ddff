// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/golden/config.hpp>
#include <string>

#include "calls.hpp"

namespace binding {

/// A golden_config from keywords, checked; `rules` and `reduction` in the words of the label files.
fkv::golden_config golden_config_of(int budget, int interval, std::string const& future, double discount,
                                    std::string const& reduction, std::string const& rules);

void bind_golden(nb::module_& module);

}  // namespace binding
