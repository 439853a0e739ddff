// SPDX-License-Identifier: Apache-2.0
// How many sequences of 8,192 tokens one pool serves at once, with and without eviction; then a mixed load in a small
// pool, with shared prompts, drafts and preemption. Every number is counted by the engine while it runs. Cache, state and
// lists stand in memory that host and device share where there is a device: attention and evictions run there.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory_resource>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "paged_engine/engine.hpp"
#include "paged_engine/policies.hpp"
#include "support/device.hpp"

namespace {

using namespace paged_engine;

constexpr fkv::eviction_config decode_1k{.budget = 1024, .interval = 128, .sink_tokens = 4};
constexpr fkv::eviction_config decode_64{.budget = 64, .interval = 16, .sink_tokens = 4};

std::pmr::memory_resource* memory_of(processor where) {
  return where == processor::cuda ? support::cuda_memory() : std::pmr::new_delete_resource();
}

std::vector<int> random_text(std::mt19937_64& random, int tokens, int vocabulary) {
  std::vector<int> text(static_cast<std::size_t>(tokens));
  for (int& token : text) token = static_cast<int>(random() % static_cast<std::uint64_t>(vocabulary));
  return text;
}

/// Requests of 8,192 tokens in pages for two of them.
void serve_long_requests(std::string_view policy, processor where) {
  constexpr int tokens = 8192, prompt = 8128, page_size = 16;
  model const decoder({.layers = 2, .kv_heads = 1, .group = 2, .head_dim = 8}, 1);
  bool const full = policy == "full";
  memory_shape const extents{.slots = 16,
                             .num_pages = 2 * tokens / page_size,
                             .page_size = page_size,
                             .max_tokens = full ? tokens : decode_1k.budget + decode_1k.interval,
                             .window = full ? 0 : decode_1k.interval};
  engine running(decoder, extents, {.chunk = 128}, eviction_by(policy, decode_1k, where), attention_on(where),
                 memory_of(where));
  std::mt19937_64 random(2);
  for (int i = 0; i < (full ? 3 : 16); ++i)
    running.submit({random_text(random, prompt, decoder.shape().vocabulary), tokens - prompt});
  int together = 0, pages_held = 0;
  while (running.answers().empty()) {  // the first that end were admitted first, all together
    running.step();
    int long_ones = 0;
    for (sequence const& one : running.running()) long_ones += one.computed >= prompt;
    if (long_ones <= together) continue;
    together = long_ones;
    pages_held = running.memory().allocator.num_pages() - running.memory().allocator.num_free();
  }
  std::printf("%-14.*s %9d %12d / %d %9lld %12lld %12lld\n", static_cast<int>(policy.size()), policy.data(), together,
              pages_held, extents.num_pages, static_cast<long long>(running.counters().cuts),
              static_cast<long long>(running.counters().pages_from_cuts),
              static_cast<long long>(running.counters().computed_tokens));
}

/// Short and long answers to prompts that begin alike, in a pool that cannot hold them all.
bool serve_mixed_load(std::string_view policy, processor where) {
  model const decoder({}, 3);
  memory_shape const extents{.slots = 8, .num_pages = 64, .page_size = 8, .max_tokens = 80, .window = 16};
  engine running(decoder, extents, {.chunk = 16, .drafts = 3}, eviction_by(policy, decode_64, where),
                 attention_on(where), memory_of(where));
  std::mt19937_64 random(4);
  std::vector<int> const instructions = random_text(random, 40, decoder.shape().vocabulary);
  for (int i = 0; i < 40; ++i) {
    std::vector<int> prompt = instructions;
    std::vector<int> const question = random_text(random, 8 + i % 5 * 20, decoder.shape().vocabulary);
    prompt.insert(prompt.end(), question.begin(), question.end());
    running.submit({prompt, 20 + i % 7 * 20});
    if (i % 3 == 2) running.step();
  }
  running.run_all();
  engine_counters const& counted = running.counters();
  auto const& answers = running.answers();
  auto const early =
      std::count_if(answers.begin(), answers.end(), [](answer const& one) { return !one.problem.empty(); });
  std::printf("%zu requests, %td ended early; %lld tokens generated, at most %d sequences in %d pages\n",
              answers.size(), early, static_cast<long long>(counted.generated_tokens), counted.most_running,
              counted.most_pages);
  std::printf("%lld evictions, %lld of them into fresh pages; %lld pages shared; %lld preemptions\n",
              static_cast<long long>(counted.cuts), static_cast<long long>(counted.cuts_into_fresh_pages),
              static_cast<long long>(counted.shared_pages), static_cast<long long>(counted.preemptions));
  std::printf("%lld drafts accepted, %lld taken back; %d of %d pages free at the end\n",
              static_cast<long long>(counted.drafts_accepted), static_cast<long long>(counted.drafts_rejected),
              running.memory().allocator.num_free(), extents.num_pages);
  return early == 0 && running.memory().allocator.num_free() == extents.num_pages;
}

struct options {
  std::string policy = "window_sum";
  processor where = support::cuda_problem().empty() ? processor::cuda : processor::host;
};

options parsed(std::vector<std::string> const& words) {
  options chosen;
  bool named = false;
  for (std::string const& word : words) {
    if (word == "--device=host") {
      chosen.where = processor::host;
    } else if (word == "--device=cuda") {
      if (std::string const problem = support::cuda_problem(); !problem.empty())
        throw std::invalid_argument("no device: " + problem);
      chosen.where = processor::cuda;
    } else if (named || word == "full" || word.starts_with("-")) {
      throw std::invalid_argument("usage: paged_engine [POLICY] [--device=host|cuda]; full is run beside it");
    } else {
      chosen.policy = word;
      named = true;
    }
  }
  (void)eviction_by(chosen.policy, decode_1k, chosen.where);  // a name that is none is said before anything is run
  return chosen;
}

}  // namespace

int main(int argc, char** argv) try {
  auto const [policy, where] = parsed({argv + 1, argv + argc});
  std::printf("On the %s. Requests of 8,192 tokens, pages of 16, budget 1,024, interval 128:\n",
              where == processor::cuda ? "CUDA device" : "host");
  std::puts("policy         sequences   pages / pool   evictions  pages back   tokens run");
  serve_long_requests("full", where);
  serve_long_requests(policy, where);
  std::puts("\nPrompts that begin alike, pages of 8, budget 64, interval 16, 3 drafts:");
  return serve_mixed_load(policy, where) ? 0 : 1;
} catch (std::exception const& problem) {
  std::fprintf(stderr, "paged_engine: %s\n", problem.what());
  return 2;
}
