// SPDX-License-Identifier: Apache-2.0
// A policy of ours over libllama's cells: every row scores its tokens, the rows agree on one score per token, and the
// same tokens go in all of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <foresightkv/foresightkv.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "cell_cache.hpp"
#include "graph_watcher.hpp"

namespace llama_cpp {

/// How rows agree: a cell is one token in all layers and heads, so it can only be freed in all of them.
enum class agreement { mean, max };

struct eviction_settings {
  fkv::eviction_config config{.budget = 384, .interval = 128, .sink_tokens = 4};
  agreement over = agreement::mean;
  int threads = 1;
  std::uint64_t seed = 1;
  fkv::judge_weights judge{};  ///< for the policy foresight; the caller keeps them
};

/// Tokens until the window of queries ends that the next eviction, or the one after, reads: a sequence that holds
/// budget + interval tokens is then at the end of one.
[[nodiscard]] inline int window_left(fkv::eviction_config const& config, int held) {
  int const into = (held - config.budget) % config.interval;
  return into < 0 ? -into : config.interval - into;
}

/// Evicts from one sequence of libllama's.
class cell_eviction {
 public:
  virtual ~cell_eviction() = default;
  /// After each batch, of window_left tokens at most.
  /// \return positions to be freed, ascending; none while nothing is due
  [[nodiscard]] virtual std::span<std::int32_t const> after(graph_watcher const& batch) = 0;
  /// Tokens that have a cell.
  [[nodiscard]] virtual int held() const = 0;
};

template <class Policy>
class cell_eviction_by final : public cell_eviction {
 public:
  static constexpr bool reads_queries = fkv::newest_queries<Policy> > 0;

  cell_eviction_by(Policy const& policy, eviction_settings const& settings, graph_watcher const& seen)
      : policy_(policy),
        config_(policy.config),
        over_(settings.over),
        exec_(fkv::host.threads(settings.threads)),
        factors_(seen.shape()),
        shape_{.num_layers = static_cast<int>(seen.keys().size()),
               .num_kv_heads = factors_.kv_heads,
               .group = factors_.query_heads / factors_.kv_heads,
               .key_head_dim = factors_.key_head_dim,
               .value_head_dim = factors_.value_head_dim,
               .capacity = config_.budget + config_.interval},
        keys_(seen.keys()),
        values_(seen.values()),
        cells_(num_slots()),
        scores_(num_slots()),
        kept_(num_slots()),
        evicted_(num_slots()),
        evicted_positions_(num_slots()),
        evicted_count_(size(shape_.num_rows())),
        queries_(reads_queries ? size(shape_.num_layers) * size(config_.interval) * query_floats() : 0),
        columns_(fkv::state_bytes(policy, shape_, shape_.capacity)),
        scratch_(fkv::evict_bytes(exec_, policy, shape_, all(), config_.interval)),
        state_(fkv::make_state(policy, shape_, shape_.capacity, columns_)) {
    require(fkv::reset(exec_, state_, all()));
  }
  cell_eviction_by(cell_eviction_by const&) = delete;
  cell_eviction_by& operator=(cell_eviction_by const&) = delete;

  std::span<std::int32_t const> after(graph_watcher const& batch) override {
    bool const window_ends = window_left(config_, length_) == static_cast<int>(batch.cells().size());
    append(batch);
    if (!window_ends) return {};
    auto const gone = length_ == shape_.capacity ? cut() : carry_only();
    query_count_ = 0;
    return gone;
  }
  [[nodiscard]] int held() const override { return length_; }

 private:
  using batch_type = fkv::batch<Policy, cell_cache>;

  [[nodiscard]] static std::size_t size(int count) { return static_cast<std::size_t>(count); }
  [[nodiscard]] std::size_t num_slots() const { return size(shape_.num_rows()) * size(shape_.capacity); }
  [[nodiscard]] std::size_t query_floats() const { return size(factors_.query_heads) * size(factors_.key_head_dim); }
  [[nodiscard]] fkv::sequence_list all() const { return {.max_count = 1, .max_length = shape_.capacity}; }
  [[nodiscard]] batch_type rows() {
    cell_cache const cache{shape_, keys_.data(), values_.data(), cells_.data(), &length_};
    return {policy_, cache, all(), state_, scratch_};
  }
  [[nodiscard]] fkv::observation<float> window() const {
    if (!reads_queries) return {};
    auto seen = fkv::observation<float>::nhd(queries_.data(), shape_, config_.interval);
    seen.softmax_scale = factors_.softmax_scale;
    seen.soft_cap = factors_.soft_cap;
    seen.query_count = &query_count_;
    return seen;
  }

  /// The batch's tokens join all rows, its queries the window.
  void append(graph_watcher const& batch) {
    int const tokens = static_cast<int>(batch.cells().size());
    for (int row = 0; row < shape_.num_rows(); ++row)
      std::ranges::transform(batch.cells(), cells_.begin() + row * shape_.capacity + length_,
                             [](std::int64_t cell) { return static_cast<std::int32_t>(cell); });
    length_ += tokens;
    if (!reads_queries) return;
    std::size_t const floats = size(tokens) * query_floats();
    for (int layer = 0; layer < shape_.num_layers; ++layer)
      std::copy_n(batch.queries().data() + size(layer) * floats, floats,
                  queries_.data() + (size(layer) * size(config_.interval) + size(query_count_)) * query_floats());
    query_count_ += tokens;
  }

  /// Statistics that a policy carries cover the queries of windows that cut nothing, too.
  std::span<std::int32_t const> carry_only() {
    if (carries) require(fkv::carry(exec_, rows(), window()));
    return {};
  }

  /// The stages of `evict` one by one, with the agreement between score and select.
  std::span<std::int32_t const> cut() {
    fkv::selection const lists{kept_.data(), evicted_.data(), evicted_count_.data(), evicted_positions_.data(),
                               shape_.capacity};
    std::int32_t new_length = length_;
    if (carries) require(fkv::carry(exec_, rows(), window()));
    require(fkv::score(exec_, rows(), window(), {scores_.data(), shape_.capacity}));
    agree();
    require(fkv::select(exec_, rows(), {scores_.data(), shape_.capacity}, lists));
    require(fkv::compact(exec_, rows(), lists, &new_length));
    length_ = new_length;
    return {evicted_positions_.data(), size(evicted_count_[0])};
  }

  /// Every row gets the mean, or the maximum, of all rows' scores of a token: then all of them select the same.
  void agree() {
    int const num_rows = shape_.num_rows();
    for (int slot = 0; slot < length_; ++slot) {
      auto const of_row = [&](int row) -> float& { return scores_[size(row) * size(shape_.capacity) + size(slot)]; };
      float agreed = of_row(0);
      for (int row = 1; row < num_rows; ++row)
        agreed = over_ == agreement::max ? std::max(agreed, of_row(row)) : agreed + of_row(row);
      if (over_ == agreement::mean) agreed /= static_cast<float>(num_rows);
      for (int row = 0; row < num_rows; ++row) of_row(row) = agreed;
    }
  }

  void require(fkv::status done) const {
    if (!done.ok()) throw std::runtime_error(std::string(done.message()) + " (" + fkv::message(done.where) + ")");
    if (std::uint32_t const flags = state_.flags[0]; flags != 0)
      throw std::runtime_error(fkv::message(fkv::sequence_flag{flags & (0u - flags)}));
  }

  static constexpr bool carries = fkv::carried_statistics<typename Policy::reads>::size > 0;

  Policy policy_;
  fkv::eviction_config config_;
  agreement over_;
  fkv::host_execution exec_;
  attention_shape factors_;
  fkv::cache_shape shape_;
  std::vector<cell_tensor> keys_, values_;
  std::vector<std::int32_t> cells_;  // [row][capacity]
  std::vector<float> scores_;
  std::vector<std::int32_t> kept_, evicted_, evicted_positions_, evicted_count_;
  std::vector<float> queries_;  // [layer][interval][query head][dim]
  std::vector<std::byte> columns_, scratch_;
  fkv::eviction_state<Policy> state_;
  std::int32_t length_ = 0, query_count_ = 0;
};

}  // namespace llama_cpp
