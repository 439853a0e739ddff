// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <vector>

#include <foresightkv/layouts/strided.hpp>
#include <foresightkv/storages/plain.hpp>

namespace fkv = foresightkv;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 3,
                                 .num_kv_heads = 4,
                                 .group = 1,
                                 .key_head_dim = 5,
                                 .value_head_dim = 6,
                                 .capacity = 7};

}  // namespace

TEST_CASE("strided: distances of both layouts") {
  auto const hnd = fkv::cache_strides::hnd(shape, 5);
  CHECK((hnd.token == 5 && hnd.kv_head == 35 && hnd.sequence == 140 && hnd.layer == 420));
  auto const nhd = fkv::cache_strides::nhd(shape, 5);
  CHECK((nhd.kv_head == 5 && nhd.token == 20 && nhd.sequence == 140 && nhd.layer == 420));
  CHECK(hnd.in_layer({1, 2, 3}) == 2 * 140 + 3 * 35);
  CHECK(hnd.of({1, 2, 3}) == 420 + 2 * 140 + 3 * 35);
  CHECK(nhd.of({1, 2, 3}) == 420 + 2 * 140 + 3 * 5);
}

TEST_CASE("strided: where a row's tokens stand, as elements and as bytes") {
  std::vector<float> data(420);
  fkv::laid_out_vectors<fkv::plain<float>, fkv::strided_map> const row{data.data() + 35, {5}, {}};
  CHECK(row.at(6) == data.data() + 65);
  CHECK(row.scale(6) == 1.0f);
  auto const place = row.place();
  CHECK(place(6) == reinterpret_cast<std::byte*>(data.data() + 65));
  CHECK(place.behind(8)(6) == reinterpret_cast<std::byte*>(data.data() + 67));
}

TEST_CASE("strided: tokens are aligned where their first one and the distance are") {
  alignas(16) static std::byte bytes[64];
  auto const place_of = [](std::byte* first, int stride) {
    return fkv::token_place<fkv::strided_map>{first, {stride}};
  };
  CHECK(place_of(bytes, 32).aligned_to(16));
  CHECK_FALSE(place_of(bytes, 24).aligned_to(16));
  CHECK_FALSE(place_of(bytes + 8, 32).aligned_to(16));
  CHECK(place_of(bytes + 8, 24).aligned_to(8));
}

TEST_CASE("strided: what tokens fill without a gap") {
  auto extents = shape;
  extents.num_layers = 2;
  auto const all = std::int64_t{extents.num_rows()} * extents.capacity * 5;
  auto strides = fkv::cache_strides::hnd(extents, 5);
  CHECK(strides.elements(extents, 5) == all);
  CHECK(fkv::cache_strides::nhd(extents, 5).elements(extents, 5) == all);
  ++strides.layer;
  CHECK(strides.elements(extents, 5) == 0);
}
