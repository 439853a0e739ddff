// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <foresightkv/element.hpp>
#include <foresightkv/io/error.hpp>

namespace foresightkv::inline v0::io {

static_assert(std::endian::native == std::endian::little, "foresightkv: io must run on a little-endian machine");

/// Element types of the safetensors format that this library knows.
// clang-format off
enum class dtype : std::uint8_t {
  f64, f32, f16, bf16, f8_e4m3, f8_e5m2, i64, i32, i16, i8, u64, u32, u16, u8, boolean
};
// clang-format on

inline constexpr int dtype_count = 15;

/// The dtype that stores a C++ type; std::nullopt if there is none.
template <class Element>
[[nodiscard]] constexpr std::optional<dtype> find_dtype() {
  if constexpr (std::same_as<Element, double>) return dtype::f64;
  if constexpr (std::same_as<Element, float>) return dtype::f32;
  if constexpr (std::same_as<Element, half>) return dtype::f16;
  if constexpr (std::same_as<Element, bfloat16>) return dtype::bf16;
  if constexpr (std::same_as<Element, float8_e4m3>) return dtype::f8_e4m3;
  if constexpr (std::same_as<Element, float8_e5m2>) return dtype::f8_e5m2;
  if constexpr (std::same_as<Element, std::int64_t>) return dtype::i64;
  if constexpr (std::same_as<Element, std::int32_t>) return dtype::i32;
  if constexpr (std::same_as<Element, std::int16_t>) return dtype::i16;
  if constexpr (std::same_as<Element, std::int8_t>) return dtype::i8;
  if constexpr (std::same_as<Element, std::uint64_t>) return dtype::u64;
  if constexpr (std::same_as<Element, std::uint32_t>) return dtype::u32;
  if constexpr (std::same_as<Element, std::uint16_t>) return dtype::u16;
  if constexpr (std::same_as<Element, std::uint8_t>) return dtype::u8;
  return std::nullopt;
}

/// A C++ type that a tensor can hold. Booleans are read as std::uint8_t: a byte of a file need not be 0 or 1.
template <class Element>
concept tensor_element = (find_dtype<Element>() != std::nullopt);

/// Calls `visitor(std::type_identity<Element>{})` with the C++ type of `type`.
template <class Visitor>
constexpr decltype(auto) visit_dtype(dtype type, Visitor&& visitor) {
  switch (type) {
    case dtype::f64:
      return visitor(std::type_identity<double>{});
    case dtype::f32:
      return visitor(std::type_identity<float>{});
    case dtype::f16:
      return visitor(std::type_identity<half>{});
    case dtype::bf16:
      return visitor(std::type_identity<bfloat16>{});
    case dtype::f8_e4m3:
      return visitor(std::type_identity<float8_e4m3>{});
    case dtype::f8_e5m2:
      return visitor(std::type_identity<float8_e5m2>{});
    case dtype::i64:
      return visitor(std::type_identity<std::int64_t>{});
    case dtype::i32:
      return visitor(std::type_identity<std::int32_t>{});
    case dtype::i16:
      return visitor(std::type_identity<std::int16_t>{});
    case dtype::i8:
      return visitor(std::type_identity<std::int8_t>{});
    case dtype::u64:
      return visitor(std::type_identity<std::uint64_t>{});
    case dtype::u32:
      return visitor(std::type_identity<std::uint32_t>{});
    case dtype::u16:
      return visitor(std::type_identity<std::uint16_t>{});
    case dtype::u8:
    case dtype::boolean:
      break;
  }
  return visitor(std::type_identity<std::uint8_t>{});
}

[[nodiscard]] constexpr std::size_t element_size(dtype type) {
  return visit_dtype(type, []<class Element>(std::type_identity<Element>) { return sizeof(Element); });
}

/// The name that stands in a file, such as "F32".
[[nodiscard]] constexpr std::string_view name(dtype type) {
  constexpr std::string_view names[dtype_count] = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32",
                                                   "I16", "I8",  "U64", "U32",  "U16",     "U8",      "BOOL"};
  return names[static_cast<int>(type)];
}

[[nodiscard]] constexpr bool is_float(dtype type) { return type <= dtype::f8_e5m2; }

namespace detail {

[[nodiscard]] inline std::string shape_text(std::span<std::int64_t const> shape) {
  std::string text = "[";
  for (std::int64_t const extent : shape) {
    if (text.size() > 1) text += ", ";
    text += extent < 0 ? "*" : std::to_string(extent);
  }
  return text + "]";
}

/// The smallest magnitude (an element's bits without the sign, as an integer) whose fp32 value is not finite.
/// Of F64 that is the first to round to infinity; E4M3 has one NaN and no infinity.
template <class Element>
[[nodiscard]] constexpr auto non_finite_bits() {
  if constexpr (std::same_as<Element, double>) return std::uint64_t{0x47EF'FFFF'F000'0000};
  if constexpr (std::same_as<Element, float>) return std::uint32_t{0x7F80'0000};
  if constexpr (std::same_as<Element, half>) return std::uint16_t{0x7C00};
  if constexpr (std::same_as<Element, bfloat16>) return std::uint16_t{0x7F80};
  if constexpr (std::same_as<Element, float8_e4m3>) return std::uint8_t{0x7F};
  if constexpr (std::same_as<Element, float8_e5m2>) return std::uint8_t{0x7C};
}

/// Index of the first element that is not finite in fp32. Looks at bits: -ffast-math may assume that all are.
template <class Element>
[[nodiscard]] std::optional<std::size_t> find_non_finite(std::span<std::byte const> bytes) {
  constexpr auto limit = non_finite_bits<Element>();
  using integer = std::remove_const_t<decltype(limit)>;
  constexpr auto magnitude = static_cast<integer>(static_cast<integer>(-1) >> 1);
  auto const bad = [&](std::size_t i) {
    integer bits;
    std::memcpy(&bits, bytes.data() + i * sizeof bits, sizeof bits);
    return (bits & magnitude) >= limit;
  };
  std::size_t const count = bytes.size() / sizeof limit;
  bool any = false;
  for (std::size_t i = 0; i < count; ++i) any |= bad(i);  // no early exit: this loop vectorises
  if (!any) return std::nullopt;
  std::size_t first = 0;
  while (!bad(first)) ++first;
  return first;
}

}  // namespace detail

/// A named tensor of a file: a view, valid as long as the file object that it came from.
struct tensor {
  static constexpr std::int64_t any = -1;  ///< stands for every extent in `expect_shape`

  std::string label;  ///< "FILE: tensor 'NAME'", the front of every message about it
  io::dtype dtype = io::dtype::f32;
  std::vector<std::int64_t> shape;   ///< C order; empty for a scalar
  std::span<std::byte const> bytes;  ///< little-endian, at any alignment

  [[nodiscard]] std::size_t rank() const { return shape.size(); }
  /// Number of elements.
  [[nodiscard]] std::size_t size() const { return bytes.size() / element_size(dtype); }

  [[noreturn]] void fail(std::string const& reason) const { throw error(label + " " + reason); }

  /// The elements in place. Throws if the type is another one or the data is not aligned to it: then `copy`.
  template <tensor_element Element>
  [[nodiscard]] std::span<Element const> as() const {
    expect_dtype<Element>();
    if (reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(Element) != 0) {
      fail("is not aligned to " + std::to_string(alignof(Element)) + " bytes");
    }
    return {reinterpret_cast<Element const*>(bytes.data()), size()};
  }

  /// A copy of the elements, whatever their alignment. Throws if the type is another one.
  template <tensor_element Element>
  [[nodiscard]] std::vector<Element> copy() const {
    expect_dtype<Element>();
    std::vector<Element> elements(size());
    if (!bytes.empty()) std::memcpy(elements.data(), bytes.data(), bytes.size());
    return elements;
  }

  /// All elements as float: exact for F32 and the 8 and 16 bit types, rounded for the wider ones.
  [[nodiscard]] std::vector<float> to_float() const {
    std::vector<float> floats(size());
    visit_dtype(dtype, [&]<class Element>(std::type_identity<Element>) {
      for (std::size_t i = 0; i < floats.size(); ++i) floats[i] = element_as_float<Element>(i);
    });
    return floats;
  }

  /// Throws "FILE: tensor 'NAME' must be [a, b], is [c]" unless rank and extents agree.
  tensor const& expect_shape(std::initializer_list<std::int64_t> expected) const {
    bool equal = expected.size() == rank();
    for (std::size_t i = 0; equal && i < rank(); ++i) {
      std::int64_t const extent = expected.begin()[i];
      equal = extent == any || extent == shape[i];
    }
    if (!equal) fail("must be " + detail::shape_text(expected) + ", is " + detail::shape_text(shape));
    return *this;
  }

  /// Throws unless the type is a floating-point one and every element is finite in fp32; names the first that
  /// is not.
  tensor const& expect_finite() const {
    if (!is_float(dtype)) fail("must have a floating-point type, has " + std::string(name(dtype)));
    visit_dtype(dtype, [&]<class Element>(std::type_identity<Element>) {
      if constexpr (!std::is_integral_v<Element>) {
        if (auto const index = detail::find_non_finite<Element>(bytes)) {
          auto const bits = foresightkv::detail::float_bits(element_as_float<Element>(*index));
          fail((bits << 1 > 0xFF00'0000u ? "holds NaN at " : "holds infinity at ") + place(*index));
        }
      }
    });
    return *this;
  }

 private:
  template <class Element>
  void expect_dtype() const {
    constexpr io::dtype wanted = *find_dtype<Element>();
    bool const equal = dtype == wanted || (dtype == io::dtype::boolean && wanted == io::dtype::u8);
    if (!equal) fail("must be " + std::string(name(wanted)) + ", is " + std::string(name(dtype)));
  }

  template <class Element>
  [[nodiscard]] float element_as_float(std::size_t index) const {
    Element element;
    std::memcpy(&element, bytes.data() + index * sizeof element, sizeof element);
    if constexpr (std::is_arithmetic_v<Element>) {
      return static_cast<float>(element);
    } else {
      return foresightkv::to_float(element);
    }
  }

  /// An element's indices, as text.
  [[nodiscard]] std::string place(std::size_t index) const {
    std::vector<std::int64_t> indices(rank());
    for (std::size_t i = rank(); i-- > 0; index /= static_cast<std::size_t>(shape[i])) {
      indices[i] = static_cast<std::int64_t>(index % static_cast<std::size_t>(shape[i]));
    }
    return detail::shape_text(indices);
  }
};

}  // namespace foresightkv::inline v0::io
