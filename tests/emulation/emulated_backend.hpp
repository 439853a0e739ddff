// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/kernels/kernel_backend.hpp>
#include <foresightkv/foresightkv.hpp>

#include "emulation/emulated_execution.hpp"

/// The verbs as a device runs them, on emulated blocks.
template <>
struct foresightkv::detail::backend<testing::emulated_execution>
    : foresightkv::detail::kernels::kernel_backend<testing::emulated_execution> {};
template <>
struct foresightkv::detail::backend<testing::threaded_execution>
    : foresightkv::detail::kernels::kernel_backend<testing::threaded_execution> {};
