// SPDX-License-Identifier: Apache-2.0
#pragma once

// Cases from seeds.

#include <doctest/doctest.h>

#include <cstdlib>
#include <string>

#include "driver/player.hpp"
#include "driver/setups.hpp"

namespace driver {

inline fkv::eviction_config random_config(random_source& random) {
  fkv::eviction_config config;
  config.budget = random.chance(0.04) ? random.integer(25, 150) : random.integer(6, 24);
  config.interval = random.integer(1, 8);
  config.recent_tokens = random.chance(0.4) ? -1 : random.integer(0, config.budget);
  config.sink_tokens = random.chance(0.5) ? 0 : random.integer(0, 4);
  if (!config.valid()) config.recent_tokens = config.sink_tokens = 0;
  return config;
}

inline int random_dim(random_source& random, int least) {
  int const dim = random.chance(0.1)   ? random.integer(41, 132)
                  : random.chance(0.3) ? random.integer(1, 8)
                                       : random.integer(9, 40);
  return std::max(dim, least);
}

/// `model_layers` outlives the shape.
inline fkv::cache_shape random_shape(random_source& random, fkv::eviction_config const& config, int least_key_dim,
                                     std::vector<int>& model_layers) {
  fkv::cache_shape shape;
  shape.num_layers = random.integer(1, 2);
  shape.num_sequences = random.integer(1, 4);
  shape.num_kv_heads = random.integer(1, 2);
  shape.group = random.chance(0.1) ? random.integer(5, 8) : random.integer(1, 4);
  shape.key_head_dim = random_dim(random, least_key_dim);
  shape.value_head_dim = random_dim(random, 1);
  // Now and then rows of several tiles of a kernel.
  shape.capacity =
      config.budget + config.interval + random.integer(0, 30) + (random.chance(0.04) ? random.integer(50, 400) : 0);
  if (random.chance(0.3)) {  // a rank of a model
    shape.first_kv_head = random.integer(0, 2);
    shape.total_kv_heads = shape.first_kv_head + shape.num_kv_heads + random.integer(0, 2);
    for (int layer = 0; layer < shape.num_layers; ++layer) model_layers.push_back(2 * layer + 1);
    shape.layers = model_layers.data();
  }
  return shape;
}

inline memory make_memory(fkv::cache_shape const& shape, setup_values const& setup, fkv::eviction_config const& config,
                          random_source& random) {
  memory made;
  made.shape = shape;
  made.domain = setup.domain;
  made.room.state = config.budget + random.integer(0, 14);
  auto const room = [&] { return shape.capacity - (random.chance(0.2) ? random.integer(1, 6) : 0); };
  made.room.statistics = room();
  made.room.scores = room();
  made.room.lists = room();
  auto const build = [&](token_array& keys, token_array& values, guarded<std::int32_t>& table) {
    auto order = static_cast<layout>(random.integer(0, 2));
    page_map map;
    if (setup.page_size != 0) {
      int const any[] = {1, 2, 3, 5, 8, 16, 33, 64};
      bool const joint = shape.key_head_dim == shape.value_head_dim;
      int const last = setup.domain == fkv::length_domain::sequence ? 3 : 2;  // FlashInfer's lengths are of sequences
      auto const whose = joint ? static_cast<convention>(random.integer(0, last)) : convention::pools;
      if (whose != convention::pools && order == layout::layer_pointers) order = layout::hnd;
      map = {shape, whose, setup.page_size == any_page_size ? any[random.integer(0, 7)] : setup.page_size, random};
      table = guarded<std::int32_t>(map.entries());
    }
    keys = {shape, setup.element, order, shape.key_head_dim, false, map};
    values = {shape, setup.element, order, shape.value_head_dim, true, map};
  };
  build(made.keys, made.values, made.table);
  build(made.target_keys, made.target_values, made.target_table);
  auto const rows = static_cast<std::size_t>(shape.num_rows());
  auto const heads = static_cast<std::size_t>(shape.num_layers * shape.num_kv_heads);
  auto const lengths = setup.domain == fkv::length_domain::sequence ? static_cast<std::size_t>(shape.num_sequences)
                       : setup.domain == fkv::length_domain::layer
                           ? static_cast<std::size_t>(shape.num_layers * shape.num_sequences)
                           : rows;
  made.lengths = guarded<std::int32_t>(lengths, 0);
  made.new_lengths = guarded<std::int32_t>(lengths, -7);
  made.rooms = guarded<std::int32_t>(lengths, 0);
  made.budgets = guarded<std::int32_t>(rows, config.budget);
  made.due_slots = guarded<std::int32_t>(static_cast<std::size_t>(shape.num_sequences + 8), -7);
  made.due_count = guarded<std::int32_t>(1, -7);
  made.scaled = setup.scaled;
  made.key_scales = guarded<float>(heads);
  made.value_scales = guarded<float>(heads);
  float const unit = setup.element == storage::int8 ? 0.02f : 1.0f;
  for (float& scale : made.key_scales) scale = unit * static_cast<float>(random.uniform(0.3, 1.5));
  for (float& scale : made.value_scales) scale = unit * static_cast<float>(random.uniform(0.3, 1.5));
  made.pinned_words = random.integer(0, 4);
  made.pinned = guarded<std::uint32_t>(static_cast<std::size_t>(shape.num_sequences * made.pinned_words), 0u);
  made.num_statistics = setup.num_window();
  made.statistics = guarded<float>(rows * made.row_statistics());
  made.scores = guarded<float>(rows * static_cast<std::size_t>(made.room.scores));
  auto const entries = rows * static_cast<std::size_t>(made.room.lists);
  made.kept = guarded<std::int32_t>(entries, -7);
  made.evicted = guarded<std::int32_t>(entries, -7);
  made.evicted_positions = guarded<std::int32_t>(entries, -7);
  made.evicted_count = guarded<std::int32_t>(rows, -7);
  return made;
}

inline ingredients make_ingredients(fkv::cache_shape const& shape, random_source& random) {
  ingredients made;
  made.seed = random.bits();
  made.first_weight = static_cast<float>(random.uniform(0.2, 2.0));
  made.second_weight = static_cast<float>(random.uniform(-0.5, 0.5));
  fkv::judge_shape& extents = made.judge.shape;
  extents.num_layers = shape.layers == nullptr ? shape.num_layers : shape.layers[shape.num_layers - 1] + 1;
  extents.num_kv_heads = shape.total_kv_heads == 0 ? shape.num_kv_heads : shape.total_kv_heads;
  extents.group = shape.group;
  extents.key_head_dim = shape.key_head_dim;
  extents.value_head_dim = shape.value_head_dim;
  int const inputs = shape.key_head_dim + shape.value_head_dim + 8 * shape.group;
  made.weights = judges(extents.num_layers * extents.num_kv_heads, inputs, random);
  return made;
}

/// Packs the published weights; `given` must not move afterwards.
inline void pack(ingredients& given) {
  judges const& all = given.weights;
  auto const heads = static_cast<std::size_t>(given.judge.shape.num_kv_heads);
  auto const inputs = static_cast<std::size_t>(all.inputs);
  std::vector<fkv::judge_layer> layers;
  for (std::size_t head = 0; head < all.fc2_bias.size(); head += heads)
    layers.push_back({&all.fc1_weight[head * inputs * judges::hidden], &all.fc1_bias[head * judges::hidden],
                      &all.fc2_weight[head * judges::hidden], &all.fc2_bias[head]});
  given.packed.resize(fkv::packed_judge_floats(given.judge.shape));
  REQUIRE(fkv::pack_judge(given.judge.shape, layers.data(), given.packed.data()).ok());
  given.judge.packed = given.packed.data();
}

struct outcome {
  int calls = 0, cuts = 0, near_ties = 0;
  std::string problem;
};

/// Plays one case of about `calls` verb calls.
template <class Setup>
outcome play_case(std::uint64_t seed, int calls) {
  random_source random(seed);
  model engine;
  engine.setup = Setup::values();
  engine.config = random_config(random);
  std::vector<int> model_layers;
  engine.shape = random_shape(random, engine.config, engine.setup.least_key_dim, model_layers);
  engine.extreme =
      engine.setup.query != storage::half && engine.setup.element == engine.setup.query && random.chance(0.1);
  engine.key_exponent = engine.extreme ? 53 : 0;
  engine.query_exponent = engine.extreme ? 53 : random.integer(0, 1);
  engine.sequences.resize(static_cast<std::size_t>(engine.shape.num_sequences));
  for (sequence_model& sequence : engine.sequences)
    sequence.rows.resize(static_cast<std::size_t>(engine.shape.num_layers * engine.shape.num_kv_heads));
  if (Setup::paged && random.chance(0.6)) engine.shape.value_head_dim = engine.shape.key_head_dim;
  memory arrays = make_memory(engine.shape, engine.setup, engine.config, random);
  ingredients given = make_ingredients(engine.shape, random);
  pack(given);
  engine.score = [&](scored_row const& row) { return Setup::scorer::rate(given, row); };
  library_of<Setup> verbs(arrays, Setup::policy(engine.config, given, arrays.budgets.data()));
  player playing(engine, arrays, verbs, random);
  while (playing.calls < calls && playing.problem().empty()) playing.act();
  outcome made{playing.calls, playing.check().cuts, playing.check().near_ties, {}};
  if (!playing.problem().empty())
    made.problem = verifier::text("call ", playing.calls, ", ", playing.last, ": ", playing.problem());
  return made;
}

/// A number from the environment, or `otherwise`.
inline std::uint64_t environment(char const* name, std::uint64_t otherwise) {
  char const* const given = std::getenv(name);
  return given == nullptr ? otherwise : std::strtoull(given, nullptr, 0);
}

/// Plays cases of the setups in turn until `calls` verb calls were made. The seed of a case says which setup
/// it plays.
template <class... Setups>
void play(std::uint64_t default_calls) {
  using run_case = outcome (*)(std::uint64_t, int);
  constexpr run_case cases[] = {&play_case<Setups>...};
  constexpr int calls_per_case = testing::is_emulated ? 50 : 100;
  std::uint64_t const wanted = environment("FORESIGHTKV_DRIVER_CALLS", default_calls);
  std::uint64_t const only = environment("FORESIGHTKV_DRIVER_SEED", 0);
  std::uint64_t calls = 0;
  int cuts = 0, near_ties = 0, failures = 0;
  for (std::uint64_t seed = only == 0 ? 1 : only; calls < wanted && failures < 5; ++seed) {
    outcome const made = cases[seed % sizeof...(Setups)](seed, calls_per_case);
    INFO("FORESIGHTKV_DRIVER_SEED=" << seed << " replays this case: " << made.problem);
    CHECK(made.problem.empty());
    failures += !made.problem.empty();
    calls += static_cast<std::uint64_t>(made.calls);
    cuts += made.cuts;
    near_ties += made.near_ties;
    if (only != 0) break;
  }
  INFO(near_ties << " of " << cuts << " choices were decided by rounding");
  CHECK(near_ties * 200 <= cuts + 200);
  bool const asked = std::getenv("FORESIGHTKV_DRIVER_CALLS") != nullptr;
  if (asked) MESSAGE(calls << " calls, " << cuts << " cuts, " << near_ties << " decided by rounding");
}

}  // namespace driver
