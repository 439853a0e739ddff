// SPDX-License-Identifier: Apache-2.0
// expect-error: keys and values have element_type, element_type* at(slot), not to const, and float scale(slot)
#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

#ifdef SHOULD_FAIL
using pointer = float const*;
#else
using pointer = float*;
#endif

struct my_keys {
  using element_type = float;
  pointer at(int slot) const;
  float scale(int) const { return 1.0f; }
};

struct my_cache : fkv::dense_cache<float> {
  my_keys keys(fkv::row_index) const;
};

inline constexpr bool checked = fkv::detail::check_cache<my_cache>();
