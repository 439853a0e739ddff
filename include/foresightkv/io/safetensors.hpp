// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <foresightkv/io/error.hpp>
#include <foresightkv/io/file.hpp>
#include <foresightkv/io/tensor.hpp>

/// The safetensors format (https://github.com/huggingface/safetensors, section "Format"): 8 bytes of header
/// size N, little-endian; N bytes of JSON, padded with spaces; one buffer that the tensors cover without
/// holes or overlaps.
namespace foresightkv::inline v0::io {

using metadata_map = std::map<std::string, std::string, std::less<>>;
using tensor_map = std::map<std::string, tensor, std::less<>>;

namespace detail {

inline constexpr std::size_t header_limit = 100'000'000;  // the reference reader's
inline constexpr std::size_t rank_limit = 64;
inline constexpr std::string_view metadata_key = "__metadata__";

[[nodiscard]] inline std::string tensor_label(std::string const& file, std::string_view name) {
  return file + ": tensor '" + printable(name) + "'";
}

/// The layer number at the front of `text`, part of a tensor's name, canonical and below 10,000 (so that no
/// file can ask for a huge table of layers); removes it from `text`.
[[nodiscard]] inline std::optional<int> take_layer_number(std::string_view& text) {
  int number = 0;
  auto const [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  auto const digits = static_cast<std::size_t>(end - text.data());
  if (problem != std::errc() || number < 0 || digits > 4 || digits != std::to_string(number).size()) {
    return {};
  }
  text.remove_prefix(digits);
  return number;
}

/// Bytes of a tensor; std::nullopt if the product overflows.
[[nodiscard]] inline std::optional<std::uint64_t> byte_count(dtype type, std::span<std::int64_t const> shape) {
  std::uint64_t bytes = element_size(type);
  for (std::int64_t const extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, static_cast<std::uint64_t>(extent), &bytes)) {
      return std::nullopt;
    }
  }
  return bytes;
}

/// Takes the header from nlohmann's parser token by token: nothing is built that the format does not have, so
/// neither nesting nor repeated keys can do harm. Throws through the parser.
class header_reader {
 public:
  struct extent {
    std::uint64_t begin, end;
    tensor_map::iterator tensor;
  };

  header_reader(std::string const& file, tensor_map& tensors, metadata_map& metadata)
      : file_(file), tensors_(tensors), metadata_(metadata) {}

  /// Where each tensor lies in the data, as the file says.
  [[nodiscard]] std::vector<extent>& extents() { return extents_; }

  bool start_object(std::size_t) {
    if (place_ == place::outside) {
      place_ = place::top;
    } else if (place_ == place::top) {
      place_ = name_ == metadata_key ? place::metadata : place::tensor;
      current_ = {};
      field_.clear();
      seen_.clear();
      offsets_.clear();
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool key(std::string& text) {
    if (place_ == place::top) {
      bool const repeated = text == metadata_key ? std::exchange(has_metadata_, true) : tensors_.contains(text);
      name_ = std::move(text);
      if (repeated) fail("stands twice in the header");
    } else {
      field_ = std::move(text);
      if (std::ranges::find(seen_, field_) != seen_.end() || metadata_repeats()) fail_field("stands twice");
      if (place_ == place::tensor) {
        if (field_ != "dtype" && field_ != "shape" && field_ != "data_offsets") fail_field("is unknown");
        seen_.push_back(field_);
      }
    }
    return true;
  }

  bool string(std::string& text) {
    if (place_ == place::metadata) {
      metadata_.emplace(field_, std::move(text));
    } else if (place_ == place::tensor && field_ == "dtype") {
      current_.dtype = parse_dtype(text);
    } else {
      unexpected("a string");
    }
    return true;
  }

  bool start_array(std::size_t) {
    if (place_ != place::tensor || field_ == "dtype") unexpected("an array");
    place_ = place::list;
    return true;
  }

  bool number_unsigned(std::uint64_t value) {
    if (place_ != place::list) unexpected("a number");
    if (field_ == "data_offsets") {
      if (offsets_.size() == 2) fail_field("must be two numbers");
      offsets_.push_back(value);
    } else {
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        fail_field("is too large");
      }
      if (current_.shape.size() == rank_limit) fail_field("has more than 64 extents");
      current_.shape.push_back(static_cast<std::int64_t>(value));
    }
    return true;
  }

  bool end_array() {
    place_ = place::tensor;
    return true;
  }

  bool end_object() {
    if (place_ == place::tensor) finish_tensor();
    place_ = place_ == place::top ? place::outside : place::top;
    return true;
  }

  bool null() { unexpected("null"); }
  bool boolean(bool) { unexpected("a boolean"); }
  bool binary(nlohmann::json::binary_t&) { unexpected("binary data"); }
  bool number_integer(std::int64_t) {
    if (place_ != place::list) unexpected("a number");
    fail_field("must not be negative");
  }
  bool number_float(double, std::string const&) {
    if (place_ != place::list) unexpected("a number");
    fail_field("must be whole numbers below 2^64");
  }
  bool parse_error(std::size_t position, std::string const&, nlohmann::json::exception const&) {
    throw error(file_ + ": header is not valid JSON in UTF-8, at its byte " + std::to_string(position));
  }

 private:
  enum class place { outside, top, metadata, tensor, list };

  void finish_tensor() {
    if (seen_.size() != 3) fail("must have the fields dtype, shape and data_offsets");
    if (offsets_.size() != 2) fail("field 'data_offsets' must be two numbers");
    auto const [begin, end] = std::pair(offsets_[0], offsets_[1]);
    if (begin > end) fail("ends before it begins");
    auto const bytes = byte_count(current_.dtype, current_.shape);
    if (!bytes) fail("has a shape whose size overflows: " + shape_text(current_.shape));
    if (*bytes != end - begin) {
      fail(shape_text(current_.shape) + " of " + std::string(io::name(current_.dtype)) + " needs " +
           std::to_string(*bytes) + " bytes, its data_offsets span " + std::to_string(end - begin));
    }
    current_.label = tensor_label(file_, name_);
    extents_.push_back({begin, end, tensors_.emplace(name_, std::move(current_)).first});
  }

  [[nodiscard]] dtype parse_dtype(std::string_view text) const {
    for (int i = 0; i < dtype_count; ++i) {
      if (io::name(static_cast<dtype>(i)) == text) return static_cast<dtype>(i);
    }
    fail("has the unknown dtype '" + printable(text) + "'");
  }

  [[nodiscard]] bool metadata_repeats() const { return place_ == place::metadata && metadata_.contains(field_); }

  [[noreturn]] void fail(std::string const& reason) const {
    throw error((name_ == metadata_key ? file_ + ": __metadata__" : tensor_label(file_, name_)) + " " + reason);
  }
  [[noreturn]] void fail_field(char const* reason) const { fail("field '" + printable(field_) + "' " + reason); }
  [[noreturn]] void unexpected(char const* what) const {
    if (place_ == place::outside) throw error(file_ + ": header must be one JSON object");
    if (place_ == place::top) fail(std::string("must be an object, is ") + what);
    if (place_ == place::metadata) fail_field((std::string("must be a string, is ") + what).c_str());
    fail_field((std::string("must not hold ") + what).c_str());
  }

  std::string const& file_;
  tensor_map& tensors_;
  metadata_map& metadata_;
  std::vector<extent> extents_;
  place place_ = place::outside;
  bool has_metadata_ = false;
  std::string name_, field_;
  tensor current_;
  std::vector<std::string> seen_;
  std::vector<std::uint64_t> offsets_;
};

/// Checks that the tensors cover the data from end to end, and points each at its bytes.
inline void place_tensors(std::string const& file, std::vector<header_reader::extent>& extents,
                          std::span<std::byte const> data) {
  // Empty tensors first where several begin at one byte.
  std::ranges::sort(extents, {}, [](auto const& extent) { return std::pair(extent.begin, extent.end); });
  std::uint64_t covered = 0;
  auto const fail_hole = [&](std::uint64_t end) {
    throw error(file + ": bytes " + std::to_string(covered) + " to " + std::to_string(end) +
                " of the data belong to no tensor");
  };
  for (auto const& [begin, end, entry] : extents) {
    tensor& placed = entry->second;
    if (end > data.size()) {
      placed.fail("ends at byte " + std::to_string(end) + " of " + std::to_string(data.size()) +
                  " bytes of data: truncated file?");
    }
    if (begin < covered) placed.fail("overlaps the tensor before it");
    if (begin > covered) fail_hole(begin);
    placed.bytes = data.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    covered = end;
  }
  if (covered != data.size()) fail_hole(data.size());
}

inline void parse_safetensors(std::string const& file, std::span<std::byte const> bytes, tensor_map& tensors,
                              metadata_map& metadata) {
  std::uint64_t size = 0;
  if (bytes.size() < sizeof size) throw error(file + ": too short for a safetensors file");
  std::memcpy(&size, bytes.data(), sizeof size);
  std::size_t const rest = bytes.size() - sizeof size;
  auto const length = "header of " + std::to_string(size) + " bytes ";
  if (size > header_limit) throw error(file + ": " + length + "is over the limit of 100000000");
  if (size > rest) {
    throw error(file + ": " + length + "does not fit the " + std::to_string(rest) + " bytes that follow");
  }
  std::string_view const header(reinterpret_cast<char const*>(bytes.data()) + sizeof size, size);
  if (!header.starts_with('{')) throw error(file + ": header does not begin with '{'");
  // The JSON parser takes a zero byte for the end of its input.
  if (header.find('\0') != header.npos) throw error(file + ": header holds a zero byte");
  header_reader reader(file, tensors, metadata);
  nlohmann::json::sax_parse(header, &reader);
  place_tensors(file, reader.extents(), bytes.subspan(sizeof size + size));
}

}  // namespace detail

/// A safetensors file, mapped and checked: header size and JSON, repeated names, dtypes, shapes, and that the
/// offsets fit the shapes and cover the data without holes and overlaps. Element values are not looked at.
///
/// Iterates over pairs of name and `tensor`, ascending by name. Tensors stay valid when the object moves.
class safetensors_file {
 public:
  /// Throws `io::error` naming the file and the first thing found wrong.
  explicit safetensors_file(std::filesystem::path const& path) : label_(detail::label(path)), mapping_(path) {
    detail::parse_safetensors(label_, mapping_.bytes(), tensors_, metadata_);
  }

  [[nodiscard]] auto begin() const { return tensors_.begin(); }
  [[nodiscard]] auto end() const { return tensors_.end(); }
  [[nodiscard]] std::size_t size() const { return tensors_.size(); }

  /// Null if there is no tensor of that name.
  [[nodiscard]] tensor const* find(std::string_view name) const {
    auto const found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
  }

  /// Throws if there is no tensor of that name.
  [[nodiscard]] tensor const& at(std::string_view name) const {
    if (auto const* found = find(name)) return *found;
    throw error(detail::tensor_label(label_, name) + " is missing");
  }

  [[nodiscard]] metadata_map const& metadata() const { return metadata_; }
  /// std::nullopt if the metadata has no such key.
  [[nodiscard]] std::optional<std::string> metadata(std::string_view key) const {
    auto const found = metadata_.find(key);
    return found == metadata_.end() ? std::nullopt : std::optional(found->second);
  }

  /// The path as it stands at the front of every message.
  [[nodiscard]] std::string const& label() const { return label_; }

 private:
  std::string label_;
  mapped_file mapping_;
  tensor_map tensors_;
  metadata_map metadata_;
};

/// Tensor elements that live elsewhere: a named vector or array, a span, but no temporary vector.
template <class Range>
concept tensor_range = std::ranges::contiguous_range<Range> && std::ranges::borrowed_range<Range> &&
    tensor_element<std::ranges::range_value_t<Range>>;

/// Writes a safetensors file. Tensors are views: their data must live until `save`.
///
/// The bytes depend on names, values and metadata alone, not on the order of calls: tensors go by falling
/// element size, then by name, and the data begins at a multiple of 8 bytes, so every tensor is aligned to
/// its element.
class safetensors_writer {
 public:
  explicit safetensors_writer(std::filesystem::path path) : path_(std::move(path)), label_(detail::label(path_)) {}

  /// Throws if the name is taken or reserved, or if the shape does not fit the number of bytes.
  safetensors_writer& add(std::string const& name, dtype type, std::vector<std::int64_t> shape,
                          std::span<std::byte const> bytes) {
    tensor added{detail::tensor_label(label_, name), type, std::move(shape), bytes};
    if (name == detail::metadata_key || tensors_.contains(name)) added.fail("has a name that is taken");
    if (detail::byte_count(type, added.shape) != bytes.size() || added.rank() > detail::rank_limit) {
      added.fail(detail::shape_text(added.shape) + " of " + std::string(io::name(type)) + " does not fit " +
                 std::to_string(bytes.size()) + " bytes");
    }
    tensors_.emplace(name, std::move(added));
    return *this;
  }

  /// The same for elements in memory.
  template <tensor_range Range>
  safetensors_writer& add(std::string const& name, std::vector<std::int64_t> shape, Range&& values) {
    constexpr dtype type = *find_dtype<std::ranges::range_value_t<Range>>();
    return add(name, type, std::move(shape),
               std::as_bytes(std::span(std::ranges::data(values), std::ranges::size(values))));
  }

  safetensors_writer& metadata(std::string const& key, std::string value) {
    metadata_.insert_or_assign(key, std::move(value));
    return *this;
  }

  /// What was added, as a reader of the file will see it.
  [[nodiscard]] tensor_map const& tensors() const { return tensors_; }

  /// Writes the whole file or throws; a file that was there before is replaced at the end, in one step.
  void save() const {
    std::vector<tensor_map::value_type const*> order;
    for (auto const& entry : tensors_) order.push_back(&entry);
    std::ranges::stable_sort(order, std::ranges::greater{},
                             [](auto const* entry) { return element_size(entry->second.dtype); });
    std::string const text = header(order);
    if (text.size() > detail::header_limit) {
      throw error(label_ + ": header is over the limit of 100000000 bytes");
    }
    std::uint64_t const size = text.size();
    output_file file(path_);
    file.write(std::as_bytes(std::span(&size, 1)));
    file.write(text);
    for (auto const* entry : order) file.write(entry->second.bytes);
    file.commit();
  }

 private:
  [[nodiscard]] std::string header(std::span<tensor_map::value_type const* const> order) const try {
    std::string text = "{";
    auto const add_key = [&](std::string_view key) {
      if (text.size() > 1) text += ',';
      text += nlohmann::json(key).dump() + ':';
    };
    if (!metadata_.empty()) {
      add_key(detail::metadata_key);
      text += nlohmann::json(metadata_).dump();
    }
    std::uint64_t offset = 0;
    for (auto const* entry : order) {
      auto const& [name, stored] = *entry;
      add_key(name);
      text += R"({"dtype":")" + std::string(io::name(stored.dtype)) + R"(","shape":)" +
              nlohmann::json(stored.shape).dump() + R"(,"data_offsets":[)" + std::to_string(offset) + ',' +
              std::to_string(offset + stored.bytes.size()) + "]}";
      offset += stored.bytes.size();
    }
    text += '}';
    text.resize((text.size() + 7) / 8 * 8, ' ');  // the size field before it has 8 bytes too
    return text;
  } catch (nlohmann::json::exception const&) {
    throw error(label_ + ": a name or a metadata value is not valid UTF-8");
  }

  std::filesystem::path path_;
  std::string label_;
  tensor_map tensors_;
  metadata_map metadata_;
};

}  // namespace foresightkv::inline v0::io
