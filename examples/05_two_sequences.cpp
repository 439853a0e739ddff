// SPDX-License-Identifier: Apache-2.0
// An engine's loop: two sequences of different lengths decode 40 tokens, and each is cut when it is due.
#include <algorithm>
#include <cstdio>
#include <foresightkv/foresightkv.hpp>
#include <vector>

namespace fkv = foresightkv;

namespace {

constexpr fkv::eviction_config config{.budget = 24, .interval = 8, .sink_tokens = 2};
constexpr int head_dim = 8, group = 2, most_tokens = 40;
constexpr fkv::cache_shape shape{.num_sequences = 2,
                                 .num_kv_heads = 1,
                                 .group = group,
                                 .key_head_dim = head_dim,
                                 .value_head_dim = head_dim,
                                 .capacity = most_tokens};

/// Stands for the model: a token's key, value or query.
float element(int sequence, int token, int dim) {
  return static_cast<float>((token * 7 + sequence * 3 + dim * 5) % 11) / 11.0f - 0.4f;
}

/// The last `interval` queries of every sequence, [sequence][query head][query][dim], oldest first.
class query_window {
 public:
  void push(int sequence, int token) {
    for (int head = 0; head < group; ++head) {
      float* const queries = at(sequence, head);
      std::copy(queries + head_dim, queries + config.interval * head_dim, queries);
      for (int d = 0; d < head_dim; ++d)
        queries[(config.interval - 1) * head_dim + d] = element(sequence, token + head, d);
    }
  }
  [[nodiscard]] auto view() const { return fkv::observation<float>::hnd(queries_.data(), shape, config.interval); }

 private:
  [[nodiscard]] float* at(int sequence, int head) {
    return queries_.data() + static_cast<std::ptrdiff_t>(sequence * group + head) * config.interval * head_dim;
  }
  std::vector<float> queries_ = std::vector<float>(2 * group * config.interval * head_dim);
};

}  // namespace

int main() {
  // The engine's memory.
  std::vector<float> keys(2 * most_tokens * head_dim), values(keys.size());
  std::vector<std::int32_t> lengths(2, 0), new_lengths(2, 0), due_slots(2, 0), due_count(1, 0);
  std::vector<int> positions(2, 0);  // position of a sequence's next token: no longer its length, once tokens are gone
  query_window queries;
  auto const decode = [&](int sequence) {
    auto const s = static_cast<std::size_t>(sequence);
    auto const place = static_cast<std::size_t>(sequence * most_tokens + lengths[s]) * head_dim;
    for (int d = 0; d < head_dim; ++d) {
      keys[place + static_cast<std::size_t>(d)] = element(sequence, positions[s], d);  // rotated for that position
      values[place + static_cast<std::size_t>(d)] = element(sequence, positions[s], d + 1);
    }
    queries.push(sequence, positions[s]);
    ++positions[s];
    ++lengths[s];
  };

  // What the library needs, made once.
  auto const policy = fkv::compose<config>(fkv::window_sum{}, fkv::top_k{}, fkv::fill_holes{});
  auto const cache = fkv::dense_cache<float>::hnd(keys.data(), values.data(), lengths.data(), shape);
  fkv::sequence_list const active{.max_count = 2, .max_length = most_tokens};
  fkv::sequence_list const due{due_slots.data(), due_count.data(), 2, most_tokens};
  std::vector<std::byte> columns(fkv::state_bytes(policy, shape, config.budget + config.interval));
  std::vector<std::byte> scratch(fkv::evict_bytes(fkv::host, policy, shape, active, config.interval));
  auto const state = fkv::make_state(policy, shape, config.budget + config.interval, columns);
  fkv::batch const rows{policy, cache, active, state, scratch};

  fkv::status done = fkv::reset(fkv::host, state, active);
  for (int token = 0; token < 10; ++token) decode(1);  // the second sequence has a prompt
  for (int step = 0; step < 40 && done.ok(); ++step) {
    decode(0);
    decode(1);
    done = fkv::collect_due(fkv::host, rows, due_slots.data(), due_count.data());
    if (!done.ok() || due_count[0] == 0) continue;
    new_lengths = lengths;  // of a sequence that is not due, or flagged, evict writes no new length
    done = fkv::evict(fkv::host, rows.visiting(due), queries.view(), {new_lengths.data()});
    for (int i = 0; i < due_count[0]; ++i) {
      auto const s = static_cast<std::size_t>(due_slots[static_cast<std::size_t>(i)]);
      std::printf("step %2d: sequence %zu is at position %d, %d tokens become %d, flags %u\n", step, s, positions[s],
                  lengths[s], new_lengths[s], state.flags[s]);
    }
    lengths = new_lengths;
  }
  std::printf("%s\n", done.message());
  return done.ok() ? 0 : 1;
}
