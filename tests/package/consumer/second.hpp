// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/execution.hpp>

foresightkv::host_execution const* second_host();
char const* second_message();
