// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <vector>

#include <foresightkv/caches/dense.hpp>
#include <foresightkv/storages/within_keys.hpp>

namespace fkv = foresightkv;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 3,
                                 .num_kv_heads = 2,
                                 .group = 4,
                                 .key_head_dim = 5,
                                 .value_head_dim = 4,
                                 .capacity = 7};

}  // namespace

TEST_CASE("within_keys: values are scaled as the keys that they are a part of") {
  constexpr fkv::cache_shape latent{.num_layers = 2,
                                    .num_sequences = 1,
                                    .num_kv_heads = 1,
                                    .group = 4,
                                    .key_head_dim = 12,
                                    .value_head_dim = 8,
                                    .capacity = 5};
  std::vector<std::int8_t> data(2 * 5 * 12, 50);
  std::vector<std::int32_t> const lengths(1, 5);
  std::vector<float> const tensors{0.5f, 0.01f};
  std::vector<float> tokens{1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  auto const by_tensor =
      fkv::latent_cache<fkv::scaled_by_tensor<std::int8_t>>::latent(data.data(), lengths.data(), latent)
          .with_key_scales(tensors.data());
  CHECK(by_tensor.values({1, 0, 0}).scale(3) == 0.01f);
  auto const by_token =
      fkv::latent_cache<fkv::scaled_by_token<std::int8_t>>::latent(data.data(), lengths.data(), latent)
          .with_key_scales(tokens.data());
  CHECK(by_token.values({1, 0, 0}).scale(3) == 9.0f);
  CHECK(by_token.num_parts() == 2);
}

TEST_CASE("within_keys: a latent row is one part, and its values stand in it") {
  std::vector<float> data(static_cast<std::size_t>(shape.num_rows() * shape.capacity * shape.key_head_dim));
  std::vector<std::int32_t> const lengths(3, 7);
  using latent = fkv::latent_cache<float>;
  auto const cache = latent::latent(data.data(), lengths.data(), shape, 1);
  CHECK(cache.check().ok());
  CHECK(cache.num_parts() == 1);
  CHECK(cache.part_bytes(0) == 20);
  for (int row = 0; row < shape.num_rows(); ++row)
    for (int slot = 0; slot < shape.capacity; ++slot) {
      fkv::row_index const at{row / 6, row / 2 % 3, row % 2};
      CHECK(cache.value(at, slot) == cache.key(at, slot) + 1);
    }
}

TEST_CASE("within_keys: values that reach beyond their keys are refused") {
  std::vector<float> data(static_cast<std::size_t>(shape.num_rows() * shape.capacity * shape.key_head_dim));
  std::vector<std::int32_t> const lengths(3, 7);
  using latent = fkv::latent_cache<float>;
  CHECK(latent::latent(data.data(), lengths.data(), shape, 2).check().code == fkv::errc::invalid_shape);
  CHECK(latent::latent(data.data(), lengths.data(), shape, -1).check().code == fkv::errc::invalid_shape);
}

TEST_CASE("within_keys: a scale of the keys is a part of its own") {
  using cache_type = fkv::latent_cache<fkv::scaled_by_token<fkv::float8_e4m3>>;
  static_assert(fkv::kv_cache<cache_type>);
  CHECK(cache_type::num_parts() == 2);
}
