// SPDX-License-Identifier: Apache-2.0
#pragma once

// Golden Eviction by its definition, in double precision: a T x T attention matrix per query head, every
// future block looked at again at every step, the lowest candidate searched for L times. Slow on purpose;
// shares no code with the library beyond golden_config's fields.

#include <cmath>
#include <cstddef>
#include <limits>
#include <random>
#include <vector>

#include <foresightkv/golden/config.hpp>

namespace golden_oracle {

namespace fkv = foresightkv;

inline std::size_t at(int index) { return static_cast<std::size_t>(index); }

/// Queries [kv_heads * group][tokens][head_dim], keys [kv_heads][tokens][head_dim].
struct problem {
  fkv::golden_shape shape;
  std::vector<float> queries;
  std::vector<float> keys;

  [[nodiscard]] int heads() const { return shape.kv_heads * shape.group; }
  [[nodiscard]] fkv::golden_input<float> input() const {
    fkv::golden_input<float> view;
    view.queries = queries.data();
    view.keys = keys.data();
    view.shape = shape;
    return view;
  }
};

inline problem random_problem(fkv::golden_shape const& shape, unsigned seed, float spread = 1.5f) {
  std::mt19937 generator{seed};
  std::normal_distribution<float> normal{0.0f, spread};
  problem made{shape, {}, {}};
  auto const row = at(shape.tokens) * at(shape.head_dim);
  made.queries.resize(at(made.heads()) * row);
  made.keys.resize(at(shape.kv_heads) * row);
  for (auto& value : made.queries) value = normal(generator);
  for (auto& value : made.keys) value = normal(generator);
  return made;
}

/// Causal softmax attention of one query head, [tokens][tokens]; a row whose sum is not finite is all zero.
/// lse, if not null: natural log-sum-exps [tokens] that replace the row's own sum.
inline std::vector<double> attention(problem const& given, int head, double scale, float const* lse = nullptr) {
  int const tokens = given.shape.tokens, dim = given.shape.head_dim;
  auto const* queries = given.queries.data() + at(head) * at(tokens) * at(dim);
  auto const* keys = given.keys.data() + at(head / given.shape.group) * at(tokens) * at(dim);
  std::vector<double> matrix(at(tokens) * at(tokens), 0.0);
  for (int t = 0; t < tokens; ++t) {
    double* const row = matrix.data() + at(t) * at(tokens);
    double largest = -std::numeric_limits<double>::infinity();
    for (int k = 0; k <= t; ++k) {
      double dot = 0.0;
      for (int d = 0; d < dim; ++d)
        dot +=
            static_cast<double>(queries[at(t) * at(dim) + at(d)]) * static_cast<double>(keys[at(k) * at(dim) + at(d)]);
      row[k] = dot * scale;
      if (row[k] > largest) largest = row[k];
    }
    double sum = 0.0;
    for (int k = 0; k <= t; ++k) sum += std::exp(row[k] - largest);
    double const log_sum = lse == nullptr ? largest + std::log(sum) : static_cast<double>(lse[t]);
    for (int k = 0; k <= t; ++k) row[k] = std::isfinite(log_sum) ? std::exp(row[k] - log_sum) : 0.0;
  }
  return matrix;
}

/// Natural log-sum-exps [kv_heads * group][tokens] of the scaled logits.
inline std::vector<float> log_sum_exp(problem const& given, double scale) {
  int const tokens = given.shape.tokens, dim = given.shape.head_dim;
  std::vector<float> all;
  for (int head = 0; head < given.heads(); ++head)
    for (int t = 0; t < tokens; ++t) {
      double sum = 0.0;
      for (int k = 0; k <= t; ++k) {
        double dot = 0.0;
        for (int d = 0; d < dim; ++d)
          dot += static_cast<double>(given.queries[(at(head) * at(tokens) + at(t)) * at(dim) + at(d)]) *
                 static_cast<double>(given.keys[(at(head / given.shape.group) * at(tokens) + at(k)) * at(dim) + at(d)]);
        sum += std::exp(dot * scale);
      }
      all.push_back(static_cast<float>(std::log(sum)));
    }
  return all;
}

/// Means of the future blocks, [kv_heads][blocks][tokens].
inline std::vector<double> block_means(fkv::golden_config const& config, problem const& given, double scale) {
  int const tokens = given.shape.tokens, group = given.shape.group, first = 1 + config.budget / config.interval;
  int const blocks = std::max(0, (tokens + config.interval - 1) / config.interval - first);
  std::vector<double> means(at(given.shape.kv_heads) * at(blocks) * at(tokens), 0.0);
  for (int head = 0; head < given.heads(); ++head) {
    auto const matrix = attention(given, head, scale);
    for (int block = 0; block < blocks; ++block)
      for (int k = 0; k < tokens; ++k) {
        double sum = 0.0;
        int rows = 0;
        for (int t = (first + block) * config.interval; t < tokens && rows < config.interval; ++t, ++rows)
          sum += matrix[at(t) * at(tokens) + at(k)];
        double const mean = sum / (config.rules == fkv::golden_rules::published ? config.interval : rows);
        double& out = means[(at(head / group) * at(blocks) + at(block)) * at(tokens) + at(k)];
        if (config.reduction == fkv::golden_reduction::mean)
          out += mean / group;
        else if (head % group == 0 || mean > out)
          out = mean;
      }
  }
  return means;
}

/// Score of a token whose means of the blocks from the step's first future block on are `future`.
inline double future_score(fkv::golden_config const& config, std::vector<double> const& future) {
  double score = 0.0, weight = 1.0, best = std::numeric_limits<double>::quiet_NaN();
  for (double const mean : future) {
    if (std::isnan(best) || mean > best) best = mean;
    score += weight * mean;
    if (config.future == fkv::golden_future::discounted) weight *= static_cast<double>(config.discount);
  }
  if (config.future == fkv::golden_future::maximum) return best;
  return config.future == fkv::golden_future::mean ? score / static_cast<double>(future.size()) : score;
}

/// Indices of the `count` lowest scores, ascending: NaN is lowest, of equal scores the lowest index goes
/// first.
template <class Score>
std::vector<int> lowest(std::vector<Score> const& scores, int count) {
  std::vector<bool> gone(scores.size(), false);
  for (int n = 0; n < count; ++n) {
    std::size_t pick = scores.size();
    for (std::size_t i = 0; i < scores.size(); ++i) {
      if (gone[i]) continue;
      bool const lower =
          pick == scores.size() || (std::isnan(scores[i]) && !std::isnan(scores[pick])) || scores[i] < scores[pick];
      if (lower) pick = i;
    }
    gone[pick] = true;
  }
  std::vector<int> indices;
  for (std::size_t i = 0; i < scores.size(); ++i)
    if (gone[i]) indices.push_back(static_cast<int>(i));
  return indices;
}

/// The whole schedule of one KV head from its block means[block][token]: scores, indices and positions per
/// step.
struct schedule {
  std::vector<std::vector<double>> scores;
  std::vector<std::vector<int>> evicted;
  std::vector<std::vector<int>> positions;
};

template <class Mean>
schedule solve(fkv::golden_config const& config, int tokens, int blocks, Mean const& mean) {
  schedule result;
  std::vector<int> survivors;
  for (int t = 0; t < tokens; ++t) survivors.push_back(t);
  for (int step = 0; step<blocks&& static_cast<int>(survivors.size())> config.budget + config.interval; ++step) {
    std::vector<double> scores;
    for (int i = 0; i < config.budget; ++i) {
      std::vector<double> future;
      for (int block = step; block < blocks; ++block) future.push_back(mean(block, survivors[at(i)]));
      scores.push_back(future_score(config, future));
    }
    auto const evicted = lowest(scores, config.interval);
    std::vector<int> positions;
    for (int const index : evicted) positions.push_back(survivors[at(index)]);
    for (auto index = evicted.rbegin(); index != evicted.rend(); ++index) survivors.erase(survivors.begin() + *index);
    result.scores.push_back(scores);
    result.evicted.push_back(evicted);
    result.positions.push_back(positions);
  }
  return result;
}

}  // namespace golden_oracle
