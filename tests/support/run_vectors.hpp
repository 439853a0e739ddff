// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "support/replay.hpp"

namespace testing {

template <class Features>
using judge_policy = fkv::policy<fkv::eviction_config, fkv::foresight<Features>, fkv::top_k, fkv::ordered>;

/// Where an expected value of a run lies: tensors [steps][kv_heads][...], some optional.
struct expected_run {
  int steps = 0;
  int budget = 0;
  int interval = 0;
  double score_tolerance = 0.0;
  double statistics_tolerance = 0.0;
  std::vector<std::int32_t> evicted, evicted_positions, kept_positions;
  std::vector<float> drop_score;
  std::vector<float> statistics;                  // [steps][kv_heads][budget][8 * group]
  std::vector<float> last_statistics_head0;       // [budget][8 * group]
  std::vector<float> final_acc, final_acc_decay;  // [kv_heads][budget][group]
  std::vector<float> final_keys, final_values;    // [kv_heads][budget][dim]

  static expected_run read(vector_file const& file, recording const& tokens, std::string const& prefix) {
    expected_run made;
    made.steps = file.integer("steps");
    made.budget = file.integer("budget");
    made.interval = file.integer("interval");
    made.score_tolerance = file.number("tol_score_abs");
    // Files without a tolerance of their own for statistics take the widest that any file of the family
    // names.
    made.statistics_tolerance = file.has_text("tol_stats_abs") ? file.number("tol_stats_abs") : 2e-4;
    int const heads = tokens.kv_heads;
    made.evicted = file.ints(prefix + "evicted", {made.steps, heads, made.interval});
    made.evicted_positions = file.ints(prefix + "evicted_positions", {made.steps, heads, made.interval});
    made.kept_positions = file.ints(prefix + "kept_positions", {made.steps, heads, made.budget});
    made.drop_score = file.floats(prefix + "drop_score", {made.steps, heads, made.budget});
    int const width = 8 * tokens.group;
    made.optional(file, made.statistics, prefix + "stats", {made.steps, heads, made.budget, width});
    made.optional(file, made.last_statistics_head0, prefix + "last_stats_head0", {made.budget, width});
    made.optional(file, made.final_acc, prefix + "final_acc", {heads, made.budget, tokens.group});
    made.optional(file, made.final_acc_decay, prefix + "final_acc_decay", {heads, made.budget, tokens.group});
    made.optional(file, made.final_keys, prefix + "final_keys", {heads, made.budget, tokens.dim});
    made.optional(file, made.final_values, prefix + "final_values", {heads, made.budget, tokens.dim});
    return made;
  }

 private:
  static void optional(vector_file const& file, std::vector<float>& into, std::string const& name,
                       std::initializer_list<std::int64_t> shape) {
    if (file.has(name)) into = file.floats(name, shape);
  }
};

template <class Features, class Replay>
void add_statistics(Replay const& run, int row, int tokens, float const* stored, worst_difference& worst) {
  int const group = run.shape().group;
  for (int slot = 0; slot < tokens; ++slot) {
    Features::for_each([&](auto feature) {
      for (int j = 0; j < group; ++j) worst.add(run.template feature<decltype(feature)>(row, slot, j), *stored++);
    });
  }
}

template <class Features>
void check_run_step(replay<judge_policy<Features>>& run, expected_run const& expected, int step) {
  int const heads = run.shape().num_kv_heads;
  int const group = run.shape().group;
  auto const place = [&](int head, int width) {
    return static_cast<std::size_t>(step * heads + head) * static_cast<std::size_t>(width);
  };
  worst_difference score, statistics;
  int wrong = 0;
  for (int head = 0; head < heads; ++head) {
    for (int slot = 0; slot < expected.budget; ++slot)
      score.add(run.scores.at(head, slot),
                -expected.drop_score[place(head, expected.budget) + static_cast<std::size_t>(slot)]);
    if (!expected.statistics.empty())
      add_statistics<Features>(run, head, expected.budget,
                               expected.statistics.data() + place(head, expected.budget * 8 * group), statistics);
    auto const evicted = expected.evicted.data() + place(head, expected.interval);
    auto const positions = expected.evicted_positions.data() + place(head, expected.interval);
    auto const kept = expected.kept_positions.data() + place(head, expected.budget);
    wrong += mismatches(run.lists.evicted_of(head), evicted, expected.interval);
    wrong += mismatches(run.lists.positions_of(head), positions, expected.interval);
    wrong += mismatches(run.positions(head), kept, expected.budget);
  }
  INFO("step " << step << ": scores off by " << score.value() << ", statistics by " << statistics.value());
  CHECK(score.within(expected.score_tolerance));
  CHECK((expected.statistics.empty() || statistics.within(expected.statistics_tolerance)));
  CHECK(wrong == 0);
}

template <class Features>
void check_run_end(replay<judge_policy<Features>>& run, expected_run const& expected) {
  using carried = fkv::carried_statistics<typename judge_policy<Features>::reads>;
  int const heads = run.shape().num_kv_heads;
  int const group = run.shape().group;
  int const dim = run.shape().key_head_dim;
  auto const view = run.cache.view();
  worst_difference sums, decays, exact;
  for (int head = 0; head < heads; ++head)
    for (int slot = 0; slot < expected.budget; ++slot) {
      auto const token = static_cast<std::size_t>(head * expected.budget + slot);
      float const* const columns = run.state.view.carried_at(head, slot);
      for (int j = 0; j < group; ++j) {
        auto const at = token * static_cast<std::size_t>(group) + static_cast<std::size_t>(j);
        if (!expected.final_acc.empty())
          sums.add(columns[carried::template index<fkv::accumulated>() * group + j], expected.final_acc[at]);
        if constexpr (carried::template contains<fkv::decayed>)
          if (!expected.final_acc_decay.empty())
            decays.add(columns[carried::template index<fkv::decayed>() * group + j], expected.final_acc_decay[at]);
      }
      for (int d = 0; d < dim && !expected.final_keys.empty(); ++d) {
        auto const at = token * static_cast<std::size_t>(dim) + static_cast<std::size_t>(d);
        exact.add(view.key({0, 0, head}, slot)[d], expected.final_keys[at]);
        exact.add(view.value({0, 0, head}, slot)[d], expected.final_values[at]);
      }
    }
  INFO("end: accumulated off by " << sums.value() << ", decayed by " << decays.value());
  CHECK((expected.final_acc.empty() || sums.within(expected.statistics_tolerance)));
  CHECK((expected.final_acc_decay.empty() || decays.within(expected.statistics_tolerance)));
  CHECK((expected.final_keys.empty() || exact.within(0.0)));
  if (!expected.last_statistics_head0.empty()) {
    worst_difference statistics;
    add_statistics<Features>(run, 0, expected.budget, expected.last_statistics_head0.data(), statistics);
    INFO("statistics of head 0 off by " << statistics.value());
    CHECK(statistics.within(expected.statistics_tolerance));
  }
}

/// Replays a run from the prompt to the last eviction.
template <class Features>
void check_run(vector_file const& file, recording const& tokens, expected_run const& expected, layout order) {
  packed_weights const weights(file, tokens.kv_heads, tokens.group, tokens.dim);
  fkv::eviction_config const config{.budget = expected.budget, .interval = expected.interval};
  judge_policy<Features> const policy{config, {weights.view()}, {}, {}, {}};
  replay<judge_policy<Features>> run(tokens, policy, expected.budget + expected.interval, order);
  run.append(expected.budget);
  run.look(expected.budget);  // the prompt's queries start the carried sums
  for (int step = 0; step < expected.steps; ++step) {
    run.append(expected.budget + (step + 1) * expected.interval);
    run.step(expected.interval);
    check_run_step<Features>(run, expected, step);
  }
  check_run_end<Features>(run, expected);
}

template <class Features>
void check_run(vector_file const& file, recording const& tokens, std::string const& prefix, layout order) {
  INFO("policy " << prefix);
  check_run<Features>(file, tokens, expected_run::read(file, tokens, prefix), order);
}

inline void check_trajectory(fkv::io::safetensors_file const& stored) {
  vector_file const file(stored);
  recording const tokens = recording::read(file);
  if (file.has("evicted")) return check_run<fkv::paper>(file, tokens, "", layout::hnd);
  check_run<fkv::paper>(file, tokens, "paper.", layout::hnd);
  check_run<fkv::reference_checkpoint>(file, tokens, "reference_checkpoint.", layout::nhd);
}

/// value(seed, i) of the large sets' metadata.
inline float generated_value(std::uint64_t seed, std::uint64_t index, double scale) {
  double total = 0.0;
  for (std::uint64_t j = 0; j < 4; ++j) {
    std::uint64_t x = (seed << 32) + 4 * index + j + 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    x ^= x >> 31;
    total += static_cast<double>(x >> 11) * 0x1p-53;
  }
  return static_cast<float>(scale * (total - 2.0));
}

/// A tensor of `count` generated values, checked against the first ones that the file stores.
inline std::vector<float> generate_tensor(vector_file const& file, std::string const& name, std::size_t count) {
  auto const seed = static_cast<std::uint64_t>(file.number("seed_" + name));
  double const scale = file.number("scale_" + name);
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = generated_value(seed, i, scale);
  auto const first = file.floats(name + "_first", {fkv::io::tensor::any});
  REQUIRE(first.size() <= count);
  REQUIRE(std::equal(first.begin(), first.end(), values.begin()));
  return values;
}

inline void check_large_trajectory(fkv::io::safetensors_file const& stored) {
  vector_file const file(stored);
  recording tokens;
  tokens.kv_heads = file.integer("kv_heads");
  tokens.group = file.integer("group");
  tokens.dim = file.integer("head_dim");
  tokens.tokens = file.integer("tokens");
  auto const count = static_cast<std::size_t>(tokens.kv_heads * tokens.tokens) * static_cast<std::size_t>(tokens.dim);
  tokens.q = generate_tensor(file, "q", count * static_cast<std::size_t>(tokens.group));
  tokens.k = generate_tensor(file, "k", count);
  tokens.v = generate_tensor(file, "v", count);
  check_run<fkv::paper>(file, tokens, "paper.", layout::nhd);
  check_run<fkv::reference_checkpoint>(file, tokens, "reference_checkpoint.", layout::hnd);
}

}  // namespace testing
