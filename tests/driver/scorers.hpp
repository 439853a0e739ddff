// SPDX-License-Identifier: Apache-2.0
#pragma once

// The formulas of docs/scorers.md, naively.

#include <array>
#include <cmath>
#include <vector>

#include "driver/attention.hpp"

namespace driver {

/// All that a score may depend on.
struct scored_row {
  row_tokens tokens;
  statistics_table window, carried;
  std::uint32_t model_row = 0;  // model layer * heads of the model + head
  std::uint32_t request_id = 0;
  std::uint32_t step = 0;
  int judge = 0;  // which head's judge
  window_memory const* queries = nullptr;
  fkv::row_index at{};
};

/// Scores, and the size of what was added up for each: rounding is relative to that.
struct rating {
  numbers score, size;
  bool uncertain = false;  // a comparison inside was too close to call

  explicit rating(int slots) : score(static_cast<std::size_t>(slots)), size(static_cast<std::size_t>(slots)) {}
  void set(int slot, double value, double magnitude) {
    score[static_cast<std::size_t>(slot)] = value;
    size[static_cast<std::size_t>(slot)] = magnitude;
  }
};

/// Scores every occupied slot by itself; empty ones get 0, which nobody looks at.
template <class Score>
rating rate_each(row_tokens const& tokens, Score const& score) {
  rating made(tokens.length());
  for (int slot = 0; slot < tokens.length(); ++slot) {
    if (!tokens.occupied(slot)) continue;
    double const value = score(static_cast<std::size_t>(slot));
    made.set(slot, value, std::fabs(value));
  }
  return made;
}

inline rating group_mean(row_tokens const& tokens, statistics_table const& table, int which) {
  return rate_each(tokens, [&](std::size_t slot) { return table.mean(static_cast<int>(slot), which); });
}

inline rating per_query(row_tokens const& tokens, statistics_table const& table, int which) {
  return rate_each(tokens, [&](std::size_t slot) {
    return table.mean(static_cast<int>(slot), which) / (tokens.end - tokens.position[slot]);
  });
}

inline double norm(numbers const& vector) { return std::sqrt(dot(vector, vector)); }

inline rating key_norm(row_tokens const& tokens) {
  return rate_each(tokens, [&](std::size_t slot) { return -norm(tokens.key[slot]); });
}

inline numbers unit(numbers vector) {
  double const length = norm(vector);
  for (double& value : vector) value = length > 0.0 ? value / length : 0.0;
  return vector;
}

inline rating key_diff(row_tokens const& tokens) {
  numbers mean(tokens.key.empty() ? 0 : tokens.key[0].size(), 0.0);
  for (int slot = 0; slot < tokens.length(); ++slot) {
    if (!tokens.occupied(slot)) continue;
    numbers const key = unit(tokens.key[static_cast<std::size_t>(slot)]);
    for (std::size_t dim = 0; dim < mean.size(); ++dim) mean[dim] += key[dim];
  }
  // What rounds is the sum of unit keys: where they cancel, the cosine with it is as uncertain.
  double const uncertain = std::max(1.0, std::sqrt(tokens.length()) / std::max(norm(mean), 1e-3));
  rating made = rate_each(tokens, [&](std::size_t slot) { return -dot(unit(tokens.key[slot]), unit(mean)); });
  for (double& size : made.size) size = uncertain;
  return made;
}

inline rating streaming_llm(row_tokens const& tokens) {
  return rate_each(tokens, [&](std::size_t slot) { return tokens.position[slot] - (tokens.end - 1); });
}

/// Philox4x32-10 as published (Salmon, Moraes, Dror, Shaw; SC 2011): the first word.
inline std::uint32_t philox(std::array<std::uint32_t, 4> counter, std::uint64_t key) {
  std::array<std::uint32_t, 2> keys{static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)};
  for (int round = 0; round < 10; ++round) {
    std::uint64_t const a = std::uint64_t{0xD2511F53} * counter[0];
    std::uint64_t const b = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ keys[0], static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ keys[1], static_cast<std::uint32_t>(a)};
    keys[0] += 0x9E3779B9;
    keys[1] += 0xBB67AE85;
  }
  return counter[0];
}

/// Uniform in (0, 1): the middles of 2^23 equal parts.
inline rating random_scores(scored_row const& row, std::uint64_t seed) {
  return rate_each(row.tokens, [&](std::size_t slot) {
    auto const position = static_cast<std::uint32_t>(row.tokens.position[slot]);
    std::uint32_t const drawn = philox({position, row.request_id, row.model_row, row.step}, seed ^ 0x72616e646f6d2073u);
    return (static_cast<double>(drawn >> 9) + 0.5) / 8388608.0;
  });
}

/// Judges of a model as published: a drop score, larger = evict.
struct judges {
  static constexpr int hidden = 16;
  int inputs = 0;
  std::vector<float> fc1_weight, fc1_bias, fc2_weight,
      fc2_bias;  // [head][inputs][hidden], [head][hidden], ..., [head]

  judges() = default;
  judges(int heads, int width, testing::random_source& random) : inputs(width) {
    auto const fill = [&](std::vector<float>& values, int count, float size) {
      for (int i = 0; i < heads * count; ++i) values.push_back(size * random.normal());
    };
    fill(fc1_weight, inputs * hidden, 0.2f);
    fill(fc1_bias, hidden, 0.5f);
    fill(fc2_weight, hidden, 0.5f);
    fill(fc2_bias, 1, 1.0f);
  }

  /// A score, and the size of what is added up for it.
  struct judged {
    double score = 0.0, terms = 0.0;
  };
  [[nodiscard]] judged drop_score(int head, numbers const& input) const {
    judged made{fc2_bias[static_cast<std::size_t>(head)], 0.0};
    for (int unit = 0; unit < hidden; ++unit) {
      auto const place = static_cast<std::size_t>(head * hidden + unit);
      double x = fc1_bias[place], terms = 0.0;
      for (int i = 0; i < inputs; ++i) {
        auto const weight = static_cast<std::size_t>((head * inputs + i) * hidden + unit);
        double const term = input[static_cast<std::size_t>(i)] * fc1_weight[weight];
        x += term;
        terms += std::fabs(term);
      }
      made.score += 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0))) * fc2_weight[place];
      made.terms += terms * std::fabs(fc2_weight[place]);
    }
    return made;
  }
};

/// The features of a judge: window statistics by their place, carried ones behind them.
inline rating judge_scores(scored_row const& row, judges const& weights, std::array<int, 8> const& features) {
  rating made(row.tokens.length());
  for (int slot = 0; slot < row.tokens.length(); ++slot) {
    if (!row.tokens.occupied(slot)) continue;
    numbers input = row.tokens.key[static_cast<std::size_t>(slot)];
    numbers const& value = row.tokens.value[static_cast<std::size_t>(slot)];
    input.insert(input.end(), value.begin(), value.end());
    for (int const feature : features)
      for (int j = 0; j < row.window.group; ++j) {
        int const from = row.window.num_statistics;
        input.push_back(feature < from ? row.window.at(slot, feature, j) : row.carried.at(slot, feature - from, j));
      }
    auto const judged = weights.drop_score(row.judge, input);
    made.set(slot, -judged.score, 1.0 + std::fabs(judged.score) + 0.01 * judged.terms);
  }
  return made;
}

inline rating weighted(double first_weight, rating const& first, double second_weight, rating const& second) {
  rating made = first;
  for (std::size_t slot = 0; slot < made.score.size(); ++slot) {
    made.score[slot] = first_weight * first.score[slot] + second_weight * second.score[slot];
    made.size[slot] = std::fabs(first_weight) * first.size[slot] + std::fabs(second_weight) * second.size[slot];
  }
  return made;
}

/// Softmax over the first `count` entries; all 0 if there is none above minus infinity.
inline numbers softmax(numbers values, int count) {
  values.resize(static_cast<std::size_t>(count));
  double const sum = log_sum_exp(values, -HUGE_VAL);
  for (double& value : values) value = std::isfinite(sum) ? std::exp(value - sum) : 0.0;
  return values;
}

/// Largest logit over the query heads that are not masked.
inline numbers largest_logits(scored_row const& row, int r) {
  window_memory const& window = *row.queries;
  numbers made(row.tokens.position.size(), -HUGE_VAL);
  for (int j = 0; j < window.shape.group; ++j) {
    if (window.has_lse && !std::isfinite(window.lse[window.place(row.at, j, r)])) continue;
    int const position = window.first(row.at.sequence, row.tokens.end) + r;
    numbers const logits = logits_of(window, row.tokens, window.query(row.at, j, r), position);
    for (std::size_t slot = 0; slot < made.size(); ++slot) made[slot] = std::max(made[slot], logits[slot]);
  }
  return made;
}

/// Mean over the newest queries, then the largest of the neighbours, for all but the newest `width` tokens.
inline numbers pooled_attention(scored_row const& row, int width, int kernel) {
  int const keys = std::max(0, row.tokens.length() - width);
  int const all = row.queries->count(row.at.sequence);
  int const used = std::min(all, width);
  numbers mean(static_cast<std::size_t>(keys), 0.0);
  for (int r = all - used; r < all; ++r) {
    numbers const p = softmax(largest_logits(row, r), keys);
    for (std::size_t slot = 0; slot < mean.size(); ++slot) mean[slot] += p[slot] / used;
  }
  numbers pooled;
  for (int slot = 0; slot < keys; ++slot) {
    auto const first = mean.begin() + std::max(0, slot - kernel / 2);
    pooled.push_back(*std::max_element(first, mean.begin() + std::min(keys, slot + kernel / 2 + 1)));
  }
  return pooled;
}

/// Scores of all but the newest tokens, which get 1 more than the best of them.
inline rating keep_newest(numbers const& scores, int length) {
  rating made(length);
  double const best = scores.empty() ? 0.0 : *std::max_element(scores.begin(), scores.end());
  for (int slot = 0; slot < length; ++slot) {
    bool const older = slot < static_cast<int>(scores.size());
    double const score = older ? scores[static_cast<std::size_t>(slot)] : best + 1.0;
    made.set(slot, score, std::fabs(score));
  }
  return made;
}

inline rating snap_kv(scored_row const& row, int width, int kernel) {
  return keep_newest(pooled_attention(row, width, kernel), row.tokens.length());
}

/// Column means of the matrix of cosines, without the entries that R-KV takes out; `close_call` if rounding
/// may pick others.
inline numbers mean_similarity(row_tokens const& tokens, double threshold, bool& close_call) {
  auto const n = tokens.position.size();
  std::vector<numbers> units;
  for (numbers const& key : tokens.key) units.push_back(unit(key));
  numbers mean(n, 0.0);
  for (std::size_t i = 0; i < n; ++i) {
    numbers cosines;
    for (std::size_t k = 0; k < n; ++k) cosines.push_back(i == k ? 0.0 : dot(units[i], units[k]));
    std::size_t last = n;
    while (last > 0 && !(cosines[last - 1] > threshold)) --last;
    for (double const cosine : cosines) close_call = close_call || std::fabs(cosine - threshold) < 1e-5;
    cosines[last > 0 ? last - 1 : 0] = 0.0;
    for (std::size_t k = 0; k < n; ++k) mean[k] += cosines[k] / static_cast<double>(n);
  }
  return mean;
}

inline rating r_kv(scored_row const& row, int width, int kernel, double lambda, double threshold) {
  numbers scores = pooled_attention(row, width, kernel);
  bool close_call = false;
  numbers const redundancy = softmax(mean_similarity(row.tokens, threshold, close_call), row.tokens.length());
  for (std::size_t slot = 0; slot < scores.size(); ++slot)
    scores[slot] = lambda * scores[slot] - (1.0 - lambda) * redundancy[slot];
  rating made = keep_newest(scores, row.tokens.length());
  made.uncertain = close_call;
  return made;
}

/// -log(-log(u)) of the draw that names a token, an eviction and the sequence's seed.
inline double gumbel(scored_row const& row, int slot, std::uint64_t seed) {
  auto const position = static_cast<std::uint32_t>(row.tokens.position[static_cast<std::size_t>(slot)]);
  std::uint32_t const drawn = philox({position, row.request_id, row.model_row, row.step}, seed);
  return -std::log(-std::log((static_cast<double>(drawn >> 9) + 0.5) / 8388608.0));
}

}  // namespace driver
