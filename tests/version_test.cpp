// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <foresightkv/version.hpp>

namespace fkv = foresightkv;

TEST_CASE("version: the three parts make up the macro") {
  static_assert(fkv::version_major * 10000 + fkv::version_minor * 100 + fkv::version_patch == FORESIGHTKV_VERSION);
  CHECK(fkv::version_major >= 0);
  CHECK(fkv::version_minor < 100);
  CHECK(fkv::version_patch < 100);
}

TEST_CASE("version: the build read the same number from the header") {
  CHECK(FORESIGHTKV_BUILD_VERSION_MAJOR == fkv::version_major);
  CHECK(FORESIGHTKV_BUILD_VERSION_MINOR == fkv::version_minor);
  CHECK(FORESIGHTKV_BUILD_VERSION_PATCH == fkv::version_patch);
}
