// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <foresightkv/foresightkv.hpp>
#include <foresightkv/golden/eviction.hpp>
#include <foresightkv/io/trace.hpp>
#include <memory_resource>
#include <span>
#include <stdexcept>
#include <vector>

namespace evict_trace {

namespace fkv = foresightkv;

inline std::size_t as_size(std::int64_t count) { return static_cast<std::size_t>(count); }

inline void require(fkv::status done, char const* what) {
  if (!done.ok()) throw std::runtime_error(std::string(what) + ": " + done.message());
}

/// Scores of one moment: what each token of each KV head is still worth from the next token on.
struct golden_scores {
  float const* data = nullptr;
  std::int64_t head_stride = 0;

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float at(int kv_head, int position) const {
    return data[kv_head * head_stride + position];
  }
};

/// Golden Eviction's scores of every token of a layer at every moment: the largest mean attention that any
/// query block from the next one on pays to it in the full cache. Block b holds the queries b L .. b L + L
/// - 1.
class golden_table {
 public:
  golden_table(fkv::io::trace_layer const& layer, int interval, int tokens, fkv::host_execution host,
               std::pmr::memory_resource* memory = std::pmr::new_delete_resource())
      : interval_(interval), tokens_(tokens), future_(memory) {
    // The scores depend on the block alone; the smallest budget gives a row for every block from the third
    // on.
    fkv::golden_config const config{.budget = interval, .interval = interval};
    auto const& shape = layer.shape;
    steps_ = config.steps(tokens);
    future_.resize(as_size(shape.kv_heads) * as_size(steps_) * as_size(tokens));
    std::int64_t const head = std::int64_t{shape.tokens} * shape.key_head_dim;
    fkv::golden_input<float> const input{
        .queries = layer.query.data(),
        .keys = layer.key.data(),
        .shape = {.kv_heads = shape.kv_heads, .group = shape.group(), .tokens = tokens, .head_dim = shape.key_head_dim},
        .query_strides = {.head = head, .token = shape.key_head_dim},
        .key_strides = {.head = head, .token = shape.key_head_dim}};
    std::vector<std::byte> scratch(fkv::golden_eviction_bytes(host, config, input.shape));
    require(fkv::golden_eviction(host, config, input, {.future = future_.data()}, scratch), "golden_eviction");
  }

  /// Scores when `next` is the next token to arrive.
  [[nodiscard]] golden_scores before(int next) const {
    auto const step = next / interval_ - 2;
    return {future_.data() + std::int64_t{step} * tokens_, std::int64_t{steps_} * tokens_};
  }

 private:
  int interval_;
  int tokens_;
  int steps_ = 0;
  std::pmr::vector<float> future_;  // [kv_heads][steps][tokens]
};

/// The oracle as a scorer: it knows where it stands in time, and looks the future up.
struct oracle {
  using reads = fkv::statistics<>;

  golden_scores scores{};

  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const& token) const {
    return scores.at(token.kv_head(), token.position());
  }
};

}  // namespace evict_trace
