// SPDX-License-Identifier: Apache-2.0
// An engine with pages: two sequences share the pages of their prompt, decode 200 tokens each in a pool that would not
// hold them, and every eviction gives pages back.
#include <algorithm>
#include <cstdio>
#include <foresightkv/foresightkv.hpp>
#include <vector>

namespace fkv = foresightkv;

namespace {

constexpr int page_size = 8, num_pages = 16, most_pages = 7, head_dim = 8, prompt = 16;
constexpr fkv::cache_shape shape{.num_sequences = 2,
                                 .num_kv_heads = 2,
                                 .group = 1,
                                 .key_head_dim = head_dim,
                                 .value_head_dim = head_dim,
                                 .capacity = most_pages * page_size};
using pages = fkv::paged_cache<float, page_size>;

/// The engine's allocator: free pages, and how many sequences read each of the others.
struct page_allocator {
  std::vector<std::int32_t> free, owners = std::vector<std::int32_t>(num_pages);

  page_allocator() {
    for (int page = num_pages; page-- > 0;) free.push_back(page);
  }
  std::int32_t take() {
    std::int32_t const page = free.back();
    free.pop_back();
    owners[static_cast<std::size_t>(page)] = 1;
    return page;
  }
  void give_back(std::int32_t page) {
    if (--owners[static_cast<std::size_t>(page)] == 0) free.push_back(page);
  }
};

/// Stands for the model: a token's key or value.
float element(int head, int position, int dim) {
  return static_cast<float>((position * 7 + head * 3 + dim * 5) % 11) / 11.0f - 0.4f;
}

}  // namespace

int main() {
  // The engine's memory, as vLLM has it: [2][page][token][kv_head][dim], block tables, lengths.
  std::vector<float> pool(static_cast<std::size_t>(2 * num_pages * page_size * 2 * head_dim));
  std::vector<std::int32_t> tables(2 * most_pages, -1), lengths(2, 0), new_lengths(2, 0), freed(tables), freed_count(2);
  std::vector<int> positions(2, 0);
  page_allocator allocator;
  auto const cache = pages::vllm(pool.data(), {num_pages}, tables.data(), most_pages, lengths.data(), shape)
                         .with_owners(allocator.owners.data());
  auto const decode = [&](int sequence) {
    auto const s = static_cast<std::size_t>(sequence);
    int const slot = lengths[s]++;
    std::int32_t& page = tables[s * most_pages + static_cast<std::size_t>(slot / page_size)];
    if (slot % page_size == 0) page = allocator.take();
    for (int head = 0; head < 2; ++head)
      for (int d = 0; d < head_dim; ++d) {
        cache.key({0, sequence, head}, slot)[d] = element(head, positions[s], d);
        cache.value({0, sequence, head}, slot)[d] = element(head, positions[s], d + 1);
      }
    ++positions[s];
  };

  // Tokens of the prompt never move: its pages may be shared.
  constexpr fkv::eviction_config config{.budget = 40, .interval = 16, .sink_tokens = prompt};
  auto const policy = fkv::compose<config>(fkv::key_diff{}, fkv::top_k{}, fkv::ordered{});
  fkv::sequence_list const active{.max_count = 2, .max_length = shape.capacity};
  std::vector<std::byte> state_memory(fkv::state_bytes(policy, shape, shape.capacity)),
      scratch(fkv::evict_bytes(fkv::host, policy, shape, active, 0));
  auto const state = fkv::make_state(policy, shape, shape.capacity, state_memory);
  fkv::batch const rows{policy, cache, active, state, scratch};
  fkv::status done = fkv::reset(fkv::host, state, active);

  for (int i = 0; i < prompt; ++i) decode(0);
  for (std::size_t i = 0; i < prompt / page_size; ++i) {  // the second sequence reads the same pages
    tables[most_pages + i] = tables[i];
    ++allocator.owners[static_cast<std::size_t>(tables[i])];
  }
  lengths[1] = positions[1] = prompt;

  std::size_t fewest = num_pages;
  for (int step = 1; step <= 200 && done.ok(); ++step)
    for (int sequence = 0; sequence < 2 && done.ok(); ++sequence) {
      auto const s = static_cast<std::size_t>(sequence);
      decode(sequence);
      fewest = std::min(fewest, allocator.free.size());
      if (lengths[s] < config.budget + config.interval) continue;
      std::vector<std::int32_t> const slots{sequence};
      done = fkv::evict(fkv::host, rows.visiting({slots.data(), nullptr, 1, shape.capacity}),
                        fkv::observation<float>{},  // key_diff reads keys alone
                        {.new_lengths = new_lengths.data(), .freed = {freed.data(), freed_count.data(), most_pages}});
      if (step <= 56)
        std::printf("step %d: sequence %d keeps %d of %d tokens; pages", step, sequence, new_lengths[s], lengths[s]);
      for (int i = 0; i < freed_count[s]; ++i) {
        std::int32_t const page = freed[s * most_pages + static_cast<std::size_t>(i)];
        if (step <= 56) std::printf(" %d", page);
        allocator.give_back(page);
      }
      if (step <= 56) std::printf(" are free again, flags %u\n", state.flags[s]);
      lengths[s] = new_lengths[s];
    }

  for (int sequence = 0; sequence < 2; ++sequence) {  // both end, and give back what they hold
    auto const s = static_cast<std::size_t>(sequence);
    for (int i = 0; i * page_size < lengths[s]; ++i)
      allocator.give_back(tables[s * most_pages + static_cast<std::size_t>(i)]);
  }
  std::printf("%s: %d tokens in a pool of %d; never fewer than %d pages free; %d of %d free at the end\n",
              done.message(), positions[0] + positions[1], num_pages * page_size, static_cast<int>(fewest),
              static_cast<int>(allocator.free.size()), num_pages);
  return done.ok() && allocator.free.size() == num_pages ? 0 : 1;
}
