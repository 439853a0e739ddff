// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/nanobind.h>

namespace binding {

/// Traces, label shards and safetensors files, in and out.
void bind_files(nanobind::module_& module);

}  // namespace binding
