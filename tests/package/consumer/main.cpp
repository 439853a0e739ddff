// SPDX-License-Identifier: Apache-2.0
#if __has_include(<foresightkv/foresightkv.hpp>)
#include <foresightkv/foresightkv.hpp>
#endif

#include <cstdio>

#include "public_headers.hpp"
#include "second.hpp"

namespace fkv = foresightkv;

int main() {
  if (second_host() != &fkv::host || second_message() != fkv::status{}.message()) {
    std::fputs("the two translation units see two libraries\n", stderr);
    return 1;
  }
  std::printf("foresightkv %d.%d.%d\n", fkv::version_major, fkv::version_minor, fkv::version_patch);
}
