// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <filesystem>

namespace testing {

/// tests/data, or the folder that the environment variable FORESIGHTKV_TEST_DATA names: programs that were built
/// elsewhere bring their data along.
inline std::filesystem::path data_folder() {
  char const* const named = std::getenv("FORESIGHTKV_TEST_DATA");
  return named != nullptr && *named != '\0' ? named : FORESIGHTKV_TEST_DATA;
}

/// The vectors that the published code and its peers left behind: tests/data/README.md.
inline std::filesystem::path vectors_folder() { return data_folder() / "vectors"; }

}  // namespace testing
