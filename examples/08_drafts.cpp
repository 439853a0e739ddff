// SPDX-License-Identifier: Apache-2.0
// Speculative decoding: drafts are in the cache when an eviction comes, and the rejected ones are taken back after it.
#include <algorithm>
#include <cstdio>
#include <foresightkv/foresightkv.hpp>
#include <vector>

namespace fkv = foresightkv;

namespace {

constexpr fkv::eviction_config config{.budget = 24, .interval = 8, .sink_tokens = 2};
constexpr int drafts = 3, most_tokens = 40, head_dim = 8;
constexpr fkv::cache_shape shape{.num_sequences = 1,
                                 .num_kv_heads = 1,
                                 .group = 1,
                                 .key_head_dim = head_dim,
                                 .value_head_dim = head_dim,
                                 .capacity = most_tokens};

/// Stands for the model: a token's key, value or query.
float element(int token, int dim) { return static_cast<float>((token * 7 + dim * 5) % 11) / 11.0f - 0.4f; }

/// Stands for the verdict of the large model on the drafts of a step.
int rejected(int step) { return step % (drafts + 1); }

}  // namespace

int main() {
  std::vector<float> keys(most_tokens * head_dim), values(keys.size()), queries(config.interval * head_dim);
  std::vector<std::int32_t> lengths(1, 0), counts(1, 0);
  int position = 0;
  auto const decode = [&] {
    auto const place = static_cast<std::size_t>(lengths[0] * head_dim);
    std::copy(queries.begin() + head_dim, queries.end(), queries.begin());
    for (std::size_t d = 0; d < head_dim; ++d) {
      keys[place + d] = element(position, static_cast<int>(d));
      values[place + d] = static_cast<float>(position);  // so that the cache says which tokens it holds
      queries[queries.size() - head_dim + d] = element(position + 1, static_cast<int>(d));
    }
    ++position;
    ++lengths[0];
  };

  auto const policy = fkv::compose<config>(fkv::window_sum{}, fkv::top_k{}, fkv::fill_holes{});
  auto const cache = fkv::dense_cache<float>::hnd(keys.data(), values.data(), lengths.data(), shape);
  auto const window = fkv::observation<float>::hnd(queries.data(), shape, config.interval);
  fkv::evictor evictor(fkv::host, policy, shape, config.interval);

  fkv::status done{};
  while (lengths[0] < config.budget) decode();  // a prompt
  for (int step = 0; step < 12 && done.ok(); ++step) {
    for (int token = 0; token < 1 + drafts; ++token) decode();  // one that stands, and drafts
    int const before = lengths[0];
    if (before >= config.budget + config.interval) {
      done = evictor.evict(cache, window);
      if (!done.ok()) break;
      lengths[0] = evictor.new_lengths()[0];
    }
    int const after = lengths[0];
    // The verdict comes after the cut, which may have moved the drafts: fill_holes moves a row's last tokens first.
    counts[0] = rejected(step);
    done = fkv::take_back(fkv::host, evictor.rows(cache), counts.data(), evictor.new_lengths());
    if (done.ok()) lengths[0] = evictor.new_lengths()[0];
    position -= counts[0];  // the next token gets the first rejected one's position
    float const newest = *std::max_element(values.begin(), values.begin() + lengths[0] * head_dim);
    std::printf("step %2d: %d tokens, %d after the cut, %d without %d rejected; the newest is token %d\n", step, before,
                after, lengths[0], counts[0], static_cast<int>(newest));
  }
  std::printf("%s\n", done.message());
  return done.ok() ? 0 : 1;
}
