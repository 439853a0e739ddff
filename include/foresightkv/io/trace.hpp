// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <foresightkv/element.hpp>
#include <foresightkv/io/error.hpp>
#include <foresightkv/io/safetensors.hpp>
#include <foresightkv/io/tensor.hpp>

/// Recorded attention: what one sequence's queries, keys and values were, to replay policies on without a
/// model.
namespace foresightkv::inline v0::io {

/// Extents of one recorded layer. Query head h reads KV head h / group().
struct trace_shape {
  int heads = 0;
  int kv_heads = 0;
  int tokens = 0;
  int key_head_dim = 0;  ///< of queries and keys
  int value_head_dim = 0;

  [[nodiscard]] constexpr int group() const { return heads / kv_heads; }
  friend constexpr bool operator==(trace_shape const&, trace_shape const&) = default;
};

/// One recorded layer in fp32, C order. Queries and keys are those after the rotary embedding.
struct trace_layer {
  int number = 0;  ///< of the layer in the model
  trace_shape shape;
  std::vector<float> query;  ///< [heads][tokens][key_head_dim]
  std::vector<float> key;    ///< [kv_heads][tokens][key_head_dim]
  std::vector<float> value;  ///< [kv_heads][tokens][value_head_dim]
};

/// What a trace may hold beside its layers; empty where it does not.
struct trace_notes {
  std::vector<std::int64_t> token_ids;  ///< [tokens]
  std::vector<float> losses;            ///< [tokens - 1]: -ln p(token t + 1 | tokens 0 .. t), full cache
  metadata_map metadata;
};

namespace detail {

[[nodiscard]] inline std::string trace_tensor(int layer, char const* part) {
  return "layer." + std::to_string(layer) + "." + part;
}

/// Number of the layer that a tensor of this name belongs to, if it is one of the three that make a layer.
[[nodiscard]] inline std::optional<int> traced_layer(std::string_view name) {
  constexpr std::string_view front = "layer.";
  if (!name.starts_with(front)) return {};
  name.remove_prefix(front.size());
  auto const number = take_layer_number(name);
  if (name != ".query" && name != ".key" && name != ".value") return {};
  return number;
}

[[nodiscard]] inline int trace_extent(tensor const& from, std::size_t dimension) {
  std::int64_t const extent = from.shape[dimension];
  if (extent < 1 || extent > std::numeric_limits<int>::max()) {
    from.fail("must have extents between 1 and 2^31 - 1, is " + shape_text(from.shape));
  }
  return static_cast<int>(extent);
}

/// Throws unless the three fit each other and hold finite values. `tokens` may be `tensor::any`.
[[nodiscard]] inline trace_shape check_trace_layer(tensor const& query, tensor const& key, tensor const& value,
                                                   std::int64_t tokens) {
  query.expect_shape({tensor::any, tokens, tensor::any});
  key.expect_shape({tensor::any, query.shape[1], query.shape[2]});
  value.expect_shape({key.shape[0], key.shape[1], tensor::any});
  trace_shape const shape{.heads = trace_extent(query, 0),
                          .kv_heads = trace_extent(key, 0),
                          .tokens = trace_extent(query, 1),
                          .key_head_dim = trace_extent(query, 2),
                          .value_head_dim = trace_extent(value, 2)};
  if (shape.heads % shape.kv_heads != 0) {
    query.fail("has " + std::to_string(shape.heads) + " heads, not a multiple of the " +
               std::to_string(shape.kv_heads) + " KV heads");
  }
  for (auto const* part : {&query, &key, &value}) part->expect_finite();
  return shape;
}

inline void check_trace_notes(tensor const* token_ids, tensor const* losses, std::int64_t tokens) {
  if (token_ids) {
    token_ids->expect_shape({tokens});
    if (token_ids->dtype != dtype::i32 && token_ids->dtype != dtype::i64) {
      token_ids->fail("must be I32 or I64, is " + std::string(name(token_ids->dtype)));
    }
  }
  if (losses) losses->expect_shape({tokens - 1}).expect_finite();
}

}  // namespace detail

/// A file of recorded attention.
///
/// For every recorded layer i: layer.{i}.query [heads, T, D], layer.{i}.key [kv_heads, T, D] and layer.{i}.value
/// [kv_heads, T, value dim], of any floating-point type; maybe token_ids [T] and losses [T - 1]. All layers have the
/// same T. Other tensors are left alone.
class trace {
 public:
  /// Maps the file and checks everything, values included: what opens can be replayed.
  /// Throws `io::error` naming file, tensor and reason.
  explicit trace(std::filesystem::path const& path) : file_(path) {
    std::set<int> numbers;
    for (auto const& [name, tensor] : file_) {
      if (auto const number = detail::traced_layer(name)) numbers.insert(*number);
    }
    if (numbers.empty()) throw error(file_.label() + ": has no tensors layer.{i}.query, .key and .value");
    numbers_.assign(numbers.begin(), numbers.end());
    for (int const number : numbers_) {
      shapes_.push_back(detail::check_trace_layer(part(number, "query"), part(number, "key"), part(number, "value"),
                                                  shapes_.empty() ? tensor::any : tokens()));
    }
    detail::check_trace_notes(file_.find("token_ids"), file_.find("losses"), tokens());
  }

  /// Numbers of the recorded layers, ascending.
  [[nodiscard]] std::vector<int> const& layers() const { return numbers_; }
  [[nodiscard]] int tokens() const { return shapes_.front().tokens; }

  /// Throws if the layer was not recorded.
  [[nodiscard]] trace_shape const& shape(int number) const { return shapes_[index(number)]; }

  /// A layer's tensors in place, of the type that they are stored in, valid as long as the trace; shapes as in
  /// `trace_layer`. Throws if the layer was not recorded.
  [[nodiscard]] tensor const& query(int number) const { return part(number, "query"); }
  [[nodiscard]] tensor const& key(int number) const { return part(number, "key"); }
  [[nodiscard]] tensor const& value(int number) const { return part(number, "value"); }

  /// The layer widened to fp32: a copy of its own. Throws if the layer was not recorded.
  [[nodiscard]] trace_layer layer(int number) const {
    return {number, shape(number), part(number, "query").to_float(), part(number, "key").to_float(),
            part(number, "value").to_float()};
  }

  [[nodiscard]] trace_notes notes() const {
    trace_notes notes{.token_ids = {}, .losses = {}, .metadata = file_.metadata()};
    if (auto const* ids = file_.find("token_ids")) {
      if (ids->dtype == dtype::i64) {
        notes.token_ids = ids->copy<std::int64_t>();
      } else {
        auto const narrow = ids->copy<std::int32_t>();
        notes.token_ids.assign(narrow.begin(), narrow.end());
      }
    }
    if (auto const* losses = file_.find("losses")) notes.losses = losses->to_float();
    return notes;
  }

 private:
  [[nodiscard]] tensor const& part(int number, char const* name) const {
    return file_.at(detail::trace_tensor(number, name));
  }
  [[nodiscard]] std::size_t index(int number) const {
    auto const found = std::ranges::lower_bound(numbers_, number);
    if (found == numbers_.end() || *found != number) {
      throw error(file_.label() + ": has no layer " + std::to_string(number));
    }
    return static_cast<std::size_t>(found - numbers_.begin());
  }

  safetensors_file file_;
  std::vector<int> numbers_;
  std::vector<trace_shape> shapes_;
};

/// Writes a trace that `trace` opens, with the values stored as `Element`, rounded to nearest.
/// Throws before writing if the layers break a rule of the format or a value overflows in `Element`.
template <class Element = float>
void write_trace(std::filesystem::path const& path, std::span<trace_layer const> layers,
                 trace_notes const& notes = {}) {
  static_assert(std::same_as<Element, float> || std::same_as<Element, half> || std::same_as<Element, bfloat16>,
                "foresightkv: a trace must be stored as float, half or bfloat16");
  safetensors_writer file(path);
  if (layers.empty()) throw error(detail::label(path) + ": a trace needs a layer");
  auto const tokens = static_cast<std::int64_t>(layers.front().shape.tokens);
  std::vector<std::vector<Element>> stored;  // the file's views point here until save
  auto const add = [&](int layer, char const* part, std::vector<std::int64_t> shape, std::span<float const> values) {
    auto const name = detail::trace_tensor(layer, part);
    if (!detail::traced_layer(name)) {
      throw error(detail::label(path) + ": bad layer number " + std::to_string(layer));
    }
    auto& narrow = stored.emplace_back(values.size());
    std::ranges::transform(values, narrow.begin(), element_traits<Element>::store);
    return file.add(name, std::move(shape), narrow).tensors().at(name);
  };
  for (auto const& [number, shape, query, key, value] : layers) {
    auto const& [heads, kv_heads, length, key_dim, value_dim] = shape;
    auto const stored_query = add(number, "query", {heads, length, key_dim}, query);
    auto const stored_key = add(number, "key", {kv_heads, length, key_dim}, key);
    auto const stored_value = add(number, "value", {kv_heads, length, value_dim}, value);
    static_cast<void>(detail::check_trace_layer(stored_query, stored_key, stored_value, tokens));
  }
  auto const find = [&](char const* name) {
    auto const found = file.tensors().find(name);
    return found == file.tensors().end() ? nullptr : &found->second;
  };
  if (!notes.token_ids.empty()) file.add("token_ids", {std::ssize(notes.token_ids)}, notes.token_ids);
  if (!notes.losses.empty()) file.add("losses", {std::ssize(notes.losses)}, notes.losses);
  detail::check_trace_notes(find("token_ids"), find("losses"), tokens);
  for (auto const& [key, value] : notes.metadata) file.metadata(key, value);
  file.save();
}

}  // namespace foresightkv::inline v0::io
