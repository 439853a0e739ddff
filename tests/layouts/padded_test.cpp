// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <vector>

#include <foresightkv/layouts/padded.hpp>

namespace fkv = foresightkv;

TEST_CASE("padded: rows begin behind their pads, and their tokens stand as without them") {
  constexpr fkv::cache_shape shape{.num_layers = 2,
                                   .num_sequences = 3,
                                   .num_kv_heads = 4,
                                   .group = 1,
                                   .key_head_dim = 5,
                                   .value_head_dim = 5,
                                   .capacity = 7};
  std::vector<std::int32_t> const starts{0, 3, 6};
  for (auto const& strides : {fkv::cache_strides::hnd(shape, 5), fkv::cache_strides::nhd(shape, 5)}) {
    fkv::padded_strides const layout{strides, starts.data()};
    CHECK(layout.in_layer({1, 0, 2}) == strides.in_layer({1, 0, 2}));
    CHECK(layout.in_layer({1, 1, 2}) == strides.in_layer({1, 1, 2}) + 3 * strides.token);
    CHECK(layout.of({1, 2, 3}) == strides.of({1, 2, 3}) + 6 * strides.token);
    CHECK(layout.map({1, 2, 3})(4) == 4 * strides.token);
    CHECK(layout.check(shape, 5, false).ok());
    CHECK(layout.check(shape, 6, false).code == fkv::errc::invalid_shape);
    CHECK(fkv::padded_strides{strides, nullptr}.check(shape, 5, false).where == fkv::argument::starts);
  }
}
