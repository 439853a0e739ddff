// SPDX-License-Identifier: Apache-2.0
#include <nanobind/stl/string.h>

#include <foresightkv/version.hpp>
#include <string>

#include "evictor.hpp"

NB_MODULE(_core, module) {
  module.doc() = "foresightkv over arrays in place.";
  module.attr("__version__") = std::to_string(foresightkv::version_major) + "." +
                               std::to_string(foresightkv::version_minor) + "." +
                               std::to_string(foresightkv::version_patch);
  binding::bind_views(module);
  binding::bind_policies(module);
  binding::bind_evictor(module);
}
