// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <vector>

#include <foresightkv/caches/dense.hpp>
#include <foresightkv/storages/scaled_by_head.hpp>
#include <foresightkv/storages/scaled_by_tensor.hpp>
#include <foresightkv/verbs/evict.hpp>

#include "support/policy_bench.hpp"

namespace fkv = foresightkv;

namespace {

using storage = fkv::scaled_by_tensor<std::int8_t>;
using by_head = fkv::scaled_by_head<std::int8_t>;
constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 3,
                                 .num_kv_heads = 2,
                                 .group = 2,
                                 .key_head_dim = 20,
                                 .value_head_dim = 12,
                                 .capacity = 60};

}  // namespace

TEST_CASE("scaled_by_tensor: one scale for all tokens of a layer") {
  std::vector<float> const scales{0.5f, 3.0f};
  storage const stored{scales.data()};
  CHECK(stored.check().ok());
  CHECK(stored.of_row(shape, {0, 2, 1}).scale(5) == 0.5f);
  CHECK(stored.of_row(shape, {1, 0, 1}).scale(0) == 3.0f);
  CHECK(storage{}.of_row(shape, {1, 0, 1}).scale(0) == 1.0f);
  CHECK(fkv::dense_cache<storage>::num_parts() == 2);
  auto const* const odd = reinterpret_cast<float const*>(reinterpret_cast<std::byte const*>(scales.data()) + 1);
  CHECK(storage{odd}.check().code == fkv::errc::misaligned);
}

TEST_CASE("scaled_by_tensor: the bits of the same scales by head") {
  using policy_type = fkv::policy<fkv::eviction_config, testing::mixed_scorer, fkv::top_k, fkv::ordered>;
  policy_type const policy{{.budget = 33, .interval = 8}, {}, {}, {}, {}};
  testing::random_source random(1);
  std::size_t const rows = static_cast<std::size_t>(shape.num_rows() * shape.capacity);
  testing::guarded<std::int8_t> keys(rows * 20), values(rows * 12);
  random.fill_normal<std::int8_t>(keys, 40.0f);
  random.fill_normal<std::int8_t>(values, 40.0f);
  testing::owned_window<fkv::half> const window(shape, 5, true, random);
  std::vector<float> const tensors{0.02f, 0.05f}, others{0.04f, 0.01f};
  std::vector<float> const heads{0.02f, 0.02f, 0.05f, 0.05f}, other_heads{0.04f, 0.04f, 0.01f, 0.01f};
  testing::guarded<std::int32_t> lengths(3, 60);
  fkv::sequence_list const list{nullptr, nullptr, 3, 60};
  auto const evict = [&](auto const& cache, testing::guarded<std::int32_t>& positions) {
    testing::owned_state<policy_type> const state(shape, 60);
    auto work = testing::workspace_for<policy_type>(shape, list, 5);
    std::vector<std::int32_t> new_lengths(3);
    REQUIRE(fkv::evict(testing::exec, fkv::batch{policy, cache, list, state.view, work.view()}, window.view(),
                       {new_lengths.data()})
                .ok());
    for (int row = 0; row < shape.num_rows(); ++row)
      for (int slot = 0; slot < 33; ++slot)
        positions[static_cast<std::size_t>(row * 33 + slot)] = state.view.position[state.view.column(row, slot)];
  };
  auto other_keys = keys, other_values = values;
  testing::guarded<std::int32_t> found(static_cast<std::size_t>(shape.num_rows() * 33)), wanted = found;
  evict(fkv::dense_cache<storage>::hnd(keys.data(), values.data(), lengths.data(), shape)
            .with_scales(tensors.data(), others.data()),
        found);
  evict(fkv::dense_cache<by_head>::hnd(other_keys.data(), other_values.data(), lengths.data(), shape)
            .with_scales(heads.data(), other_heads.data()),
        wanted);
  CHECK(found.same_bytes(wanted));
  CHECK((keys.same_bytes(other_keys) && values.same_bytes(other_values)));
}
