// SPDX-License-Identifier: Apache-2.0
// A scorer of your own: attention times the length of the value, for a token that is looked at but says
// nothing adds nothing to the output. Only the two methods are compared here; `examples/evict_trace` replays
// them on a real model.
#include <cmath>
#include <cstdio>
#include <foresightkv/foresightkv.hpp>
#include <vector>

namespace fkv = foresightkv;

struct attention_times_value {
  using reads = fkv::statistics<fkv::sum>;  // only what is read is ever computed

  template <class Lanes, class Token>  // the same source on the host and on a GPU; higher = keep
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const& lanes, Token const& token) const {
    float const squares =
        lanes.sum(token.value_head_dim(), [&](int dim) { return token.value(dim) * token.value(dim); });
    return token.mean(fkv::sum{}) * std::sqrt(squares);
  }
};

/// Prints which tokens a scorer would evict, and evicts none: a dry run.
template <class Scorer>
bool try_scorer(char const* name, Scorer scorer, fkv::dense_cache<float> const& cache,
                fkv::observation<float> const& window) {
  fkv::eviction_config const config{.budget = 8, .interval = 4};
  auto const policy = fkv::compose(config, scorer, fkv::top_k{}, fkv::ordered{});
  fkv::sequence_list const all{.max_count = 1, .max_length = 12};
  std::vector<std::byte> memory(fkv::state_bytes(policy, cache.shape(), 12));
  auto const state = fkv::make_state(policy, cache.shape(), 12, memory);
  std::vector<std::byte> scratch(fkv::evict_bytes(fkv::host, policy, cache.shape(), all, window.max_queries));
  std::int32_t new_length = 0, count = 0, positions[12] = {};
  fkv::eviction_output output{.new_lengths = &new_length, .dry_run = true};
  output.lists = {.evicted_count = &count, .evicted_positions = positions, .capacity = 12};

  fkv::status done = fkv::reset(fkv::host, state, all);
  if (done.ok()) done = fkv::evict(fkv::host, fkv::batch{policy, cache, all, state, scratch}, window, output);
  std::printf("%s: %s, would evict the tokens", name, done.message());
  for (int i = 0; i < count; ++i) std::printf(" %d", positions[i]);
  std::printf("\n");
  return done.ok();
}

int main() {
  // 12 cached tokens of one head. Each is attended to a little more than the one before it; the first is an
  // attention sink: everyone looks at it, and its value is nearly 0.
  fkv::cache_shape const shape{.key_head_dim = 2, .value_head_dim = 2, .capacity = 12};
  std::vector<float> keys(24), values(24, 1.0f), queries(4 * 2, 1.0f);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = 0.1f * static_cast<float>(i / 2);
  keys[0] = keys[1] = 2.0f;
  values[0] = values[1] = 0.01f;
  std::int32_t const length = 12;
  auto const cache = fkv::dense_cache<float>::hnd(keys.data(), values.data(), &length, shape);
  auto const window = fkv::observation<float>::hnd(queries.data(), shape, 4);
  bool const fine = try_scorer("window_sum", fkv::window_sum{}, cache, window) &&
                    try_scorer("attention_times_value", attention_times_value{}, cache, window);
  return fine ? 0 : 1;
}
