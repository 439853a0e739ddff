// SPDX-License-Identifier: Apache-2.0
// What libllama's graph shows of its attention while it runs: the cells, the keys and values in them, the queries.
#pragma once

#include <ggml-backend.h>
#include <ggml.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace llama_cpp {

/// Keys, or values, of one layer: those of KV head h in cell c stand from first + c * cell + h * kv_head on.
struct cell_tensor {
  std::byte* first = nullptr;
  std::ptrdiff_t cell = 0, kv_head = 0;  // bytes
};

/// Extents and factors of the attention, alike in all layers.
struct attention_shape {
  int kv_heads = 0, query_heads = 0, key_head_dim = 0, value_head_dim = 0;
  float softmax_scale = 0.0f, soft_cap = 0.0f;

  friend bool operator==(attention_shape const&, attention_shape const&) = default;
};

/// Sees every node of the graph through llama_context_params::cb_eval. One batch of one sequence at a time; flash
/// attention must be on, whose node has queries after RoPE, keys and values at hand.
class graph_watcher {
 public:
  explicit graph_watcher(bool wants_queries) : wants_queries_(wants_queries) {}

  /// libllama asks first whether it should stop behind a node, and calls again when the node is there.
  static bool callback(ggml_tensor* node, bool asks, void* watcher) {
    auto& self = *static_cast<graph_watcher*>(watcher);
    if (asks) return self.wants(*node);
    if (node->op == GGML_OP_SET_ROWS)
      self.read_cells(*node->src[1]);
    else
      self.read_attention(*node);
    return true;
  }

  /// Forgets what the last batch showed.
  void begin() {
    cells_.clear();
    queries_.clear();
    visible_cells_ = -1;
  }

  /// Why this graph cannot be used; empty if it can. No exception may pass through libllama.
  [[nodiscard]] std::string const& problem() const { return problem_; }

  [[nodiscard]] attention_shape const& shape() const { return shape_; }
  [[nodiscard]] std::vector<cell_tensor> const& keys() const { return keys_; }
  [[nodiscard]] std::vector<cell_tensor> const& values() const { return values_; }

  /// The cell of each token of the batch.
  [[nodiscard]] std::vector<std::int64_t> const& cells() const { return cells_; }
  /// The batch's queries, [layer][token][query head][dim].
  [[nodiscard]] std::vector<float> const& queries() const { return queries_; }
  /// Cells that the batch's newest token attends to, by the mask that libllama made: all that hold a token.
  [[nodiscard]] int visible_cells() const { return visible_cells_; }

 private:
  [[nodiscard]] bool wants(ggml_tensor const& node) const {
    if (node.op == GGML_OP_SET_ROWS) return cells_.empty();  // the first one writes a layer's keys
    return node.op == GGML_OP_FLASH_ATTN_EXT && (wants_queries_ || !knows_layers_ || visible_cells_ < 0);
  }

  void read_cells(ggml_tensor const& indices) {
    if (indices.type != GGML_TYPE_I64)
      return refuse("cells are not numbered as in the libllama that this was made for");
    cells_.resize(static_cast<std::size_t>(ggml_nelements(&indices)));
    ggml_backend_tensor_get(&indices, cells_.data(), 0, ggml_nbytes(&indices));
    knows_layers_ = !keys_.empty();  // the second batch begins
  }

  void read_attention(ggml_tensor const& node) {
    ggml_tensor const &queries = *node.src[0], &keys = *node.src[1], &values = *node.src[2];
    if (cells_.empty() || node.src[3] == nullptr) return refuse("tokens must be cached in cells, and attention masked");
    check(node);
    if (!problem_.empty()) return;
    if (!knows_layers_) {
      keys_.push_back(cells_of(keys));
      values_.push_back(cells_of(values));
    }
    if (visible_cells_ < 0) count_visible(*node.src[3]);
    if (wants_queries_) append(queries);
  }

  void check(ggml_tensor const& node) {
    ggml_tensor const &queries = *node.src[0], &keys = *node.src[1], &values = *node.src[2];
    float factors[3];  // scale, ALiBi's slope, soft cap
    std::memcpy(factors, node.op_params, sizeof factors);
    attention_shape const here{.kv_heads = static_cast<int>(keys.ne[2]),
                               .query_heads = static_cast<int>(queries.ne[2]),
                               .key_head_dim = static_cast<int>(keys.ne[0]),
                               .value_head_dim = static_cast<int>(values.ne[0]),
                               .softmax_scale = factors[0],
                               .soft_cap = factors[2]};
    if (shape_.kv_heads == 0) shape_ = here;
    if (!is_on_host(queries) || !is_on_host(keys) || !is_on_host(values) || !is_on_host(*node.src[3]))
      refuse("keys and values must stand in host memory: use the CPU backend");
    else if (keys.type != GGML_TYPE_F16 || values.type != GGML_TYPE_F16 || queries.type != GGML_TYPE_F32)
      refuse("keys and values must be cached as f16");
    else if (factors[1] != 0.0f || node.src[4] != nullptr)
      refuse("ALiBi and attention sinks are not supported");
    else if (!(here == shape_) || keys.ne[3] != 1)
      refuse("all layers must have the same heads, and one sequence");
  }

  [[nodiscard]] static bool is_on_host(ggml_tensor const& tensor) {
    ggml_backend_buffer_t const buffer = tensor.view_src != nullptr ? tensor.view_src->buffer : tensor.buffer;
    return buffer != nullptr && ggml_backend_buffer_is_host(buffer);
  }
  [[nodiscard]] static cell_tensor cells_of(ggml_tensor const& view) {  // [dim, cell, KV head]
    return {static_cast<std::byte*>(view.data), static_cast<std::ptrdiff_t>(view.nb[1]),
            static_cast<std::ptrdiff_t>(view.nb[2])};
  }

  void count_visible(ggml_tensor const& mask) {  // [cell, token], 0 where a token sees a cell, else -infinity
    constexpr ggml_fp16_t minus_infinity = 0xfc00;
    auto const newest = cells_.size() - 1;
    auto const* const row =
        reinterpret_cast<ggml_fp16_t const*>(static_cast<std::byte const*>(mask.data) + newest * mask.nb[1]);
    visible_cells_ = 0;
    for (std::int64_t cell = 0; cell < mask.ne[0]; ++cell) visible_cells_ += row[cell] != minus_infinity;
  }

  void append(ggml_tensor const& queries) {  // [dim, token, query head]
    auto const dim = static_cast<std::size_t>(queries.ne[0]);
    for (std::int64_t token = 0; token < queries.ne[1]; ++token)
      for (std::int64_t head = 0; head < queries.ne[2]; ++head) {
        auto const place =
            static_cast<std::size_t>(token) * queries.nb[1] + static_cast<std::size_t>(head) * queries.nb[2];
        auto const* const query = reinterpret_cast<float const*>(static_cast<std::byte const*>(queries.data) + place);
        queries_.insert(queries_.end(), query, query + dim);
      }
  }

  void refuse(char const* why) { problem_ = why; }

  bool wants_queries_;
  bool knows_layers_ = false;
  std::string problem_;
  attention_shape shape_;
  std::vector<cell_tensor> keys_, values_;  // by layer
  std::vector<std::int64_t> cells_;
  std::vector<float> queries_;
  int visible_cells_ = -1;
};

}  // namespace llama_cpp
