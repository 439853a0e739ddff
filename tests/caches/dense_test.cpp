// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <set>
#include <type_traits>
#include <vector>

#include <foresightkv/caches/dense.hpp>

#include "support/harness.hpp"

namespace fkv = foresightkv;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 3,
                                 .num_kv_heads = 2,
                                 .group = 4,
                                 .key_head_dim = 5,
                                 .value_head_dim = 3,
                                 .capacity = 7};

template <class Body>
void each_token(Body const& body) {
  for (int layer = 0; layer < shape.num_layers; ++layer)
    for (int sequence = 0; sequence < shape.num_sequences; ++sequence)
      for (int head = 0; head < shape.num_kv_heads; ++head)
        for (int slot = 0; slot < shape.capacity; ++slot) body(fkv::row_index{layer, sequence, head}, slot);
}

}  // namespace

TEST_CASE("dense_cache: every layout gives each token elements of its own and fills the buffer") {
  static_assert(std::is_trivially_copyable_v<fkv::dense_cache<float>>);
  for (testing::layout const order : {testing::layout::hnd, testing::layout::nhd, testing::layout::layer_pointers}) {
    testing::owned_cache<fkv::half> memory(shape, 7, order);
    auto const cache = memory.view();
    REQUIRE(cache.check().ok());
    std::set<fkv::half*> keys, values;
    each_token([&](fkv::row_index at, int slot) {
      for (int d = 0; d < shape.key_head_dim; ++d) keys.insert(cache.key(at, slot) + d);
      for (int d = 0; d < shape.value_head_dim; ++d) values.insert(cache.value(at, slot) + d);
    });
    CHECK(keys.size() == memory.keys.size());
    CHECK(values.size() == memory.values.size());
    CHECK(*keys.begin() == memory.keys.begin());
    CHECK(*keys.rbegin() + 1 == memory.keys.end());
    CHECK(*values.begin() == memory.values.begin());
    CHECK(*values.rbegin() + 1 == memory.values.end());
  }
}

TEST_CASE("dense_cache: addresses by hand") {
  testing::owned_cache<float> memory(shape, 7);
  float* const keys = memory.keys.data();
  float* const values = memory.values.data();
  auto const hnd = memory.view();
  CHECK(hnd.key({1, 2, 1}, 4) == keys + (((1 * 3 + 2) * 2 + 1) * 7 + 4) * 5);
  CHECK(hnd.value({1, 2, 1}, 4) == values + (((1 * 3 + 2) * 2 + 1) * 7 + 4) * 3);
  memory.order = testing::layout::nhd;
  auto const nhd = memory.view();
  CHECK(nhd.key({1, 2, 1}, 4) == keys + (((1 * 3 + 2) * 7 + 4) * 2 + 1) * 5);
  CHECK(nhd.value({1, 2, 1}, 4) == values + (((1 * 3 + 2) * 7 + 4) * 2 + 1) * 3);
  float* const bases[] = {keys + 210, keys};
  auto layers = hnd;
  layers.key_data = nullptr;
  layers.key_layers = bases;
  CHECK(layers.key({0, 0, 1}, 2) == keys + 210 + (7 + 2) * 5);
  CHECK(layers.check().ok());
}

TEST_CASE("dense_cache: a buffer beyond four gigabytes is addressed in 64 bits") {
  fkv::cache_shape large = shape;
  large.capacity = 1 << 20;
  large.key_head_dim = 512;
  large.num_sequences = 64;
  auto const strides = fkv::cache_strides::hnd(large, large.key_head_dim);
  CHECK(strides.layer == std::int64_t{64} * 2 * (1 << 20) * 512);
  CHECK(fkv::cache_strides::nhd(large, large.key_head_dim).layer == strides.layer);
}

TEST_CASE("dense_cache: what check refuses") {
  testing::owned_cache<float> memory(shape, 7);
  auto const refused = [&](fkv::errc expected, auto const& edit) {
    auto cache = memory.view();
    edit(cache);
    CHECK(cache.check().code == expected);
  };
  using fkv::errc;
  refused(errc::ok, [](auto&) {});
  refused(errc::invalid_shape, [](auto& c) { c.extents.capacity = 0; });
  refused(errc::null_pointer, [](auto& c) { c.row_lengths = nullptr; });
  refused(errc::null_pointer, [](auto& c) { c.key_data = nullptr; });
  refused(errc::null_pointer, [](auto& c) { c.value_data = nullptr; });
  refused(errc::misaligned,
          [](auto& c) { c.key_data = reinterpret_cast<float*>(reinterpret_cast<std::uintptr_t>(c.key_data) + 2); });
  refused(errc::misaligned,
          [](auto& c) { c.value_data = reinterpret_cast<float*>(reinterpret_cast<std::uintptr_t>(c.value_data) + 1); });
  refused(errc::misaligned, [](auto& c) {
    c.row_lengths = reinterpret_cast<std::int32_t const*>(reinterpret_cast<std::uintptr_t>(c.row_lengths) + 1);
  });
  refused(errc::invalid_shape, [](auto& c) { c.key_layout.token = 4; });      // tokens overlap
  refused(errc::invalid_shape, [](auto& c) { c.value_layout.kv_head = 2; });  // heads overlap
  refused(errc::invalid_shape, [](auto& c) { c.key_layout.sequence = -1; });
  refused(errc::invalid_shape, [](auto& c) { c.key_layout.sequence = 4; });
  refused(errc::invalid_shape, [](auto& c) { c.value_layout.layer = -1; });
  refused(errc::invalid_shape, [](auto& c) { c.value_layout.layer = 0; });
}

TEST_CASE("dense_cache: rows of different lengths") {
  using row_cache = fkv::dense_cache<float, float, fkv::length_domain::row>;
  static_assert(row_cache::domain == fkv::length_domain::row &&
                fkv::dense_cache<float>::domain == fkv::length_domain::sequence);
  std::vector<std::int32_t> const lengths(static_cast<std::size_t>(shape.num_rows()), 3);
  testing::owned_cache<float> memory(shape, 7);
  auto const cache = row_cache::hnd(memory.keys.data(), memory.values.data(), lengths.data(), shape);
  CHECK(cache.lengths() == lengths.data());
  CHECK(cache.shape().num_rows() == 12);
}

TEST_CASE("dense_cache: element types and storages of keys and values are apart") {
  using mixed = fkv::dense_cache<fkv::scaled_by_token<fkv::float8_e4m3>, fkv::bfloat16>;
  static_assert(std::is_same_v<fkv::detail::key_element<mixed>, fkv::float8_e4m3>);
  static_assert(std::is_same_v<fkv::detail::value_element<mixed>, fkv::bfloat16>);
  static_assert(fkv::detail::is_scaled_by_token<fkv::detail::key_vectors<mixed>>());
  static_assert(fkv::detail::is_unscaled<fkv::detail::value_vectors<mixed>>());
  using by_head = fkv::detail::key_vectors<fkv::dense_cache<fkv::scaled_by_head<fkv::float8_e4m3>>>;
  static_assert(!fkv::detail::is_unscaled<by_head>() && !fkv::detail::is_scaled_by_token<by_head>());

  std::vector<fkv::float8_e4m3> keys(static_cast<std::size_t>(shape.num_rows() * shape.capacity * shape.key_head_dim));
  std::vector<fkv::bfloat16> values(static_cast<std::size_t>(shape.num_rows() * shape.capacity * shape.value_head_dim));
  std::vector<float> scales(static_cast<std::size_t>(shape.num_rows() * shape.capacity));
  for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<float>(i);
  std::vector<std::int32_t> const lengths(3, 7);
  for (bool const head_first : {true, false}) {
    auto const bare = head_first ? mixed::hnd(keys.data(), values.data(), lengths.data(), shape)
                                 : mixed::nhd(keys.data(), values.data(), lengths.data(), shape);
    CHECK(bare.check().code == fkv::errc::null_pointer);  // its scales
    auto const cache = bare.with_key_scales(scales.data());
    CHECK(cache.check().ok());
    CHECK(cache.num_parts() == 3);
    CHECK(cache.part_bytes(0) == 5);
    CHECK(cache.part_bytes(1) == 6);
    CHECK(cache.part_bytes(2) == 4);
    each_token([&](fkv::row_index at, int slot) {
      auto const token =
          head_first ? shape.row(at) * 7 + slot : ((at.layer * 3 + at.sequence) * 7 + slot) * 2 + at.kv_head;
      CHECK(cache.keys(at).scale(slot) == static_cast<float>(token));
      CHECK(reinterpret_cast<float*>(cache.part(at, 2)(slot)) == scales.data() + token);
      CHECK(reinterpret_cast<fkv::bfloat16*>(cache.part(at, 1)(slot)) == cache.value(at, slot));
    });
  }
}
