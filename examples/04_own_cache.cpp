// SPDX-License-Identifier: Apache-2.0
// A cache as the library has none: key and value of a token side by side as int8, each with a scale, in pages of 16
// tokens.
#include <cstdint>
#include <cstdio>
#include <vector>

#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

// What the engine has: a pool of pages [page][kv_head][token] of these.
struct token {
  float key_scale, value_scale;
  std::int8_t key[16], value[16];
};

// The keys, or the values, of one row: where a token stands, and what its elements are multiplied by.
template <std::int8_t (token::*Elements)[16], float token::*Scale>
struct page_vectors {
  using element_type = std::int8_t;
  token* pool;
  std::int32_t const* table;
  int head, num_heads;

  token& of(int slot) const { return pool[(table[slot / 16] * num_heads + head) * 16 + slot % 16]; }
  std::int8_t* at(int slot) const { return of(slot).*Elements; }
  float scale(int slot) const { return of(slot).*Scale; }
};

// The cache: which rows there are, and how long they are. A whole token moves, and it moves once.
struct page_cache {
  static constexpr fkv::length_domain domain = fkv::length_domain::sequence;
  fkv::cache_shape extents;
  token* pool;
  std::int32_t const* tables;  // [sequence][page of it]
  std::int32_t const* lengths_of;

  fkv::cache_shape const& shape() const { return extents; }
  int length(fkv::row_index at) const { return lengths_of[at.sequence]; }
  std::int32_t const* table(fkv::row_index at) const { return tables + at.sequence * (extents.capacity / 16); }
  page_vectors<&token::key, &token::key_scale> keys(fkv::row_index at) const {
    return {pool, table(at), at.kv_head, extents.num_kv_heads};
  }
  page_vectors<&token::value, &token::value_scale> values(fkv::row_index at) const {
    return {pool, table(at), at.kv_head, extents.num_kv_heads};
  }
  int num_parts() const { return 1; }
  int part_bytes(int) const { return sizeof(token); }
  auto part(fkv::row_index at, int) const {
    return [tokens = keys(at)](int slot) { return reinterpret_cast<std::byte*>(&tokens.of(slot)); };
  }
  fkv::status check() const { return {}; }
};

int main() {
  // One sequence of 40 tokens in pages 4, 0, 2; a token's key says how much it will be wanted.
  fkv::cache_shape const shape{.num_kv_heads = 2, .group = 1, .key_head_dim = 16, .value_head_dim = 16, .capacity = 48};
  std::vector<token> pool(5 * 2 * 16);
  std::vector<std::int32_t> const pages{4, 0, 2};
  std::vector<std::int32_t> lengths{40}, new_lengths{40};
  page_cache const cache{shape, pool.data(), pages.data(), lengths.data()};
  for (int head = 0; head < 2; ++head)
    for (int slot = 0; slot < 40; ++slot) {
      token& here = cache.keys({0, 0, head}).of(slot);
      here.key_scale = 0.5f;
      here.value_scale = 1.0f;
      here.key[0] = static_cast<std::int8_t>(slot % (3 + head) == 0 ? 20 : 1);
      here.value[0] = static_cast<std::int8_t>(slot);
    }

  auto const policy =
      fkv::compose<fkv::eviction_config{.budget = 16, .interval = 4}>(fkv::window_sum{}, fkv::top_k{}, fkv::ordered{});
  std::vector<float> queries(2 * 4 * 16);
  for (std::size_t i = 0; i < queries.size(); i += 16) queries[i] = 1.0f;
  auto const window = fkv::observation<float>::hnd(queries.data(), shape, 4);
  fkv::sequence_list const all{.max_count = 1, .max_length = 48};
  std::vector<std::byte> memory(fkv::state_bytes(policy, shape, 48)),
      scratch(fkv::evict_bytes(fkv::host, policy, shape, all, 4));
  auto const state = fkv::make_state(policy, shape, 48, memory);
  fkv::status done = fkv::reset(fkv::host, state, all);
  if (done.ok())
    done = fkv::evict(fkv::host, fkv::batch{policy, cache, all, state, scratch}, window, {new_lengths.data()});
  std::printf("%s: %d of %d tokens are left\n", done.message(), new_lengths[0], lengths[0]);
  for (int head = 0; head < 2; ++head) {
    std::printf("head %d keeps", head);
    for (int slot = 0; slot < new_lengths[0]; ++slot) std::printf(" %d", cache.values({0, 0, head}).at(slot)[0]);
    std::printf("\n");
  }
  return done.ok() ? 0 : 1;
}
