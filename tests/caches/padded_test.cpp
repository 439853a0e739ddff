// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include <foresightkv/foresightkv.hpp>

#include "support/policy_bench.hpp"

namespace fkv = foresightkv;
using testing::history;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 3,
                                 .num_kv_heads = 2,
                                 .group = 2,
                                 .key_head_dim = 20,
                                 .value_head_dim = 12,
                                 .capacity = 60};
constexpr fkv::cache_shape wide = [] {
  fkv::cache_shape made = shape;
  made.capacity = 75;
  return made;
}();
constexpr fkv::eviction_config config{.budget = 33, .interval = 8, .recent_tokens = 6, .sink_tokens = 2};

template <class Compaction>
using policy_of = fkv::policy<fkv::eviction_config, testing::mixed_scorer, fkv::top_k, Compaction>;

/// A wider tensor whose sequences begin behind pads, with the tokens of a dense cache.
struct padded_memory {
  using cache_type = fkv::padded_cache<fkv::half, fkv::half, fkv::length_domain::row>;
  bool by_head;
  testing::guarded<fkv::half> keys, values;
  testing::guarded<std::int32_t> starts{std::vector<std::int32_t>{0, 15, 7}}, lengths;

  template <class Dense>
  padded_memory(Dense& dense, bool heads_first, testing::random_source& random)
      : by_head(heads_first),
        keys(static_cast<std::size_t>(wide.num_rows() * wide.capacity * wide.key_head_dim)),
        values(static_cast<std::size_t>(wide.num_rows() * wide.capacity * wide.value_head_dim)),
        lengths(dense.lengths) {
    random.fill_normal<fkv::half>(keys);
    random.fill_normal<fkv::half>(values);
    each_token([&](fkv::row_index at, int slot) {
      std::copy_n(dense.view().key(at, slot), wide.key_head_dim, token(keys, at, slot, wide.key_head_dim));
      std::copy_n(dense.view().value(at, slot), wide.value_head_dim, token(values, at, slot, wide.value_head_dim));
    });
  }
  [[nodiscard]] cache_type view() {
    return by_head ? cache_type::hnd(keys.data(), values.data(), starts.data(), lengths.data(), wide)
                   : cache_type::nhd(keys.data(), values.data(), starts.data(), lengths.data(), wide);
  }
  [[nodiscard]] fkv::half* token(testing::guarded<fkv::half>& all, fkv::row_index at, int slot, int dim) const {
    int const place = starts[static_cast<std::size_t>(at.sequence)] + slot;
    int const block = at.layer * 3 + at.sequence;
    int const inside = by_head ? at.kv_head * wide.capacity + place : place * 2 + at.kv_head;
    return all.data() + (block * 2 * wide.capacity + inside) * dim;
  }
  template <class Body>
  void each_token(Body const& body) const {
    for (int row = 0; row < shape.num_rows(); ++row)
      for (int slot = 0; slot < shape.capacity; ++slot) body(fkv::row_index{row / 6, row / 2 % 3, row % 2}, slot);
  }
};

template <class Compaction>
void check(std::uint64_t seed) {
  CAPTURE(seed);
  using policy_type = policy_of<Compaction>;
  testing::policy_bench<policy_type, fkv::half, fkv::length_domain::row> dense(seed, {config, {}, {}, {}, {}}, shape,
                                                                               5);
  dense.place(Compaction::moves_tokens ? history::ordered : history::holes);
  dense.place(1, history::pristine, 60);
  padded_memory padded(dense.cache, seed % 2 == 0, dense.random);
  auto expected = padded;
  REQUIRE(padded.view().check().ok());
  auto state = dense.state;
  auto lists = dense.lists;
  auto new_lengths = dense.new_lengths;
  auto work = testing::workspace_for<policy_type>(wide, dense.list(), 5);
  REQUIRE(fkv::evict(testing::exec, fkv::batch{dense.policy, padded.view(), dense.list(), state.view, work.view()},
                     dense.window.view(), {new_lengths.data(), lists.view()})
              .ok());
  REQUIRE(dense.evict().ok());
  CHECK(testing::same_state(state.view, dense.state.view));
  CHECK(lists.same(dense.lists));
  CHECK(new_lengths.same_bytes(dense.new_lengths));
  expected.each_token([&](fkv::row_index at, int slot) {
    std::copy_n(dense.cache.view().key(at, slot), 20, expected.token(expected.keys, at, slot, 20));
    std::copy_n(dense.cache.view().value(at, slot), 12, expected.token(expected.values, at, slot, 12));
  });
  CHECK((padded.keys.same_bytes(expected.keys) && padded.values.same_bytes(expected.values)));  // pads too
  for (int s = 0; s < 3; ++s) CHECK(state.view.flags[s] == 0);
}

}  // namespace

TEST_CASE("padded_cache: the bits of a dense cache, pads untouched") {
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    check<fkv::ordered>(seed);
    check<fkv::fill_holes>(seed);
    check<fkv::slot_list>(seed);
  }
}

TEST_CASE("padded_cache: pads and tokens that do not fit flag their sequence") {
  using policy_type = policy_of<fkv::ordered>;
  testing::policy_bench<policy_type, fkv::half, fkv::length_domain::row> dense(9, {config, {}, {}, {}, {}}, shape, 5);
  for (int s = 0; s < 3; ++s) dense.place(s, history::pristine, 60);
  padded_memory padded(dense.cache, true, dense.random);
  padded.starts = testing::guarded<std::int32_t>(std::vector<std::int32_t>{15, 16, -1});
  auto work = testing::workspace_for<policy_type>(wide, dense.list(), 5);
  std::fill(dense.new_lengths.begin(), dense.new_lengths.end(), -7);
  REQUIRE(fkv::evict(testing::exec,
                     fkv::batch{dense.policy, padded.view(), dense.list(), dense.state.view, work.view()},
                     dense.window.view(), {dense.new_lengths.data()})
              .ok());
  CHECK(dense.state.view.flags[0] == 0);
  for (int s : {1, 2}) CHECK(dense.state.view.flags[s] == static_cast<std::uint32_t>(fkv::sequence_flag::bad_length));
  CHECK(dense.new_length({0, 0, 0}) == 33);
  CHECK(dense.new_length({0, 1, 0}) == -7);
  CHECK(padded.keys.intact());
}
