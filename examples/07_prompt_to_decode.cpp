// SPDX-License-Identifier: Apache-2.0
// From a prompt's cache to one for decoding: two prompts in bf16, in rows, go to int8 pages with a scale per token. The
// longer one is cut on its way; later its pages are cut where they stand, by the same state.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <foresightkv/foresightkv.hpp>
#include <vector>

namespace fkv = foresightkv;

namespace {

constexpr int page_size = 8, num_pages = 12, most_pages = 6, head_dim = 16;
constexpr fkv::cache_shape prompt_shape{.num_sequences = 2,
                                        .num_kv_heads = 2,
                                        .group = 1,
                                        .key_head_dim = head_dim,
                                        .value_head_dim = head_dim,
                                        .capacity = 96};
using prompt_cache = fkv::dense_cache<fkv::bfloat16>;
using decode_cache = fkv::paged_cache<fkv::scaled_by_token<std::int8_t>, page_size>;

/// Stands for the model: a token's key or value.
float element(int head, int position, int dim) {
  return static_cast<float>((position * 7 + head * 3 + dim * 5) % 11) / 11.0f - 0.4f;
}
/// Stands for the engine's kernel that appends a token, as int8.
template <class Vectors>
void append(Vectors const& to, int slot, int head, int position, int shift) {
  float largest = 0.0f;
  for (int d = 0; d < head_dim; ++d) largest = std::max(largest, std::fabs(element(head, position, d + shift)));
  *to.scale_at(slot) = largest / 127.0f;
  for (int d = 0; d < head_dim; ++d)
    to.at(slot)[d] = fkv::element_traits<std::int8_t>::store(element(head, position, d + shift) / to.scale(slot));
}

}  // namespace

int main() {
  std::vector<fkv::bfloat16> prompt_keys(2 * 2 * 96 * head_dim), prompt_values(prompt_keys);
  std::vector<std::int32_t> prompt_lengths{90, 20};
  auto const prompts = prompt_cache::hnd(prompt_keys.data(), prompt_values.data(), prompt_lengths.data(), prompt_shape);
  for (int s = 0; s < 2; ++s)
    for (int head = 0; head < 2; ++head)
      for (int slot = 0; slot < prompt_lengths[static_cast<std::size_t>(s)]; ++slot)
        for (int d = 0; d < head_dim; ++d) {
          prompts.key({0, s, head}, slot)[d] = fkv::element_traits<fkv::bfloat16>::store(element(head, slot, d));
          prompts.value({0, s, head}, slot)[d] = fkv::element_traits<fkv::bfloat16>::store(element(head, slot, d + 1));
        }

  // Pages that nobody else reads, for a whole prompt or for its budget.
  constexpr fkv::eviction_config config{.budget = 32, .interval = 8, .sink_tokens = 4};
  fkv::cache_shape shape = prompt_shape;
  shape.capacity = most_pages * page_size;
  std::vector<std::int8_t> keys(num_pages * page_size * 2 * head_dim), values(keys);
  std::vector<float> key_scales(num_pages * page_size * 2), value_scales(key_scales);
  std::vector<std::int32_t> tables(2 * most_pages), lengths{32, 20}, new_lengths(2);
  for (std::size_t i = 0; i < tables.size(); ++i) tables[i] = static_cast<std::int32_t>(tables.size() - 1 - i);
  auto const pages =
      decode_cache::nhd(keys.data(), values.data(), {num_pages},
                        fkv::page_table::per_sequence(tables.data(), most_pages, num_pages), lengths.data(), shape)
          .with_scales(key_scales.data(), value_scales.data());

  auto const policy = fkv::compose<config>(fkv::key_diff{}, fkv::top_k{}, fkv::ordered{});
  fkv::sequence_list const all{.max_count = 2, .max_length = prompt_shape.capacity};
  std::vector<std::byte> columns(fkv::state_bytes(policy, shape, shape.capacity)),
      scratch(fkv::evict_into_bytes(fkv::host, policy, prompt_shape, all, 0));
  auto const state = fkv::make_state(policy, shape, shape.capacity, columns);
  fkv::batch const prefilled{policy, prompts, all, state, scratch};
  fkv::observation<fkv::bfloat16> const nothing{};  // key_diff reads keys alone
  fkv::status done = fkv::reset(fkv::host, state, all);
  if (done.ok()) done = fkv::evict(fkv::host, prefilled.into(pages), nothing, {.new_lengths = new_lengths.data()});
  for (int s = 0; s < 2; ++s)
    std::printf("prompt %d: %d of %d tokens in pages, flags %u\n", s, new_lengths[static_cast<std::size_t>(s)],
                prompt_lengths[static_cast<std::size_t>(s)], state.flags[s]);
  lengths = new_lengths;

  float worst = 0.0f;
  for (int slot = 0; slot < lengths[0]; ++slot)
    for (int d = 0; d < head_dim; ++d) {
      auto const stored = pages.keys({0, 0, 0});
      float const right = element(0, state.position[state.column(0, slot)], d);
      worst = std::max(worst, std::fabs(fkv::to_float(stored.at(slot)[d]) * stored.scale(slot) - right));
    }
  std::printf("no key is off by more than %.4f\n", static_cast<double>(worst));

  // Decoding goes on in pages, and so do evictions.
  for (int step = 0; step < config.interval; ++step)
    for (int s = 0; s < 2; ++s) {
      int const slot = lengths[static_cast<std::size_t>(s)]++, position = (s == 0 ? 90 : 20) + step;
      for (int head = 0; head < 2; ++head) {
        append(pages.keys({0, s, head}), slot, head, position, 0);
        append(pages.values({0, s, head}), slot, head, position, 1);
      }
    }
  fkv::batch const decoding{policy, pages, all, state, scratch};
  if (done.ok()) done = fkv::evict(fkv::host, decoding, nothing, {.new_lengths = new_lengths.data()});
  std::printf("%s: %d of %d and %d of %d tokens stay; the newest is %d\n", done.message(), new_lengths[0], lengths[0],
              new_lengths[1], lengths[1], state.position[state.column(0, new_lengths[0] - 1)]);
  return done.ok() ? 0 : 1;
}
