// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <set>

#include <foresightkv/cache.hpp>
#include <foresightkv/caches/dense.hpp>

namespace fkv = foresightkv;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 3,
                                 .num_kv_heads = 4,
                                 .group = 2,
                                 .key_head_dim = 8,
                                 .value_head_dim = 6,
                                 .capacity = 10};

template <class Edit>
constexpr fkv::cache_shape changed(Edit const& edit) {
  fkv::cache_shape made = shape;
  edit(made);
  return made;
}

/// A cache of one's own: one row, keys and values in the same place.
struct toy_vectors {
  using element_type = float;
  float* memory = nullptr;
  [[nodiscard]] float* at(int slot) const { return memory + slot * 8; }
  [[nodiscard]] static constexpr float scale(int) { return 1.0f; }
};
struct toy_row {
  static constexpr fkv::length_domain domain = fkv::length_domain::row;
  float* memory = nullptr;
  int count = 0;
  [[nodiscard]] fkv::cache_shape shape() const { return ::shape; }
  [[nodiscard]] int length(fkv::row_index) const { return count; }
  [[nodiscard]] toy_vectors keys(fkv::row_index) const { return {memory}; }
  [[nodiscard]] toy_vectors values(fkv::row_index) const { return {memory}; }
  [[nodiscard]] fkv::status check() const { return {}; }
};
struct without_domain {
  [[nodiscard]] fkv::cache_shape shape() const { return {}; }
};

}  // namespace

TEST_CASE("cache: rows stand layer by layer, sequence by sequence, head by head") {
  int expected = 0;
  for (int layer = 0; layer < shape.num_layers; ++layer)
    for (int sequence = 0; sequence < shape.num_sequences; ++sequence)
      for (int head = 0; head < shape.num_kv_heads; ++head) CHECK(shape.row({layer, sequence, head}) == expected++);
  CHECK(shape.num_rows() == expected);
}

TEST_CASE("cache: numbers of the whole model") {
  static constexpr int layers[] = {4, 9};
  static_assert(shape.model_layer(1) == 1 && shape.model_kv_head(3) == 3 && shape.model_kv_heads() == 4);
  constexpr auto part = changed([](fkv::cache_shape& s) {
    s.layers = layers;
    s.first_kv_head = 8;
    s.total_kv_heads = 16;
  });
  CHECK(part.model_layer(0) == 4);
  CHECK(part.model_layer(1) == 9);
  CHECK(part.model_kv_head(2) == 10);
  CHECK(part.model_kv_heads() == 16);
  CHECK(part.valid());
}

TEST_CASE("cache: which extents are valid") {
  CHECK(shape.valid());
  CHECK_FALSE(fkv::cache_shape{}.valid());
  for (int const bad : {0, -1}) {
    CHECK_FALSE(changed([&](auto& s) { s.num_layers = bad; }).valid());
    CHECK_FALSE(changed([&](auto& s) { s.num_sequences = bad; }).valid());
    CHECK_FALSE(changed([&](auto& s) { s.num_kv_heads = bad; }).valid());
    CHECK_FALSE(changed([&](auto& s) { s.group = bad; }).valid());
    CHECK_FALSE(changed([&](auto& s) { s.key_head_dim = bad; }).valid());
    CHECK_FALSE(changed([&](auto& s) { s.value_head_dim = bad; }).valid());
    CHECK_FALSE(changed([&](auto& s) { s.capacity = bad; }).valid());
  }
  CHECK_FALSE(changed([](auto& s) { s.first_kv_head = -1; }).valid());
  CHECK_FALSE(changed([](auto& s) { s.first_kv_head = 1; }).valid());  // beyond the model's last head
  CHECK(changed([](auto& s) {
          s.first_kv_head = 4;
          s.total_kv_heads = 8;
        }).valid());
  CHECK_FALSE(changed([](auto& s) {
                s.first_kv_head = 5;
                s.total_kv_heads = 8;
              }).valid());
  CHECK_FALSE(changed([](auto& s) { s.total_kv_heads = 3; }).valid());
  CHECK_FALSE(changed([](auto& s) {
                s.first_kv_head = 0x7fffffff;
                s.total_kv_heads = 8;
              }).valid());
  // Counts of rows and of query heads must fit an int.
  CHECK_FALSE(changed([](auto& s) {
                s.num_layers = 1 << 15;
                s.num_sequences = 1 << 16;
              }).valid());
  CHECK_FALSE(changed([](auto& s) {
                s.num_sequences = 1 << 28;
                s.num_kv_heads = 4;
              }).valid());
  CHECK_FALSE(changed([](auto& s) { s.group = 0x7fffffff; }).valid());
}

TEST_CASE("cache: where lengths stand in each domain") {
  using fkv::detail::length_index;
  using fkv::detail::num_lengths;
  for (fkv::length_domain const domain :
       {fkv::length_domain::sequence, fkv::length_domain::layer, fkv::length_domain::row}) {
    std::set<int> places;
    for (int layer = 0; layer < shape.num_layers; ++layer)
      for (int sequence = 0; sequence < shape.num_sequences; ++sequence)
        for (int head = 0; head < shape.num_kv_heads; ++head)
          places.insert(length_index(domain, shape, {layer, sequence, head}));
    CHECK(static_cast<int>(places.size()) == num_lengths(domain, shape));
    CHECK(*places.begin() == 0);
    CHECK(*places.rbegin() == num_lengths(domain, shape) - 1);
  }
  CHECK(length_index(fkv::length_domain::sequence, shape, {1, 2, 3}) == 2);
  CHECK(length_index(fkv::length_domain::layer, shape, {1, 2, 3}) == 5);
  CHECK(length_index(fkv::length_domain::row, shape, {1, 2, 3}) == 23);
}

TEST_CASE("cache: what satisfies the concept") {
  static_assert(fkv::kv_cache<toy_row> && fkv::token_vectors<toy_vectors>);
  static_assert(fkv::detail::is_unscaled<toy_vectors>() && !fkv::detail::is_scaled_by_token<toy_vectors>());
  static_assert(fkv::kv_cache<fkv::dense_cache<fkv::half>>);
  static_assert(!fkv::kv_cache<without_domain>);
  CHECK_FALSE(fkv::kv_cache<int*>);
}
