// SPDX-License-Identifier: Apache-2.0
// The one file of the engine that is compiled as C++20: it instantiates the policy.
#include "eviction.h"

#include <foresightkv/foresightkv.hpp>
#include <vector>

namespace fkv = foresightkv;

namespace engine {

struct evictor::implementation {
  static constexpr fkv::eviction_config config{.budget = budget, .interval = interval, .sink_tokens = 1};
  static constexpr fkv::policy<fkv::fixed<config>, fkv::window_sum, fkv::top_k, fkv::ordered> policy{};

  cache_memory memory;
  fkv::cache_shape shape{.num_layers = memory.layers,
                         .num_kv_heads = memory.kv_heads,
                         .group = memory.query_heads / memory.kv_heads,
                         .key_head_dim = memory.head_dim,
                         .value_head_dim = memory.head_dim,
                         .capacity = memory.capacity};
  fkv::sequence_list sequence{.max_count = 1, .max_length = memory.capacity};
  std::vector<std::byte> columns{fkv::state_bytes(policy, shape, memory.capacity)};
  decltype(fkv::make_state(policy, shape, 0, {})) state = fkv::make_state(policy, shape, memory.capacity, columns);
  std::vector<std::byte> scratch{fkv::evict_bytes(fkv::host, policy, shape, sequence, interval)};
  fkv::status last = fkv::reset(fkv::host, state, sequence);
};

evictor::evictor(cache_memory const& memory) : implementation_(new implementation{.memory = memory}) {}
evictor::~evictor() = default;

std::int32_t evictor::evict(std::int32_t length, float const* queries) {
  auto& [memory, shape, sequence, columns, state, scratch, last] = *implementation_;
  auto const cache = fkv::dense_cache<float>::hnd(memory.keys, memory.values, &length, shape);
  auto const window = fkv::observation<float>::hnd(queries, shape, interval);
  std::int32_t new_length = -1;
  last =
      fkv::evict(fkv::host, fkv::batch{implementation::policy, cache, sequence, state, scratch}, window, {&new_length});
  return new_length;
}

std::int32_t evictor::position(int layer, int kv_head, int slot) const {
  auto const& state = implementation_->state;
  return state.position[state.column(state.row({layer, 0, kv_head}), slot)];
}

char const* evictor::problem() const { return implementation_->last.message(); }

}  // namespace engine
