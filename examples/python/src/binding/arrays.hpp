// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <foresightkv/element.hpp>
#include <foresightkv/status.hpp>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "backend.hpp"

namespace binding {

namespace nb = nanobind;
namespace fkv = foresightkv;
using namespace nb::literals;

/// Any array in the backend's memory that speaks DLPack or the buffer protocol, seen where it stands; what may be
/// written, and what is only read.
using array = nb::ndarray<backend::device>;
using input_array = nb::ndarray<nb::ro, backend::device>;
/// The same in host memory, for what the host has to know: lists of sequences.
using host_array = nb::ndarray<nb::ro, nb::device::cpu>;

inline std::size_t as_size(std::int64_t count) { return static_cast<std::size_t>(count); }

namespace detail {
template <template <class> class View, class... Element>
std::variant<View<Element>...> each_view(std::tuple<Element...>);
template <class Wanted, class... Element>
constexpr bool is_one_of(std::tuple<Element...> const*) {
  return (std::is_same_v<Wanted, Element> || ...);
}
}  // namespace detail

/// The element types that caches and windows may have; the place of one in any_* variants.
template <template <class> class View>
using of_each_element = decltype(detail::each_view<View>(backend::token_elements{}));
template <class Element>
inline constexpr bool is_token_element = detail::is_one_of<Element>(static_cast<backend::token_elements*>(nullptr));

template <class Element>
inline constexpr nb::dlpack::dtype dtype_of{};
template <>
inline constexpr nb::dlpack::dtype dtype_of<float>{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float), 32, 1};
template <>
inline constexpr nb::dlpack::dtype dtype_of<fkv::half>{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float), 16, 1};
template <>
inline constexpr nb::dlpack::dtype dtype_of<fkv::bfloat16>{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Bfloat),
                                                           16, 1};
template <>
inline constexpr nb::dlpack::dtype dtype_of<std::int32_t>{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Int), 32,
                                                          1};

/// An array without its owner: extents, and distances in elements.
struct tensor {
  void* data = nullptr;
  nb::dlpack::dtype dtype{};
  std::vector<std::int64_t> extents, strides;

  [[nodiscard]] int dims() const { return static_cast<int>(extents.size()); }
  /// An extent as the library counts them.
  [[nodiscard]] int extent(int dim) const;
  [[nodiscard]] std::string text() const;
  /// The same with extents of 1 in front, so that there are so many dimensions.
  [[nodiscard]] tensor with_dims(int count) const;
  /// Dimensions `a` and `b` change places.
  [[nodiscard]] tensor transposed(int a, int b) const;

  template <class Element>
  [[nodiscard]] bool is() const {
    return dtype == dtype_of<Element>;
  }
  template <class Element>
  [[nodiscard]] Element* elements() const {
    return static_cast<Element*>(data);
  }
};

template <class Array>
tensor describe(Array const& from) {
  tensor made{const_cast<void*>(static_cast<void const*>(from.data())), from.dtype(), {}, {}};
  for (std::size_t i = 0; i < from.ndim(); ++i) {
    made.extents.push_back(static_cast<std::int64_t>(from.shape(i)));
    made.strides.push_back(from.stride(i));
  }
  return made;
}

/// ValueError with the library's text, unless all is well.
void require(fkv::status const& done, char const* verb);

/// An array of the type and extents that a call needs, one behind the other; -1 stands for any extent.
tensor expect(tensor const& given, char const* name, nb::dlpack::dtype dtype, std::vector<std::int64_t> const& extents);
/// Refuses tokens whose own elements are not one behind the other.
void expect_contiguous_tokens(tensor const& given, char const* name);

/// What verbs made, as Python gets it: a NumPy array, or an array of the device for whoever speaks DLPack.
template <class Element>
using result_array =
    nb::ndarray<std::conditional_t<backend::is_host, nb::numpy, nb::array_api>, backend::device, Element>;

/// Memory of the backend that goes to Python, which owns it then.
template <class Element>
result_array<Element> to_result(memory&& values, std::vector<std::size_t> const& extents) {
  auto* const kept = new memory(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<memory*>(p); });
  return result_array<Element>(kept->elements<Element>(), extents.size(), extents.data(), owner, nullptr,
                               nb::dtype<Element>(), backend::device::value, backend::device_id());
}

/// Memory that goes to Python, as a NumPy array that owns it.
template <class Element>
nb::ndarray<nb::numpy, Element> to_numpy(std::vector<Element>&& values, std::vector<std::size_t> const& extents) {
  auto* const kept = new std::vector<Element>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<Element>*>(p); });
  return nb::ndarray<nb::numpy, Element>(kept->data(), extents.size(), extents.data(), owner);
}

}  // namespace binding
