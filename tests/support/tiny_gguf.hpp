// SPDX-License-Identifier: Apache-2.0
// Models small enough to be written where a test needs one.
#pragma once

#include <ggml.h>
#include <gguf.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace testing {

/// A model of two layers and four heads that libllama loads, with weights that mean nothing.
class tiny_gguf {
 public:
  static constexpr int layers = 2, heads = 4, width = 32, inner_width = 64, vocabulary_size = 259, trained = 512;

  /// \param architecture  "llama" or "grok", for which libllama leaves flash attention off
  /// \param vocabulary    one without letters: each byte of a text is a token
  tiny_gguf(std::string const& architecture, bool vocabulary)
      : architecture_(architecture),
        file_(gguf_init_empty(), gguf_free),
        memory_(ggml_init({1 << 20, nullptr, false})) {
    add_extents();
    vocabulary ? add_bytes() : add_no_vocabulary();
    add_tensors();
  }
  tiny_gguf(tiny_gguf const&) = delete;
  tiny_gguf& operator=(tiny_gguf const&) = delete;
  ~tiny_gguf() { ggml_free(memory_); }

  void save(std::filesystem::path const& path) const {
    if (!gguf_write_to_file(file_.get(), path.c_str(), false)) throw std::runtime_error("no " + path.string());
  }

 private:
  void set(std::string const& key, int value) {
    gguf_set_val_u32(file_.get(), key.c_str(), static_cast<std::uint32_t>(value));
  }
  void set_own(std::string const& key, int value) { set(architecture_ + "." + key, value); }

  void add_extents() {
    gguf_set_val_str(file_.get(), "general.architecture", architecture_.c_str());
    set_own("context_length", trained);
    set_own("embedding_length", width);
    set_own("block_count", layers);
    set_own("feed_forward_length", inner_width);
    set_own("attention.head_count", heads);
    set_own("rope.dimension_count", width / heads);
    gguf_set_val_f32(file_.get(), (architecture_ + ".attention.layer_norm_rms_epsilon").c_str(), 1e-5f);
    if (!has_experts()) return;
    set_own("expert_count", 2);
    set_own("expert_used_count", 1);
  }

  void add_no_vocabulary() {
    gguf_set_val_str(file_.get(), "tokenizer.ggml.model", "no_vocab");
    set_own("vocab_size", vocabulary_size);
  }
  void add_bytes() {
    std::vector<std::string> tokens{"<unk>", "<s>", "</s>"};
    std::vector<std::int32_t> types{2, 3, 3};  // unknown, control
    for (int byte = 0; byte < 256; ++byte) {
      char name[8];
      std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(byte));
      tokens.emplace_back(name);
      types.push_back(6);  // a byte
    }
    std::vector<char const*> names;
    for (std::string const& token : tokens) names.push_back(token.c_str());
    std::vector<float> const scores(tokens.size());
    gguf_set_val_str(file_.get(), "tokenizer.ggml.model", "llama");
    gguf_set_arr_str(file_.get(), "tokenizer.ggml.tokens", names.data(), names.size());
    gguf_set_arr_data(file_.get(), "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores.data(), scores.size());
    gguf_set_arr_data(file_.get(), "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types.data(), types.size());
  }

  void add(std::string const& name, std::initializer_list<std::int64_t> extents) {
    auto* const tensor = ggml_new_tensor(memory_, GGML_TYPE_F32, static_cast<int>(extents.size()), std::data(extents));
    ggml_set_name(tensor, name.c_str());
    auto* const weights = static_cast<float*>(tensor->data);
    bool const scales = name.find("norm") != name.npos;
    for (std::int64_t i = 0; i < ggml_nelements(tensor); ++i)
      weights[i] = scales ? 1.0f : static_cast<float>((next_weight_ = next_weight_ * 75 % 65537) % 61) / 100.0f - 0.3f;
    gguf_add_tensor(file_.get(), tensor);
  }
  void add_tensors() {
    add("token_embd.weight", {width, vocabulary_size});
    add("output_norm.weight", {width});
    add("output.weight", {width, vocabulary_size});
    for (int layer = 0; layer < layers; ++layer) {
      std::string const block = "blk." + std::to_string(layer) + ".";
      for (char const* name : {"attn_norm", "ffn_norm"}) add(block + name + ".weight", {width});
      for (char const* name : {"attn_q", "attn_k", "attn_v", "attn_output"})
        add(block + name + ".weight", {width, width});
      has_experts() ? add_experts(block) : add_feed_forward(block);
    }
  }
  void add_feed_forward(std::string const& block) {
    for (char const* name : {"ffn_gate", "ffn_up"}) add(block + name + ".weight", {width, inner_width});
    add(block + "ffn_down.weight", {inner_width, width});
  }
  void add_experts(std::string const& block) {
    for (char const* name : {"attn_output_norm", "layer_output_norm"}) add(block + name + ".weight", {width});
    add(block + "ffn_gate_inp.weight", {width, 2});
    for (char const* name : {"ffn_gate_exps", "ffn_up_exps"}) add(block + name + ".weight", {width, inner_width, 2});
    add(block + "ffn_down_exps.weight", {inner_width, width, 2});
  }
  [[nodiscard]] bool has_experts() const { return architecture_ == "grok"; }

  std::string architecture_;
  std::unique_ptr<gguf_context, decltype(&gguf_free)> file_;
  ggml_context* memory_;
  int next_weight_ = 1;
};

}  // namespace testing
