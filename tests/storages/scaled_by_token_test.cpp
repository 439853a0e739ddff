// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstring>
#include <vector>

#include <foresightkv/storages/scaled_by_token.hpp>
#include <foresightkv/verbs/evict.hpp>

#include "support/policy_bench.hpp"
#include "support/sample_scorers.hpp"

namespace fkv = foresightkv;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 2,
                                 .num_kv_heads = 3,
                                 .group = 2,
                                 .key_head_dim = 24,
                                 .value_head_dim = 20,
                                 .capacity = 70};

std::size_t places(int floats) { return static_cast<std::size_t>(shape.num_rows() * shape.capacity * floats); }

/// The memory behind a cache of any storages.
template <class Cache>
struct owned {
  testing::guarded<typename Cache::key_element> keys{places(shape.key_head_dim)};
  testing::guarded<typename Cache::value_element> values{places(shape.value_head_dim)};
  testing::guarded<float> key_scales{places(1)}, value_scales{places(1)};
  testing::guarded<std::int32_t> lengths{2, 64};

  explicit owned(testing::random_source& random) {
    random.fill_normal<typename Cache::key_element>(keys);
    random.fill_normal<typename Cache::value_element>(values);
    for (float& scale : key_scales) scale = random.chance(0.5) ? 0.25f : 2.0f;
    for (float& scale : value_scales) scale = random.normal();
  }
  [[nodiscard]] Cache view(bool head_first) {
    auto cache = head_first ? Cache::hnd(keys.data(), values.data(), lengths.data(), shape)
                            : Cache::nhd(keys.data(), values.data(), lengths.data(), shape);
    if constexpr (Cache::key_storage::token_bytes > 0) cache = cache.with_key_scales(key_scales.data());
    if constexpr (Cache::value_storage::token_bytes > 0) cache = cache.with_value_scales(value_scales.data());
    return cache;
  }
  [[nodiscard]] bool intact() const {
    return keys.intact() && values.intact() && key_scales.intact() && value_scales.intact() && lengths.intact();
  }
};

/// All bytes of a token, part after part.
template <class Cache>
std::vector<std::byte> token_bytes(Cache const& cache, fkv::row_index at, int slot) {
  std::vector<std::byte> bytes;
  for (int part = 0; part < cache.num_parts(); ++part) {
    std::byte const* const first = cache.part(at, part)(slot);
    bytes.insert(bytes.end(), first, first + cache.part_bytes(part));
  }
  return bytes;
}

/// Every token that stays keeps all its bytes, wherever it stands, and so does what was not to move.
template <class Compaction, class Cache>
void check_moves(Cache const& cache, std::uint64_t seed) {
  using policy_type = fkv::policy<fkv::eviction_config, testing::odd_scorer, fkv::top_k, Compaction>;
  policy_type const policy{{.budget = 40, .interval = 8, .recent_tokens = 5, .sink_tokens = 2}, {3.0f, 4}, {}, {}, {}};
  testing::owned_state<policy_type> const state(shape, shape.capacity);
  fkv::sequence_list const list{nullptr, nullptr, 2, shape.capacity};
  auto work = testing::workspace_for<policy_type>(shape, list, 0);
  std::vector<std::vector<std::byte>> before;
  auto const each_token = [&](auto const& body) {
    for (int row = 0; row < shape.num_rows(); ++row)
      for (int slot = 0; slot < shape.capacity; ++slot)
        body(fkv::row_index{row / 6, row / 3 % 2, row % 3}, slot,
             static_cast<std::size_t>(row * shape.capacity + slot));
  };
  each_token([&](fkv::row_index at, int slot, std::size_t) { before.push_back(token_bytes(cache, at, slot)); });
  testing::guarded<std::int32_t> new_lengths(2);
  CAPTURE(seed);
  REQUIRE(fkv::evict(testing::exec, fkv::batch{policy, cache, list, state.view, work.view()}, fkv::observation<float>{},
                     {new_lengths.data()})
              .ok());
  int wrong = 0, moved = 0;
  each_token([&](fkv::row_index at, int slot, std::size_t) {
    if (slot >= (Compaction::moves_tokens ? 40 : 64)) return;
    int const row = shape.row(at);
    int const position = state.view.position[state.view.column(row, slot)];
    if (position < 0) return;
    moved += position != slot;
    wrong += token_bytes(cache, at, slot) != before[static_cast<std::size_t>(row * shape.capacity + position)];
  });
  CHECK(wrong == 0);
  CHECK((moved > 0) == Compaction::moves_tokens);
  CHECK(new_lengths[0] == (Compaction::moves_tokens ? 40 : 64));
}

template <class Cache>
void check_moves() {
  for (std::uint64_t seed = 0; seed < 3; ++seed)
    for (bool const head_first : {true, false}) {
      testing::random_source random(seed);
      owned<Cache> memory(random);
      check_moves<fkv::ordered>(memory.view(head_first), seed);
      owned<Cache> other(random);
      check_moves<fkv::fill_holes>(other.view(head_first), seed);
      owned<Cache> third(random);
      check_moves<fkv::slot_list>(third.view(head_first), seed);
      CHECK((memory.intact() && other.intact() && third.intact()));
    }
}

}  // namespace

TEST_CASE("scaled_by_token: a scale moves with its token, whatever keys and values are") {
  check_moves<fkv::dense_cache<fkv::scaled_by_token<fkv::float8_e4m3>, fkv::bfloat16>>();
  check_moves<fkv::dense_cache<fkv::half, fkv::scaled_by_token<fkv::float8_e5m2>>>();
  check_moves<fkv::dense_cache<fkv::scaled_by_token<float>>>();
}

TEST_CASE("within_keys: a latent row moves once") {
  fkv::cache_shape latent = shape;
  latent.value_head_dim = 16;
  for (std::uint64_t seed = 10; seed < 13; ++seed) {
    testing::random_source random(seed);
    testing::guarded<float> data(places(shape.key_head_dim));
    testing::guarded<std::int32_t> lengths(2, 64);
    random.fill_normal<float>(data);
    auto const cache = fkv::latent_cache<float>::latent(data.data(), lengths.data(), latent, 8);
    check_moves<fkv::fill_holes>(cache, seed);
    lengths[0] = lengths[1] = 64;
    CHECK(data.intact());
  }
}
