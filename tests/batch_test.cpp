// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <foresightkv/foresightkv.hpp>
#include <type_traits>
#include <vector>

namespace fkv = foresightkv;

namespace {

constexpr fkv::cache_shape shape{.key_head_dim = 4, .value_head_dim = 4, .capacity = 12};
constexpr auto policy =
    fkv::compose<fkv::eviction_config{.budget = 8, .interval = 4}>(fkv::key_norm{}, fkv::top_k{}, fkv::ordered{});

}  // namespace

TEST_CASE("batch: deduced from a constant policy, with scratch in any form or none") {
  std::vector<float> tokens(12 * 4);
  std::int32_t const length = 12;
  auto const cache = fkv::dense_cache<float>::hnd(tokens.data(), tokens.data(), &length, shape);
  std::vector<std::byte> columns(fkv::state_bytes(policy, shape, 12)), vector(64);
  std::array<std::byte, 32> array{};
  auto const state = fkv::make_state(policy, shape, 12, columns);
  fkv::batch const bare{policy, cache, {nullptr, nullptr, 1, 12}, state};
  using expected = fkv::batch<std::remove_cvref_t<decltype(policy)>, fkv::dense_cache<float>>;
  static_assert(std::is_same_v<std::remove_cvref_t<decltype(bare)>, expected>);
  CHECK(bare.scratch.data == nullptr);
  CHECK(bare.sequences.max_length == 12);
  CHECK(fkv::batch{policy, cache, {}, state, vector}.scratch.size == 64);
  CHECK(fkv::batch{policy, cache, {}, state, array}.scratch.data == array.data());
  CHECK(fkv::batch{policy, cache, {}, state, {vector.data(), 7}}.scratch.size == 7);
  CHECK(fkv::batch{policy, cache, {}, state, std::span(vector).first(9)}.scratch.size == 9);
}

TEST_CASE("batch: visiting other sequences changes the list alone") {
  std::vector<float> tokens(12 * 4);
  std::int32_t const length = 12, slot = 0, count = 1;
  auto const cache = fkv::dense_cache<float>::hnd(tokens.data(), tokens.data(), &length, shape);
  std::vector<std::byte> columns(fkv::state_bytes(policy, shape, 12)), scratch(16);
  fkv::batch const rows{policy, cache, {nullptr, nullptr, 1, 12}, fkv::make_state(policy, shape, 12, columns), scratch};
  auto const due = rows.visiting({&slot, &count, 1, 10});
  CHECK(due.sequences.slots == &slot);
  CHECK(due.sequences.max_length == 10);
  CHECK(rows.sequences.slots == nullptr);
  CHECK(due.cache.key_data == rows.cache.key_data);
  CHECK(due.state.position == rows.state.position);
  CHECK(due.scratch.data == rows.scratch.data);
}

TEST_CASE("batch: into a target, with the same rows") {
  std::vector<float> tokens(12 * 4), copy(12 * 4);
  std::int32_t const length = 12, room = 8;
  auto const cache = fkv::dense_cache<float>::hnd(tokens.data(), tokens.data(), &length, shape);
  auto const target = fkv::dense_cache<float>::nhd(copy.data(), copy.data(), &room, shape);
  fkv::batch const rows{policy, cache, {nullptr, nullptr, 1, 12}, fkv::make_state(policy, shape, 12, {})};
  auto const moving = rows.into(target);
  using policy_type = std::remove_cvref_t<decltype(policy)>;
  using expected = fkv::moving_batch<policy_type, fkv::dense_cache<float>, fkv::dense_cache<float>>;
  static_assert(std::is_same_v<std::remove_cvref_t<decltype(moving)>, expected>);
  CHECK(moving.rows.cache.key_data == tokens.data());
  CHECK(moving.target.key_data == copy.data());
  CHECK(moving.rows.sequences.max_length == 12);
}
