// SPDX-License-Identifier: Apache-2.0
#include <nanobind/stl/string.h>

#include <foresightkv/version.hpp>
#include <string>

#include "evictor.hpp"
#include "files.hpp"
#include "golden.hpp"
#include "judge.hpp"
#include "replay.hpp"
#include "training.hpp"

NB_MODULE(_core, module) {
  // What arrays view that are held when the interpreter stops, such as a Trace, would be reported: NumPy frees none then.
  nanobind::set_leak_warnings(false);
  module.doc() = "foresightkv over arrays in place.";
  module.attr("__version__") = std::to_string(foresightkv::version_major) + "." +
                               std::to_string(foresightkv::version_minor) + "." +
                               std::to_string(foresightkv::version_patch);
  binding::bind_views(module);
  binding::bind_policies(module);
  binding::bind_evictor(module);
  binding::bind_recorded(module);
  binding::bind_golden(module);
  binding::bind_judge(module);
  binding::bind_replay(module);
  binding::bind_training(module);
  binding::bind_files(module);
}
