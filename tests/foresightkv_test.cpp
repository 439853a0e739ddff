// SPDX-License-Identifier: Apache-2.0
#include <foresightkv/foresightkv.hpp>  // first and alone: it must bring all that it needs

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace fkv = foresightkv;

TEST_CASE("foresightkv: with this one header a row of five tokens loses the least attended one") {
  constexpr fkv::eviction_config config{.budget = 4, .interval = 1, .recent_tokens = 1};
  constexpr fkv::cache_shape shape{.key_head_dim = 1, .value_head_dim = 1, .capacity = 5};
  auto const policy = fkv::compose<config>(fkv::window_sum{}, fkv::top_k{}, fkv::ordered{});

  float keys[5] = {5.0f, 1.0f, 4.0f, 2.0f, 3.0f};
  float values[5] = {50.0f, 10.0f, 40.0f, 20.0f, 30.0f};
  float const query[1] = {1.0f};
  std::int32_t const lengths[1] = {5};
  std::int32_t new_lengths[1] = {0};
  auto const cache = fkv::dense_cache<float>::hnd(keys, values, lengths, shape);
  auto const window = fkv::observation<float>::hnd(query, shape, 1);

  std::vector<std::byte> columns(fkv::state_bytes(policy, shape, 5));
  auto const state = fkv::make_state(policy, shape, 5, columns);
  fkv::sequence_list const all{nullptr, nullptr, 1, 5};
  REQUIRE(fkv::reset(fkv::host, state, all).ok());

  std::int32_t due[1] = {-1};
  std::int32_t count = 0;
  fkv::sequence_list const due_list{due, &count, 1, 5};
  REQUIRE(fkv::collect_due(fkv::host, fkv::batch{policy, cache, all, state}, due, &count).ok());
  CHECK(count == 1);

  std::vector<std::byte> memory(fkv::evict_bytes(fkv::host, policy, shape, due_list, 1));
  REQUIRE(fkv::evict(fkv::host, fkv::batch{policy, cache, due_list, state, memory}, window, {new_lengths}).ok());
  CHECK(new_lengths[0] == 4);
  float const kept[4] = {5.0f, 4.0f, 2.0f, 3.0f};
  for (int slot = 0; slot < 4; ++slot) {
    CHECK(keys[slot] == kept[slot]);
    CHECK(values[slot] == 10.0f * kept[slot]);
  }
  CHECK(state.position[1] == 2);
  CHECK(state.flags[0] == 0);
}
