// SPDX-License-Identifier: Apache-2.0
#include "second.hpp"

#include "public_headers.hpp"

foresightkv::host_execution const* second_host() { return &foresightkv::host; }

char const* second_message() { return foresightkv::status{}.message(); }
