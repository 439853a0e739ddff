// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Version as one integer, major * 10000 + minor * 100 + patch; the build reads it from this line.
#define FORESIGHTKV_VERSION 100

namespace foresightkv {
inline namespace v0 {

inline constexpr int version_major = FORESIGHTKV_VERSION / 10000;
inline constexpr int version_minor = FORESIGHTKV_VERSION / 100 % 100;
inline constexpr int version_patch = FORESIGHTKV_VERSION % 100;

}  // namespace v0
}  // namespace foresightkv
