// SPDX-License-Identifier: Apache-2.0
#include "measures.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace evict_trace {
namespace {

constexpr int tile_queries = 32;

/// One KV head, with its keys transposed: logits then vectorise over tokens without reordering any sum.
struct kv_head {
  int number = 0;
  std::vector<float> keys;        // [key_head_dim][tokens]
  float const* values = nullptr;  // [tokens][value_head_dim]
};

kv_head take_head(fkv::io::trace_layer const& layer, int number, int tokens) {
  auto const& shape = layer.shape;
  kv_head head{number, std::vector<float>(as_size(tokens) * as_size(shape.key_head_dim)),
               layer.value.data() + std::int64_t{number} * shape.tokens * shape.value_head_dim};
  auto const* key = layer.key.data() + std::int64_t{number} * shape.tokens * shape.key_head_dim;
  for (int t = 0; t < tokens; ++t, key += shape.key_head_dim)
    for (int dim = 0; dim < shape.key_head_dim; ++dim) head.keys[as_size(std::int64_t{dim} * tokens + t)] = key[dim];
  return head;
}

/// Full-cache attention of one tile of queries, and room for one query's outputs.
struct tile {
  int begin = 0;
  int end = 0;
  std::vector<float> attention;  // [group][tile_queries][tokens], 0 beyond the query's own position
  std::vector<float> outputs;    // [group][tile_queries][value_head_dim]
  std::vector<float> output;     // [value_head_dim] of a policy
  std::vector<float> logits;     // [tokens] of a query that has to be looked at again
  std::vector<std::int32_t> cached;
};

class measured_layer {
 public:
  measured_layer(fkv::io::trace_layer const& layer, int tokens)
      : layer_(layer), tokens_(tokens), scale_(1.0f / std::sqrt(static_cast<float>(layer.shape.key_head_dim))) {
    for (int head = 0; head < layer.shape.kv_heads; ++head) heads_.push_back(take_head(layer, head, tokens));
  }

  /// One tile of one KV head: the full cache first, then every replay.
  void measure(int head, int begin, std::vector<replayed> const& replays, tile& work, loss* losses) const {
    work.begin = begin;
    work.end = std::min(begin + tile_queries, tokens_);
    attend_fully(heads_[as_size(head)], work);
    for (auto const& [given, what] : replays) measure_replay(heads_[as_size(head)], *given, *what, work, *losses++);
  }

 private:
  [[nodiscard]] int value_dim() const { return layer_.shape.value_head_dim; }
  [[nodiscard]] float* attention_row(tile& work, int j, int t) const {
    return work.attention.data() + (std::int64_t{j} * tile_queries + (t - work.begin)) * tokens_;
  }
  [[nodiscard]] float* output_row(tile& work, int j, int t) const {
    return work.outputs.data() + (std::int64_t{j} * tile_queries + (t - work.begin)) * value_dim();
  }

  /// row[k] = logit of query t for every token k <= t.
  void logits(kv_head const& head, int j, int t, float* row) const {
    auto const& shape = layer_.shape;
    float const* const query =
        layer_.query.data() + (std::int64_t{head.number * shape.group() + j} * shape.tokens + t) * shape.key_head_dim;
    std::fill_n(row, t + 1, 0.0f);
    for (int dim = 0; dim < shape.key_head_dim; ++dim) {
      float const* const keys = head.keys.data() + std::int64_t{dim} * tokens_;
      float const q = query[dim] * scale_;
      for (int k = 0; k <= t; ++k) row[k] += q * keys[k];
    }
  }

  /// out = sum of weights[k] values[k] over some tokens; returns the sum of their weights.
  double mix(float const* weights, float const* values, std::vector<std::int32_t> const& tokens, int count,
             float* out) const {
    int const dims = value_dim();
    std::fill_n(out, dims, 0.0f);
    double total = 0.0;
    int i = 0;
    for (; i + 4 <= count; i += 4) {  // four at a time: the output is loaded and stored a quarter as often
      auto const* const k = tokens.data() + i;
      float const w0 = weights[k[0]], w1 = weights[k[1]], w2 = weights[k[2]], w3 = weights[k[3]];
      float const* const v0 = values + std::int64_t{k[0]} * dims;
      float const* const v1 = values + std::int64_t{k[1]} * dims;
      float const* const v2 = values + std::int64_t{k[2]} * dims;
      float const* const v3 = values + std::int64_t{k[3]} * dims;
      for (int dim = 0; dim < dims; ++dim) out[dim] += (w0 * v0[dim] + w1 * v1[dim]) + (w2 * v2[dim] + w3 * v3[dim]);
      total += (static_cast<double>(w0) + w1) + (static_cast<double>(w2) + w3);
    }
    for (; i < count; ++i) {
      float const weight = weights[tokens[as_size(i)]];
      float const* const value = values + std::int64_t{tokens[as_size(i)]} * dims;
      for (int dim = 0; dim < dims; ++dim) out[dim] += weight * value[dim];
      total += weight;
    }
    return total;
  }

  void attend_fully(kv_head const& head, tile& work) const {
    work.cached.resize(as_size(work.end));
    for (int k = 0; k < work.end; ++k) work.cached[as_size(k)] = k;
    for (int j = 0; j < layer_.shape.group(); ++j)
      for (int t = work.begin; t < work.end; ++t) {
        float* const row = attention_row(work, j, t);
        logits(head, j, t, row);
        float const largest = *std::max_element(row, row + t + 1);
        double total = 0.0;
        for (int k = 0; k <= t; ++k) total += row[k] = std::exp(row[k] - largest);
        auto const norm = static_cast<float>(1.0 / total);
        for (int k = 0; k <= t; ++k) row[k] *= norm;
        float* const output = output_row(work, j, t);
        auto const share = static_cast<float>(1.0 / mix(row, head.values, work.cached, t + 1, output));
        for (int dim = 0; dim < value_dim(); ++dim) output[dim] *= share;
      }
  }

  void measure_replay(kv_head const& head, setting const& given, record const& what, tile& work, loss& sums) const {
    int begin = std::max(work.begin, given.start);
    while (begin < work.end) {
      int const eviction = (begin - given.start) / given.interval;
      int const arrived = given.block_begin(eviction);
      int const end = std::min(work.end, arrived + given.interval);
      auto const* const evicted_at = what.of_head(head.number);
      work.cached.clear();
      for (int k = 0; k < arrived; ++k)
        if (evicted_at[k] > eviction) work.cached.push_back(k);
      auto const kept = static_cast<int>(work.cached.size());
      for (int k = arrived; k < end; ++k) work.cached.push_back(k);
      for (int j = 0; j < layer_.shape.group(); ++j)
        for (int t = begin; t < end; ++t) measure_query(head, j, t, kept + t - arrived + 1, work, sums);
      begin = end;
    }
  }

  /// The query sees the first `count` of work.cached.
  void measure_query(kv_head const& head, int j, int t, int count, tile& work, loss& sums) const {
    float const* const full = output_row(work, j, t);
    float* const output = work.output.data();
    double total = mix(attention_row(work, j, t), head.values, work.cached, count, output);
    sums.recalled += total;
    sums.queries += 1.0;
    constexpr double rounding_shows = 1e-25;
    if (total < rounding_shows) total = attend_again(head, j, t, count, work);
    double error = 0.0, norm = 0.0;
    auto const share = static_cast<float>(1.0 / total);
    for (int dim = 0; dim < value_dim(); ++dim) {
      double const difference = static_cast<double>(output[dim] * share) - full[dim];
      error += difference * difference;
      norm += static_cast<double>(full[dim]) * full[dim];
    }
    sums.squared_error += error;
    sums.squared_norm += norm;
  }

  /// The full cache gave the cached tokens next to nothing: their own softmax starts from the logits.
  double attend_again(kv_head const& head, int j, int t, int count, tile& work) const {
    work.logits.resize(as_size(tokens_));
    float* const row = work.logits.data();
    logits(head, j, t, row);
    float largest = row[work.cached[0]];
    for (int i = 1; i < count; ++i) largest = std::max(largest, row[work.cached[as_size(i)]]);
    for (int i = 0; i < count; ++i) row[work.cached[as_size(i)]] = std::exp(row[work.cached[as_size(i)]] - largest);
    return mix(row, head.values, work.cached, count, work.output.data());
  }

  fkv::io::trace_layer const& layer_;
  int tokens_;
  float scale_;
  std::vector<kv_head> heads_;
};

}  // namespace

std::vector<loss> measure(fkv::io::trace_layer const& layer, std::vector<replayed> const& replays, int tokens,
                          [[maybe_unused]] int threads) {
  measured_layer const measured(layer, tokens);
  int first = tokens;
  for (auto const& replay : replays) first = std::min(first, replay.given->start);
  int const tiles = (tokens - first + tile_queries - 1) / tile_queries;
  int const tasks = tiles * layer.shape.kv_heads;
  std::vector<loss> parts(as_size(tasks) * replays.size());
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
#endif
  {
    tile work;
    auto const rows = as_size(layer.shape.group() * tile_queries);
    work.attention.resize(rows * as_size(tokens));
    work.outputs.resize(rows * as_size(layer.shape.value_head_dim));
    work.output.resize(as_size(layer.shape.value_head_dim));
#if defined(_OPENMP)
#pragma omp for schedule(dynamic)
#endif
    for (int task = 0; task < tasks; ++task)
      measured.measure(task / tiles, first + task % tiles * tile_queries, replays, work,
                       parts.data() + as_size(task) * replays.size());
  }
  std::vector<loss> sums(replays.size());
  for (std::size_t part = 0; part < parts.size(); ++part) sums[part % replays.size()] += parts[part];
  return sums;
}

}  // namespace evict_trace
