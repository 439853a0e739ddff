// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace paged_engine {

struct model_shape {
  int vocabulary = 64;
  int layers = 2;
  int kv_heads = 2;
  int group = 2;  ///< query heads per KV head
  int head_dim = 8;

  [[nodiscard]] constexpr int query_heads() const { return kv_heads * group; }
  [[nodiscard]] constexpr int hidden() const { return query_heads() * head_dim; }
};

/// Row-major, [out][in].
struct layer_weights {
  std::vector<float> query, key, value, output, up, down;
};

/// A decoder of random weights, the same for a seed on every machine: grouped-query attention after RoPE, a gated unit
/// of two matrices, RMS norms before both. It writes no text, but its tokens depend on every token that it attends to.
/// Attention itself is not here: the engine does it, over its pages.
class model {
 public:
  model(model_shape const& shape, std::uint64_t seed) : shape_(shape), random_(seed) {
    auto const hidden = shape.hidden(), kv = shape.kv_heads * shape.head_dim;
    embedding_ = matrix(shape.vocabulary, hidden, 1.0f);
    for (int layer = 0; layer < shape.layers; ++layer)
      layers_.push_back({matrix(hidden, hidden, 1.5f), matrix(kv, hidden, 1.5f), matrix(kv, hidden, 1.0f),
                         matrix(hidden, hidden, 1.0f), matrix(2 * hidden, hidden, 1.0f),
                         matrix(hidden, 2 * hidden, 1.0f)});
    head_ = matrix(shape.vocabulary, hidden, 1.0f);
  }

  [[nodiscard]] model_shape const& shape() const { return shape_; }
  [[nodiscard]] layer_weights const& weights(int layer) const { return layers_[static_cast<std::size_t>(layer)]; }
  [[nodiscard]] std::vector<float> const& embedding() const { return embedding_; }
  [[nodiscard]] std::vector<float> const& head() const { return head_; }

  [[nodiscard]] std::vector<float> embed(int token) const {
    auto const first = embedding_.begin() + std::ptrdiff_t{token} * shape_.hidden();
    return {first, first + shape_.hidden()};
  }
  /// Queries [query head][dim], keys and values [kv head][dim] of one token, rotated for its position.
  void project(int layer, std::vector<float> const& hidden, int position, float* query, float* key,
               float* value) const {
    layer_weights const& by = weights(layer);
    std::vector<float> const input = normed(hidden);
    int const kv = shape_.kv_heads * shape_.head_dim;
    multiply(by.query, input, query, shape_.hidden());
    multiply(by.key, input, key, kv);
    multiply(by.value, input, value, kv);
    for (int head = 0; head < shape_.query_heads(); ++head) rotate(query + head * shape_.head_dim, position);
    for (int head = 0; head < shape_.kv_heads; ++head) rotate(key + head * shape_.head_dim, position);
  }
  /// What follows attention in a layer. \param attended  [query head][dim]
  void finish(int layer, float const* attended, std::vector<float>& hidden) const {
    layer_weights const& by = weights(layer);
    std::vector<float> const mixed(attended, attended + shape_.hidden());
    add_product(by.output, mixed, hidden);
    std::vector<float> inner(static_cast<std::size_t>(2 * shape_.hidden()));
    multiply(by.up, normed(hidden), inner.data(), 2 * shape_.hidden());
    for (float& x : inner) x /= 1.0f + std::exp(-x);
    add_product(by.down, inner, hidden);
  }
  /// The most likely next token; of equal ones the first.
  [[nodiscard]] int greedy(std::vector<float> const& hidden) const {
    std::vector<float> logits(static_cast<std::size_t>(shape_.vocabulary));
    multiply(head_, normed(hidden), logits.data(), shape_.vocabulary);
    return static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }

 private:
  /// Uniform numbers of the variance gain^2 / in. Standard distributions differ from library to library.
  std::vector<float> matrix(int out, int in, float gain) {
    std::vector<float> values(static_cast<std::size_t>(out) * static_cast<std::size_t>(in));
    float const width = gain * std::sqrt(12.0f / static_cast<float>(in));
    for (float& value : values) value = (static_cast<float>(random_() >> 40) / 16777216.0f - 0.5f) * width;
    return values;
  }
  static std::vector<float> normed(std::vector<float> values) {
    float squares = 0.0f;
    for (float const x : values) squares += x * x;
    float const factor = 1.0f / std::sqrt(squares / static_cast<float>(values.size()) + 1e-6f);
    for (float& x : values) x *= factor;
    return values;
  }
  static void multiply(std::vector<float> const& matrix, std::vector<float> const& input, float* out, int rows) {
    float const* weight = matrix.data();
    for (int row = 0; row < rows; ++row) {
      float sum = 0.0f;
      for (float const x : input) sum += *weight++ * x;
      out[row] = sum;
    }
  }
  static void add_product(std::vector<float> const& matrix, std::vector<float> const& input, std::vector<float>& out) {
    std::vector<float> product(out.size());
    multiply(matrix, input, product.data(), static_cast<int>(out.size()));
    for (std::size_t i = 0; i < out.size(); ++i) out[i] += product[i];
  }
  /// RoPE with base 10,000; dimension d turns with dimension d + head_dim / 2.
  void rotate(float* vector, int position) const {
    int const half = shape_.head_dim / 2;
    for (int d = 0; d < half; ++d) {
      float const angle =
          static_cast<float>(position) * std::pow(10000.0f, -static_cast<float>(d) / static_cast<float>(half));
      float const x = vector[d], y = vector[d + half];
      vector[d] = x * std::cos(angle) - y * std::sin(angle);
      vector[d + half] = x * std::sin(angle) + y * std::cos(angle);
    }
  }

  model_shape shape_;
  std::mt19937_64 random_;
  std::vector<float> embedding_, head_;
  std::vector<layer_weights> layers_;
};

}  // namespace paged_engine
