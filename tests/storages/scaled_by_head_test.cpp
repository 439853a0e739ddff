// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <vector>

#include <foresightkv/caches/dense.hpp>
#include <foresightkv/storages/scaled_by_head.hpp>

namespace fkv = foresightkv;

namespace {

using storage = fkv::scaled_by_head<fkv::float8_e4m3>;
constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 3,
                                 .num_kv_heads = 4,
                                 .group = 1,
                                 .key_head_dim = 5,
                                 .value_head_dim = 6,
                                 .capacity = 7};

}  // namespace

TEST_CASE("scaled_by_head: one scale for the tokens of a layer's head, in every sequence") {
  std::vector<float> scales(8);
  for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<float>(i);
  storage const stored{scales.data()};
  CHECK(stored.check().ok());
  for (int sequence = 0; sequence < 3; ++sequence)
    for (int slot : {0, 6}) {
      CHECK(stored.of_row(shape, {0, sequence, 3}).scale(slot) == 3.0f);
      CHECK(stored.of_row(shape, {1, sequence, 2}).scale(slot) == 6.0f);
    }
  CHECK(storage{}.of_row(shape, {1, 0, 2}).scale(0) == 1.0f);
}

TEST_CASE("scaled_by_head: scales move with no token and may be aligned wrong") {
  using cache_type = fkv::dense_cache<storage>;
  CHECK(cache_type::num_parts() == 2);
  std::vector<float> scales(9);
  auto const* const odd = reinterpret_cast<float const*>(reinterpret_cast<std::byte const*>(scales.data()) + 1);
  CHECK(storage{odd}.check().code == fkv::errc::misaligned);
}
