// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <foresightkv/detail/order_key.hpp>
#include <foresightkv/golden/config.hpp>
#include <foresightkv/io/error.hpp>
#include <foresightkv/io/fingerprint.hpp>
#include <foresightkv/io/safetensors.hpp>
#include <foresightkv/io/tensor.hpp>
#include <foresightkv/io/trace.hpp>

/// Golden Eviction's labels of one layer of one trace, in a file: what a judge is trained on.
namespace foresightkv::inline v0::io {

/// The enumerators of `golden_future`, `golden_reduction` and `golden_rules` as files and options call them.
inline constexpr std::string_view golden_future_names[] = {"maximum", "sum", "mean", "discounted"};
inline constexpr std::string_view golden_reduction_names[] = {"mean", "maximum"};
inline constexpr std::string_view golden_rules_names[] = {"exact", "published"};

/// What a shard's labels are labels of, and by which rule they were made.
struct label_source {
  std::string trace;        ///< the trace's file name, without folders
  std::string fingerprint;  ///< `layer_fingerprint` of the trace
  int layer = 0;            ///< its number in the model
  int kv_heads = 0;
  int tokens = 0;  ///< the first tokens of the trace, which alone were looked at
  golden_config config{};

  [[nodiscard]] int steps() const { return config.steps(tokens); }
  friend bool operator==(label_source const&, label_source const&) = default;
};

/// By what a shard knows the layer that it was made from: 16 hexadecimal digits over its queries and keys,
/// types and shapes included.
[[nodiscard]] inline std::string layer_fingerprint(trace const& from, int layer) {
  std::uint64_t state = 0;
  for (tensor const* part : {&from.query(layer), &from.key(layer)}) {
    auto const facts = std::string(name(part->dtype)) + detail::shape_text(part->shape);
    state = fingerprint(std::as_bytes(std::span(facts)), state);
    state = fingerprint(part->bytes, state);
  }
  return fingerprint_text(state);
}

/// The name of a shard's file: TRACE.layer7.labels.safetensors for a trace TRACE.safetensors.
[[nodiscard]] inline std::string label_shard_name(std::filesystem::path const& trace, int layer) {
  return trace.stem().string() + ".layer" + std::to_string(layer) + ".labels.safetensors";
}

namespace detail {

inline constexpr std::string_view label_format = "foresightkv labels 1";

[[nodiscard]] inline std::string float_text(float value) {
  char text[32];
  return {text, std::to_chars(text, std::end(text), value).ptr};
}

/// The metadata of a shard, checked one by one.
class label_metadata {
 public:
  explicit label_metadata(safetensors_file const& file) : file_(file) {
    if (file.metadata("format") != label_format)
      throw error(file.label() + ": is no label shard: metadata 'format' must be '" + std::string(label_format) + "'");
  }

  [[nodiscard]] std::string text(char const* key) const {
    if (auto const found = file_.metadata(key)) return *found;
    throw error(file_.label() + ": metadata '" + key + "' is missing");
  }

  template <class Number>
  [[nodiscard]] Number number(char const* key, Number least, Number most) const {
    auto const found = text(key);
    Number value{};
    auto const* const last = found.data() + found.size();
    auto const [end, problem] = std::from_chars(found.data(), last, value);
    if (problem != std::errc() || end != last || !(value >= least && value <= most)) fail(key, found);
    return value;
  }

  template <class Enum, std::size_t Count>
  [[nodiscard]] Enum name(char const* key, std::string_view const (&names)[Count]) const {
    auto const found = text(key);
    auto const place = std::ranges::find(names, found);
    if (place == std::end(names)) fail(key, found);
    return static_cast<Enum>(place - std::begin(names));
  }

 private:
  [[noreturn]] void fail(char const* key, std::string const& value) const {
    throw error(file_.label() + ": metadata '" + key + "' must not be '" + printable(value) + "'");
  }

  safetensors_file const& file_;
};

[[nodiscard]] inline label_source read_label_source(safetensors_file const& file) {
  constexpr int most = std::numeric_limits<int>::max();
  label_metadata const metadata(file);
  label_source source;
  source.trace = metadata.text("trace");
  source.fingerprint = metadata.text("fingerprint");
  source.layer = metadata.number("layer", 0, 9999);
  source.kv_heads = metadata.number("kv_heads", 1, 65536);
  source.tokens = metadata.number("tokens", 1, most);
  source.config.budget = metadata.number("budget", 1, most);
  source.config.interval = metadata.number("interval", 1, source.config.budget);
  source.config.future = metadata.name<golden_future>("future", golden_future_names);
  source.config.discount = metadata.number("discount", 0.0f, 1.0f);
  source.config.reduction = metadata.name<golden_reduction>("reduction", golden_reduction_names);
  source.config.rules = metadata.name<golden_rules>("rules", golden_rules_names);
  return source;
}

/// Whether the row's evicted are ascending, and just the candidates of least label; of equal ones the first.
[[nodiscard]] inline bool golden_row(std::span<float const> labels, std::span<std::int32_t const> evicted) {
  std::uint64_t worst_kept = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t best_evicted = 0;
  auto next = evicted.begin();
  for (std::size_t i = 0; i < labels.size(); ++i) {
    auto const key = std::uint64_t{foresightkv::detail::order_key(labels[i])} << 32 | i;
    if (next != evicted.end() && *next == static_cast<std::int32_t>(i)) {
      best_evicted = std::max(best_evicted, key);
      ++next;
    } else {
      worst_kept = std::min(worst_kept, key);
    }
  }
  return next == evicted.end() && best_evicted <= worst_kept;
}

/// Throws unless the tensors are what the source says.
inline void check_label_shard(std::string const& file, label_source const& source, tensor const& labels,
                              tensor const& evicted) {
  auto const& config = source.config;
  if (!config.valid() || source.kv_heads < 1 || source.steps() < 1)
    throw error(file + ": labels need a valid config, a KV head and more than budget + interval tokens");
  labels.expect_shape({source.steps(), source.kv_heads, config.budget}).expect_finite();
  evicted.expect_shape({source.steps(), source.kv_heads, config.interval});
  auto const scores = labels.as<float>();
  auto const indices = evicted.as<std::int32_t>();
  auto const budget = static_cast<std::size_t>(config.budget);
  auto const interval = static_cast<std::size_t>(config.interval);
  for (std::size_t row = 0; row * budget < scores.size(); ++row) {
    if (!golden_row(scores.subspan(row * budget, budget), indices.subspan(row * interval, interval)))
      evicted.fail("is not what the labels say, at step " +
                   std::to_string(row / static_cast<std::size_t>(source.kv_heads)) + ", KV head " +
                   std::to_string(row % static_cast<std::size_t>(source.kv_heads)));
  }
}

}  // namespace detail

/// A file of labels, mapped: `labels` F32 [steps, kv_heads, budget], `evicted` I32 [steps, kv_heads,
/// interval], and the source in the metadata.
class label_shard {
 public:
  /// Checks everything, values included. Throws `io::error` naming file, tensor and reason.
  explicit label_shard(std::filesystem::path const& path) : file_(path), source_(detail::read_label_source(file_)) {
    detail::check_label_shard(file_.label(), source_, file_.at("labels"), file_.at("evicted"));
  }

  [[nodiscard]] label_source const& source() const { return source_; }
  [[nodiscard]] int steps() const { return source_.steps(); }

  /// [steps][kv_heads][budget] future score of each candidate, in order of time: higher = keep.
  [[nodiscard]] std::span<float const> labels() const { return file_.at("labels").as<float>(); }
  /// [steps][kv_heads][interval] indices among the candidates, ascending.
  [[nodiscard]] std::span<std::int32_t const> evicted() const { return file_.at("evicted").as<std::int32_t>(); }

 private:
  safetensors_file file_;
  label_source source_;
};

/// [steps][kv_heads][budget] where in the sequence the candidates stand. They are not stored: what was
/// evicted tells them.
[[nodiscard]] inline std::vector<std::int32_t> candidate_positions(label_shard const& shard) {
  int const budget = shard.source().config.budget;
  int const interval = shard.source().config.interval;
  int const heads = shard.source().kv_heads;
  std::vector<std::int32_t> positions(shard.labels().size());
  for (int step = 0; step < shard.steps(); ++step) {
    for (int head = 0; head < heads; ++head) {
      auto const row = std::int64_t{step} * heads + head;
      auto* out = positions.data() + row * budget;
      if (step == 0) {
        std::iota(out, out + budget, 0);
        continue;
      }
      auto const before = row - heads;
      auto const* gone = shard.evicted().data() + before * interval;
      auto const* const last_gone = gone + interval;
      for (int i = 0; i < budget; ++i) {
        if (gone != last_gone && *gone == i)
          ++gone;
        else
          *out++ = positions[static_cast<std::size_t>(before * budget + i)];
      }
      std::iota(out, out + interval, budget + (step - 1) * interval);
    }
  }
  return positions;
}

/// Writes what `label_shard` opens. The same labels give the same bytes. Throws before writing if the arrays
/// are not what the source says.
inline void write_label_shard(std::filesystem::path const& path, label_source const& source,
                              std::span<float const> labels, std::span<std::int32_t const> evicted) {
  auto const& config = source.config;
  safetensors_writer file(path);
  file.add("labels", {source.steps(), source.kv_heads, config.budget}, labels);
  file.add("evicted", {source.steps(), source.kv_heads, config.interval}, evicted);
  detail::check_label_shard(detail::label(path), source, file.tensors().at("labels"), file.tensors().at("evicted"));
  file.metadata("format", std::string(detail::label_format))
      .metadata("trace", source.trace)
      .metadata("fingerprint", source.fingerprint)
      .metadata("layer", std::to_string(source.layer))
      .metadata("kv_heads", std::to_string(source.kv_heads))
      .metadata("tokens", std::to_string(source.tokens))
      .metadata("budget", std::to_string(config.budget))
      .metadata("interval", std::to_string(config.interval))
      .metadata("future", std::string(golden_future_names[static_cast<int>(config.future)]))
      .metadata("discount", detail::float_text(config.discount))
      .metadata("reduction", std::string(golden_reduction_names[static_cast<int>(config.reduction)]))
      .metadata("rules", std::string(golden_rules_names[static_cast<int>(config.rules)]));
  file.save();
}

}  // namespace foresightkv::inline v0::io
