// SPDX-License-Identifier: Apache-2.0
// A context of libllama's that never fills up: the loop of decoding and evicting.
#pragma once

#include <llama.h>

#include <algorithm>
#include <ctime>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "graph_watcher.hpp"
#include "language_model.hpp"
#include "policies.hpp"

namespace llama_cpp {

/// Counted while it runs.
struct context_counters {
  int evictions = 0;
  int most_cells = 0;  ///< by libllama's own mask
  int tokens = 0;
  double seconds = 0.0;           ///< of the processor, for everything
  double eviction_seconds = 0.0;  ///< choosing and freeing cells
};

class evicting_context {
 public:
  /// \param policy  null: evicts nothing
  evicting_context(language_model const& model, int n_ctx, policy_entry const* policy,
                   eviction_settings const& settings)
      : policy_(policy), settings_(settings), watcher_(policy != nullptr && policy->reads_queries) {
    if (policy != nullptr) settings_.config = policy->config(settings);
    // libllama takes no batch whose first position does not follow the largest one that it holds.
    if (policy != nullptr && settings_.config.recent() < 1)
      throw std::invalid_argument("the newest token must stay: recent_tokens must not be 0");
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<std::uint32_t>(n_ctx);
    params.n_batch = params.n_ubatch = static_cast<std::uint32_t>(settings.config.interval);  // a batch is one graph
    params.n_threads = params.n_threads_batch = settings.threads;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.cb_eval = graph_watcher::callback;
    params.cb_eval_user_data = &watcher_;
    context_.reset(llama_init_from_model(model.get(), params));
    if (context_ == nullptr) throw std::runtime_error("libllama cannot make a context of " + std::to_string(n_ctx));
  }
  evicting_context(evicting_context const&) = delete;  // libllama has the watcher's address
  evicting_context& operator=(evicting_context const&) = delete;

  /// Most tokens that the next batch may have.
  [[nodiscard]] int room() const { return window_left(settings_.config, held()); }
  [[nodiscard]] int n_ctx() const { return static_cast<int>(llama_n_ctx(context_.get())); }
  [[nodiscard]] context_counters const& counters() const { return counters_; }
  [[nodiscard]] llama_context* get() const { return context_.get(); }
  /// Of the i-th token of the last batch.
  [[nodiscard]] float const* logits(int i) const { return llama_get_logits_ith(context_.get(), i); }

  /// Runs the text's next tokens, `room` of them at most, then evicts if that is due.
  /// \return positions that are gone
  std::span<std::int32_t const> decode(std::span<llama_token const> tokens) {
    if (tokens.empty() || tokens.size() > static_cast<std::size_t>(room()))
      throw std::invalid_argument("a batch has between one token and as many as there is room for");
    double const began = processor_seconds();
    run(tokens);
    double const decoded = processor_seconds();
    auto const gone = policy_ == nullptr ? std::span<std::int32_t const>() : evict();
    double const ended = processor_seconds();
    counters_.seconds += ended - began;
    counters_.eviction_seconds += ended - decoded;
    return gone;
  }

 private:
  /// Of this process: what other programs do meanwhile does not count.
  [[nodiscard]] static double processor_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }
  [[nodiscard]] int held() const { return eviction_ == nullptr ? counters_.tokens : eviction_->held(); }

  void run(std::span<llama_token const> tokens) {
    std::vector<llama_token> ids(tokens.begin(), tokens.end());
    std::vector<llama_pos> positions(tokens.size());
    std::vector<std::int32_t> one(tokens.size(), 1);
    std::vector<std::int8_t> every(tokens.size(), 1);
    llama_seq_id sequence = 0;
    std::vector<llama_seq_id*> sequences(tokens.size(), &sequence);
    // A token's position is the text's, however few cells are left: keys keep the rotation that they were stored with.
    for (llama_pos& position : positions) position = counters_.tokens++;
    llama_batch batch{};
    batch.n_tokens = static_cast<std::int32_t>(ids.size());
    batch.token = ids.data();
    batch.pos = positions.data();
    batch.n_seq_id = one.data();
    batch.seq_id = sequences.data();
    batch.logits = every.data();
    watcher_.begin();
    int const failed = llama_decode(context_.get(), batch);
    if (!watcher_.problem().empty()) throw std::runtime_error(watcher_.problem());
    if (failed != 0) throw std::runtime_error("llama_decode failed with " + std::to_string(failed));
    // For a few models libllama leaves flash attention off, whatever it is asked for.
    if (watcher_.keys().empty() || watcher_.visible_cells() < 0)
      throw std::runtime_error("libllama ran without flash attention");
    counters_.most_cells = std::max(counters_.most_cells, watcher_.visible_cells());
  }

  void begin_evicting() {
    // Judges are numbered by the model's layers, rows by those that attend.
    if (policy_->needs_judge && settings_.judge.shape.num_layers != static_cast<int>(watcher_.keys().size()))
      throw std::runtime_error("to be judged, every layer must attend to the text");
    eviction_ = policy_->make(settings_, watcher_);
  }

  std::span<std::int32_t const> evict() {
    if (eviction_ == nullptr) begin_evicting();
    auto const gone = eviction_->after(watcher_);
    if (eviction_->held() + static_cast<int>(gone.size()) != watcher_.visible_cells())
      throw std::logic_error("libllama holds other cells than those that were counted");
    llama_memory_t const memory = llama_get_memory(context_.get());
    for (llama_pos position : gone)
      if (!llama_memory_seq_rm(memory, 0, position, position + 1))
        throw std::runtime_error("this model's memory does not let go of single tokens");
    counters_.evictions += !gone.empty();
    return gone;
  }

  struct freed {
    void operator()(llama_context* context) const { llama_free(context); }
  };
  policy_entry const* policy_;
  eviction_settings settings_;
  graph_watcher watcher_;
  std::unique_ptr<cell_eviction> eviction_;
  std::unique_ptr<llama_context, freed> context_;
  context_counters counters_;
};

}  // namespace llama_cpp
