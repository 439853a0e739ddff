// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include <foresightkv/scorers/foresight.hpp>
#include <foresightkv/storages/plain.hpp>

#include "support/policy_bench.hpp"
#include "support/random_judges.hpp"

namespace fkv = foresightkv;

namespace {

/// Scores of the judge, which reads keys and values, of a cache whose two element types differ, against those of a
/// cache of floats with the same numbers on the host.
template <class Key, class Value, class Query>
void compare_types(std::uint64_t seed) {
  CAPTURE(seed);
  fkv::cache_shape const shape{.num_layers = 1,
                               .num_sequences = 2,
                               .num_kv_heads = 2,
                               .group = 3,
                               .key_head_dim = 72,
                               .value_head_dim = 40,
                               .capacity = 150};
  using policy_type = fkv::policy<fkv::eviction_config, fkv::foresight<>, fkv::top_k, fkv::ordered>;
  testing::random_source random(seed);
  testing::random_judges const judges({1, 2, 3, 72, 40}, random);
  policy_type const policy{{.budget = 100, .interval = 20}, {{judges.view()}}, {}, {}, {}};
  testing::owned_state<policy_type> const state(shape, shape.capacity);
  auto const tokens = static_cast<std::size_t>(shape.num_rows() * shape.capacity);
  testing::guarded<Key> keys(tokens * 72);
  testing::guarded<Value> values(tokens * 40);
  random.fill_normal<Key>(keys);
  random.fill_normal<Value>(values);
  testing::guarded<float> wide_keys(keys.size()), wide_values(values.size());
  for (std::size_t i = 0; i < keys.size(); ++i) wide_keys[i] = fkv::to_float(keys[i]);
  for (std::size_t i = 0; i < values.size(); ++i) wide_values[i] = fkv::to_float(values[i]);
  testing::guarded<std::int32_t> const lengths(2, 150);
  testing::owned_window<Query> const window(shape, 20, true, random);
  testing::guarded<float> wide_queries(window.queries.size());
  for (std::size_t i = 0; i < wide_queries.size(); ++i) wide_queries[i] = fkv::to_float(window.queries[i]);
  fkv::sequence_list const list{nullptr, nullptr, 2, 150};

  auto const score = [&](auto const& exec, auto const& cache, auto const& seen) {
    testing::owned_scores scores(shape, shape.capacity);
    testing::owned_workspace work(fkv::evict_bytes(exec, policy_type{}, shape, list, 20));
    REQUIRE(fkv::score(exec, fkv::batch{policy, cache, list, state.view, work.view()}, seen, scores.view()).ok());
    CHECK((work.memory.intact() && scores.values.intact()));
    return scores;
  };
  using wide = fkv::dense_cache<float>;
  auto const expected = score(fkv::host, wide::hnd(wide_keys.data(), wide_values.data(), lengths.data(), shape),
                              fkv::observation<float>::hnd(wide_queries.data(), shape, 20));
  using narrow = fkv::dense_cache<Key, Value>;
  auto const got = score(testing::exec, narrow::hnd(keys.data(), values.data(), lengths.data(), shape), window.view());
  int wrong = 0;
  for (std::size_t i = 0; i < expected.values.size(); ++i)
    wrong += !(std::fabs(got.values[i] - expected.values[i]) <= 5e-5f);
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("plain: keys and values may have different types") {
  compare_types<fkv::bfloat16, fkv::float8_e4m3, fkv::bfloat16>(1);  // together on tensor cores
  compare_types<fkv::float8_e4m3, fkv::bfloat16, fkv::bfloat16>(2);
  compare_types<fkv::float8_e4m3, fkv::half, fkv::bfloat16>(3);  // apart: no type holds both
  compare_types<fkv::half, float, fkv::half>(4);
  compare_types<float, fkv::bfloat16, float>(5);
}
