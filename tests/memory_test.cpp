// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>

#include <foresightkv/foresightkv.hpp>

namespace fkv = foresightkv;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 32,
                                 .num_sequences = 1,
                                 .num_kv_heads = 8,
                                 .group = 4,
                                 .key_head_dim = 128,
                                 .value_head_dim = 128,
                                 .capacity = 1152};

/// Mebibytes with two decimals.
double mebibytes(std::size_t bytes) { return std::round(static_cast<double>(bytes) / 0x1p20 * 100.0) / 100.0; }

template <class Scorer, class Compaction = fkv::fill_holes>
void expect(double state, double workspace, int queries) {
  using policy = fkv::policy<fkv::eviction_config, Scorer, fkv::top_k, Compaction>;
  fkv::sequence_list const list{nullptr, nullptr, 1, shape.capacity};
  CHECK(mebibytes(fkv::state_bytes(policy{}, shape, shape.capacity)) == state);
  CHECK(mebibytes(fkv::evict_bytes(fkv::host.threads(1), policy{}, shape, list, queries)) == workspace);
}

}  // namespace

TEST_CASE("memory: the worked example of docs/memory.md") {
  expect<fkv::foresight<>>(10.13, 0.96, 128);
  expect<fkv::accumulated_sum>(5.63, 0.83, 128);
  expect<fkv::window_sum>(1.13, 0.81, 128);
  expect<fkv::snap_kv<>, fkv::ordered>(1.13, 0.82, 8);
  CHECK(mebibytes(sizeof(float) * fkv::packed_judge_floats({32, 8, 4, 128, 128})) == 4.55);
}

TEST_CASE("memory: the formula of a state") {
  using policy = fkv::policy<fkv::eviction_config, fkv::foresight<>, fkv::top_k, fkv::fill_holes>;
  std::size_t const rows = 32 * 8, slots = rows * 1152, expected = slots * 4 * (1 + 2 * 4) + rows * 12 + 16;
  std::size_t const bytes = fkv::state_bytes(policy{}, shape, 1152);
  CHECK(bytes >= expected);
  CHECK(bytes <= expected + 9 * 64);  // eight arrays, and the buffer, begin at multiples of 64
}
