// SPDX-License-Identifier: Apache-2.0
// Golden Eviction of one layer from queries and keys, told to run by side_by_side.py; README.md says what is
// timed.

#include "worker.hpp"

#include <cstdint>
#include <foresightkv/golden/eviction.hpp>
#include <memory>

namespace fkv = foresightkv;

namespace {

constexpr int tokens = 4096;
constexpr fkv::golden_config config{.budget = peers::budget, .interval = 256};
static_assert(config.valid() && config.aligned());

struct labels {
  std::vector<float> score;
  std::vector<std::int32_t> evicted;
};

/// Everything that a caller of the published builder gets, allocated here as that code does.
labels build(fkv::host_execution exec, fkv::golden_input<float> const& input) {
  auto const rows = static_cast<std::size_t>(config.steps(tokens)) * peers::kv_heads;
  labels result{std::vector<float>(rows * config.budget), std::vector<std::int32_t>(rows * config.interval)};
  auto const bytes = fkv::golden_eviction_bytes(exec, config, input.shape);
  auto const scratch = std::make_unique_for_overwrite<std::byte[]>(bytes);
  fkv::golden_output output;
  output.labels = result.score.data();
  output.evicted = result.evicted.data();
  auto const status = fkv::golden_eviction(exec, config, input, output, {scratch.get(), bytes});
  if (!status.ok()) peers::fail(status.message());
  return result;
}

}  // namespace

int main(int count, char** words) {
  auto const given = peers::parse(count, words);
  constexpr auto head_elements = static_cast<std::size_t>(tokens) * peers::head_dim;
  auto const queries = peers::read(given.inputs, "query", peers::kv_heads * peers::group * head_elements);
  auto const keys = peers::read(given.inputs, "key", peers::kv_heads * head_elements);
  fkv::golden_input<float> input;
  input.queries = queries.data();
  input.keys = keys.data();
  input.shape = {peers::kv_heads, peers::group, tokens, peers::head_dim};

  labels last;
  auto const run = [&] {
    last = {};  // the published program lets go of its last results too
    return peers::seconds_of([&] { last = build(fkv::host.threads(given.threads), input); });
  };
  auto const save = [&](std::string const& directory) {
    peers::write<float>(directory, "score.f32", last.score);
    peers::write<std::int32_t>(directory, "evicted.i32", last.evicted);
  };
  return peers::serve("golden_eviction", given, run, save);
}
