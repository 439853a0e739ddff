// SPDX-License-Identifier: Apache-2.0
// Cuts a dense cache to its budget: of 24 cached tokens 16 stay, the most attended and the newest.
#include <cstdio>
#include <foresightkv/foresightkv.hpp>
#include <vector>

namespace fkv = foresightkv;

int main() {
  // The engine's memory: keys and values [kv_head][token][dim], and the last 8 queries [query
  // head][query][dim].
  fkv::cache_shape const shape{.num_kv_heads = 2, .group = 2, .key_head_dim = 4, .value_head_dim = 4, .capacity = 24};
  std::vector<float> keys(2 * 24 * 4), values(2 * 24 * 4, 1.0f), queries(4 * 8 * 4, 1.0f);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    auto const head = i / (24 * 4), token = i / 4 % 24;
    bool const wanted =
        head == 0 ? token % 3 == 0 : token >= 8;  // head 0 looks for every third token, head 1 for late ones
    keys[i] = wanted ? 1.0f : 0.01f * static_cast<float>(token);
  }
  std::vector<std::int32_t> lengths{24}, new_lengths{0};
  auto const cache = fkv::dense_cache<float>::hnd(keys.data(), values.data(), lengths.data(), shape);
  auto const window = fkv::observation<float>::hnd(queries.data(), shape, 8);

  // The policy: keep 16 tokens, by the attention of the last 8 queries; the newest 8 are safe.
  auto const policy = fkv::compose<fkv::eviction_config{.budget = 16, .interval = 8}>(fkv::window_sum{}, fkv::top_k{},
                                                                                      fkv::fill_holes{});

  // What it needs: state that follows the tokens, and scratch memory. The library itself allocates nothing; where that
  // does not matter, `fkv::evictor` holds both.
  fkv::sequence_list const all{.max_count = 1, .max_length = 24};
  std::vector<std::byte> memory(fkv::state_bytes(policy, shape, 24));
  std::vector<std::byte> scratch(fkv::evict_bytes(fkv::host, policy, shape, all, 8));
  auto const state = fkv::make_state(policy, shape, 24, memory);
  fkv::batch const rows{policy, cache, all, state, scratch};

  fkv::status done = fkv::reset(fkv::host, state, all);
  if (done.ok()) done = fkv::evict(fkv::host, rows, window, {.new_lengths = new_lengths.data()});
  std::printf("%s: %d tokens were cached, %d are left\n", done.message(), lengths[0], new_lengths[0]);
  for (int head = 0; head < 2; ++head) {
    std::printf("head %d: slots 0 to %d now hold the tokens", head, new_lengths[0] - 1);
    for (int slot = 0; slot < new_lengths[0]; ++slot) std::printf(" %d", state.position[state.column(head, slot)]);
    std::printf("\n");
  }
  return done.ok() ? 0 : 1;
}
