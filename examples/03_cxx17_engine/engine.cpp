// SPDX-License-Identifier: Apache-2.0
// An inference engine in C++17 that evicts through its own header eviction.h and never sees foresightkv.
#include <cmath>
#include <cstdio>
#include <vector>

#include "eviction.h"

static_assert(__cplusplus < 202002L, "this file stands for an engine that is not compiled as C++20");

namespace {

constexpr int layers = 2, kv_heads = 2, query_heads = 4, head_dim = 8;
constexpr int budget = engine::evictor::budget, interval = engine::evictor::interval, capacity = budget + interval;

/// Stands for the model: keys point in seven directions, some further than others, and queries look for two
/// of them.
float direction(int which, int dim) { return std::cos(0.9f * static_cast<float>(which * (dim + 1))); }
float key(int head, int token, int dim) {
  return (1.0f + 0.02f * static_cast<float>(token % 37)) * direction((token + head) % 7, dim);
}
float query(int head, int dim) { return direction(head / 2, dim) + 0.5f * direction(3, dim); }

void put(std::vector<float>& memory, int row, int rows_length, int place, int dim, float value) {
  memory[static_cast<std::size_t>((row * rows_length + place) * head_dim + dim)] = value;
}

}  // namespace

int main() {
  std::vector<float> keys(layers * kv_heads * capacity * head_dim), values(keys.size(), 1.0f);
  std::vector<float> window(layers * query_heads * interval * head_dim);
  engine::evictor evictor({keys.data(), values.data(), layers, kv_heads, query_heads, head_dim, capacity});

  int length = 0;
  for (int token = 0; token < 112; ++token) {
    for (int dim = 0; dim < head_dim; ++dim) {
      for (int row = 0; row < layers * kv_heads; ++row)
        put(keys, row, capacity, length, dim, key(row % kv_heads, token, dim));
      // Oldest first: the last eviction left `budget` tokens, so that queries since then are counted from there.
      for (int row = 0; row < layers * query_heads && length >= budget; ++row)
        put(window, row, interval, length - budget, dim, query(row % query_heads, dim));
    }
    if (++length < capacity) continue;

    int const before = length;
    length = evictor.evict(length, window.data());
    if (length < 0) {
      std::printf("eviction failed: %s\n", evictor.problem());
      return 1;
    }
    std::printf("after token %3d: %d -> %d tokens; layer 0, head 0 begins with the tokens", token, before, length);
    for (int slot = 0; slot < 6; ++slot) std::printf(" %d", evictor.position(0, 0, slot));
    std::printf("\n");
  }
  return 0;
}
