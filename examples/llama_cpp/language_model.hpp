// SPDX-License-Identifier: Apache-2.0
// libllama's model and sampler, owned, with texts as tokens.
#pragma once

#include <llama.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <limits>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace llama_cpp {

class language_model {
 public:
  explicit language_model(std::string const& path) {
    llama_log_set(
        [](ggml_log_level level, char const* text, void*) {
          if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
        },
        nullptr);
    model_.reset(llama_model_load_from_file(path.c_str(), llama_model_default_params()));
    if (model_ == nullptr) throw std::runtime_error(path + ": libllama cannot load it");
    if (llama_vocab_type(vocabulary()) == LLAMA_VOCAB_TYPE_NONE)  // libllama aborts when it is to tokenize
      throw std::runtime_error(path + ": has no vocabulary");
    // Other memories have cells of several kinds, or none.
    if (llama_model_is_recurrent(get()) || llama_model_is_hybrid(get()) || llama_model_n_swa(get()) > 0 ||
        llama_model_n_head_kv(get()) < 1)
      throw std::runtime_error(path + ": every layer must attend to the whole text");
  }

  [[nodiscard]] llama_model* get() const { return model_.get(); }
  [[nodiscard]] llama_vocab const* vocabulary() const { return llama_model_get_vocab(get()); }
  [[nodiscard]] int vocabulary_size() const { return llama_vocab_n_tokens(vocabulary()); }

  /// Elements of a key or a value of one head, by "key_length" or "value_length".
  [[nodiscard]] int head_dim(std::string const& name) const {
    std::string const own = metadata(metadata("general.architecture") + ".attention." + name);
    return own.empty() ? llama_model_n_embd(get()) / llama_model_n_head(get()) : std::stoi(own);
  }

  /// A sentence about positions that the model has never seen, where a text of so many tokens has some; else empty.
  [[nodiscard]] std::string beyond_training(std::int64_t tokens) const {
    int const trained = llama_model_n_ctx_train(get());
    if (tokens <= trained) return {};
    return "the model was trained on " + std::to_string(trained) + " positions, the text goes on to " +
           std::to_string(tokens);
  }

  /// \param name  of the text, for what is said of one that libllama cannot read
  [[nodiscard]] std::vector<llama_token> tokens(std::string const& text, std::string const& name = "the text") const {
    if (text.size() > std::numeric_limits<std::int32_t>::max() / 4)  // libllama counts in int, a space up to 3 tokens
      throw std::runtime_error(name + ": is too long for libllama");
    std::vector<llama_token> ids(text.size() + 2);  // mostly enough: a token has a byte, two mark begin and end
    try {
      int count = tokenize(text, ids);
      if (count < 0) {  // so many are needed
        ids.resize(static_cast<std::size_t>(-static_cast<std::int64_t>(count)));
        count = tokenize(text, ids);
      }
      ids.resize(static_cast<std::size_t>(count));
    } catch (std::exception const& problem) {
      throw std::runtime_error(name + ": is no text that libllama can read (" + problem.what() + ")");
    }
    return ids;
  }
  [[nodiscard]] std::string text(llama_token token) const {
    char piece[256];
    int const length = llama_token_to_piece(vocabulary(), token, piece, sizeof piece, 0, false);
    return {piece, static_cast<std::size_t>(length < 0 ? 0 : length)};
  }

  /// -ln p of a token, given the logits of the place before it.
  [[nodiscard]] double loss(float const* logits, llama_token token) const {
    std::span const all(logits, static_cast<std::size_t>(vocabulary_size()));
    float largest = all[0];
    for (float logit : all) largest = logit > largest ? logit : largest;
    double total = 0.0;
    for (float logit : all) total += std::exp(logit - largest);
    return std::log(total) + static_cast<double>(largest - all[static_cast<std::size_t>(token)]);
  }

 private:
  /// \return tokens written, or the negative of those that are needed
  [[nodiscard]] int tokenize(std::string const& text, std::span<llama_token> ids) const {
    return llama_tokenize(vocabulary(), text.data(), static_cast<std::int32_t>(text.size()), ids.data(),
                          static_cast<std::int32_t>(ids.size()), true, false);
  }
  /// Empty where the model's file does not say it.
  [[nodiscard]] std::string metadata(std::string const& key) const {
    char value[256];
    int const length = llama_model_meta_val_str(get(), key.c_str(), value, sizeof value);
    return length < 0 ? std::string() : std::string(value);
  }

  struct freed {
    void operator()(llama_model* model) const { llama_model_free(model); }
  };
  std::unique_ptr<llama_model, freed> model_;
};

/// Draws tokens, the same for the same seed. No token that would end the text.
class token_sampler {
 public:
  token_sampler(language_model const& model, std::uint32_t seed) : chain_(llama_sampler_chain_init({})) {
    std::vector<llama_logit_bias> never;
    for (llama_token token = 0; token < model.vocabulary_size(); ++token)
      if (llama_vocab_is_eog(model.vocabulary(), token)) never.push_back({token, -INFINITY});
    auto const add = [&](llama_sampler* next) { llama_sampler_chain_add(chain_.get(), next); };
    add(llama_sampler_init_logit_bias(model.vocabulary_size(), static_cast<std::int32_t>(never.size()), never.data()));
    add(llama_sampler_init_min_p(0.05f, 1));
    add(llama_sampler_init_temp(0.8f));
    add(llama_sampler_init_dist(seed));
  }
  /// After the newest logits of a context.
  [[nodiscard]] llama_token next(llama_context* context) { return llama_sampler_sample(chain_.get(), context, -1); }

 private:
  struct freed {
    void operator()(llama_sampler* chain) const { llama_sampler_free(chain); }
  };
  std::unique_ptr<llama_sampler, freed> chain_;
};

}  // namespace llama_cpp
