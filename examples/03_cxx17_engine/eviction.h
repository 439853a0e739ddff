// SPDX-License-Identifier: Apache-2.0
// What the engine sees of foresightkv: a plain header of its own, in C++17, without any template.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace engine {

struct cache_memory {
  float* keys = nullptr;    // [layer][kv_head][capacity][head_dim]
  float* values = nullptr;  // the same
  int layers = 0;
  int kv_heads = 0;
  int query_heads = 0;
  int head_dim = 0;
  int capacity = 0;
};

/// Cuts the cache of one sequence from budget + interval to budget tokens.
class evictor {
 public:
  static constexpr int budget = 32;
  static constexpr int interval = 16;

  explicit evictor(cache_memory const& memory);
  ~evictor();

  /// `queries` are those of the last `interval` tokens: [layer][query head][interval][head_dim].
  /// Returns the new length, or -1 and a reason in `problem()`.
  std::int32_t evict(std::int32_t length, float const* queries);

  /// Position in the text of the token in a slot; call after an eviction.
  std::int32_t position(int layer, int kv_head, int slot) const;
  char const* problem() const;

 private:
  struct implementation;
  std::unique_ptr<implementation> implementation_;
};

}  // namespace engine
