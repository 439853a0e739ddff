// SPDX-License-Identifier: Apache-2.0
#include <nanobind/nanobind.h>

namespace binding {

// Compiled by nvcc, which this file need not know.
void bind_views(nanobind::module_& module);
void bind_policies(nanobind::module_& module);
void bind_evictor(nanobind::module_& module);

}  // namespace binding

NB_MODULE(_cuda, module) {
  nanobind::set_leak_warnings(false);  // see _core
  module.doc() = "foresightkv over arrays in a GPU's memory.";
  binding::bind_views(module);
  binding::bind_policies(module);
  binding::bind_evictor(module);
}
