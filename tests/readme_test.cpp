// SPDX-License-Identifier: Apache-2.0
// The README's program, run on a small cache. What it shows must compile and do what it says.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include <foresightkv/foresightkv.hpp>

#include "support/random.hpp"

namespace fkv = foresightkv;

namespace {

inline constexpr fkv::eviction_config decode_32{.budget = 32, .interval = 8, .sink_tokens = 4};
using scorer = fkv::weighted_sum<fkv::standardised<fkv::foresight<>>, fkv::standardised<fkv::window_sum>>;

struct my_scorer {
  using reads = fkv::statistics<fkv::sum>;
  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const& lanes, Token const& token) const {
    return token.mean(fkv::sum{}) -
           0.1f * std::sqrt(lanes.sum(token.key_head_dim(), [&](int d) { return token.key(d) * token.key(d); }));
  }
};

template <class Scorer>
std::vector<int> kept_after_evict(Scorer const& by) {
  constexpr fkv::cache_shape shape{.num_layers = 1,
                                   .num_sequences = 3,
                                   .num_kv_heads = 2,
                                   .group = 2,
                                   .key_head_dim = 16,
                                   .value_head_dim = 16,
                                   .capacity = 48};
  testing::random_source random(4);
  std::vector<fkv::bfloat16> keys(3 * 2 * 48 * 16), values(keys.size()), queries(3 * 4 * 8 * 16);
  random.fill_normal<fkv::bfloat16>(keys);
  random.fill_normal<fkv::bfloat16>(values);
  random.fill_normal<fkv::bfloat16>(queries);
  std::vector<float> const lse(3 * 4 * 8, 3.0f);
  std::vector<std::int32_t> const lengths{39, 40, 44};
  std::vector<std::int32_t> new_lengths(3, -1), due_slots(3), due_count(1);
  fkv::sequence_list const active{nullptr, nullptr, 3, 48};

  auto const policy = fkv::compose<decode_32>(by, fkv::top_k{}, fkv::fill_holes{});
  auto const cache = fkv::dense_cache<fkv::bfloat16>::hnd(keys.data(), values.data(), lengths.data(), shape);
  auto const window = fkv::observation<fkv::bfloat16>::hnd(queries.data(), shape, 8).with_lse(lse.data());
  std::vector<std::byte> state_memory(fkv::state_bytes(policy, shape, 40));
  auto const state = fkv::make_state(policy, shape, 40, state_memory);
  std::vector<std::byte> memory(fkv::evict_bytes(fkv::host, policy, shape, active, 8));
  CHECK(fkv::reset(fkv::host, state, active).ok());

  CHECK(fkv::collect_due(fkv::host, fkv::batch{policy, cache, active, state}, due_slots.data(), due_count.data()).ok());
  CHECK(due_count[0] == 2);
  CHECK(fkv::evict(fkv::host, fkv::batch{policy, cache, {due_slots.data(), due_count.data(), 3, 48}, state, memory},
                   window, {new_lengths.data()})
            .ok());
  CHECK(new_lengths == std::vector<std::int32_t>{-1, 32, 32});
  int const row = state.row({0, 2, 1});
  std::vector<int> positions(state.position + state.column(row, 0), state.position + state.column(row, 32));
  for (int sink = 0; sink < 4; ++sink) CHECK(std::count(positions.begin(), positions.end(), sink) == 1);
  for (int recent = 36; recent < 44; ++recent) CHECK(std::count(positions.begin(), positions.end(), recent) == 1);
  return positions;
}

}  // namespace

TEST_CASE("the README's policy and scorer evict what is due and keep what is protected") {
  fkv::judge_shape const judges{1, 2, 2, 16, 16};
  std::vector<float> packed(fkv::packed_judge_floats(judges));
  testing::random_source random(5);
  random.fill_normal<float>(packed, 0.2f);
  fkv::judge_weights const weights{packed.data(), judges};
  auto const by_judge = kept_after_evict(scorer{0.9f, {weights}, 0.1f, {}});
  auto const by_norm = kept_after_evict(my_scorer{});
  CHECK(by_judge != by_norm);
}
