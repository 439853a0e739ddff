// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace testing {

/// From this call on, operator new of the program returns memory that host and device share. False where the device
/// cannot share memory with a running host.
bool use_managed_memory();

}  // namespace testing
