// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "support/random.hpp"
#include "support/replay.hpp"

namespace testing {

/// A recording of normal values.
inline recording random_recording(int kv_heads, int group, int dim, int tokens, random_source& random,
                                  float query_scale = 1.5f) {
  recording made;
  made.kv_heads = kv_heads;
  made.group = group;
  made.dim = dim;
  made.tokens = tokens;
  auto const count = static_cast<std::size_t>(kv_heads * tokens * dim);
  made.q.resize(count * static_cast<std::size_t>(group));
  made.k.resize(count);
  made.v.resize(count);
  random.fill_normal<float>(made.q, query_scale);
  random.fill_normal<float>(made.k);
  random.fill_normal<float>(made.v);
  return made;
}

}  // namespace testing
