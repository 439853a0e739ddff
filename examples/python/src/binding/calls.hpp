// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdlib>
#include <foresightkv/execution.hpp>
#include <new>
#include <string>
#include <string_view>

#include "arrays.hpp"

namespace binding {

/// A library call; Python's other threads run meanwhile.
template <class Call>
void call_library(char const* verb, Call const& call) {
  fkv::status done;
  {
    nb::gil_scoped_release const others_run;
    [[maybe_unused]] backend::running const now;
    done = call();
  }
  require(done, verb);
}

inline fkv::host_execution on_threads(int count) {
  if (count < 0) refuse("threads: must not be negative");
  return fkv::host.threads(count);
}

inline constexpr char const* token_element_names = !is_token_element<float>          ? "float16 or bfloat16"
                                                   : is_token_element<fkv::bfloat16> ? "float32, float16 or bfloat16"
                                                                                     : "float32";

/// call(Element{}), with the element type of keys, values and queries.
template <class Call>
auto with_token_element(tensor const& of, char const* name, Call const& call) {
  if constexpr (is_token_element<float>)
    if (of.is<float>()) return call(float{});
  if constexpr (is_token_element<fkv::half>)
    if (of.is<fkv::half>()) return call(fkv::half{});
  if constexpr (is_token_element<fkv::bfloat16>)
    if (of.is<fkv::bfloat16>()) return call(fkv::bfloat16{});
  refuse(std::string(name) + ": elements must be " + token_element_names + ", is " + of.text());
}

/// call(Real{}): training is done in float32; float64 is for checks by finite differences.
template <class Call>
auto with_real(tensor const& of, char const* name, Call const& call) {
  if (of.is<float>()) return call(float{});
  if (of.dtype == nb::dtype<double>()) return call(double{});
  refuse(std::string(name) + ": elements must be float32 or float64, is " + of.text());
}

/// The enumerator that stands at the place of a word among `names`.
template <class Enum, std::size_t Count>
Enum enumerator(char const* argument, std::string_view given, std::string_view const (&names)[Count]) {
  auto const* const found = std::find(std::begin(names), std::end(names), given);
  if (found != std::end(names)) return static_cast<Enum>(found - std::begin(names));
  std::string known;
  for (auto const name : names) known += (known.empty() ? "'" : ", '") + std::string(name) + "'";
  refuse(std::string(argument) + ": one of " + known + ", is '" + std::string(given) + "'");
}

/// Contiguous arrays with any extents in front of those that are asked for.
tensor expect_last(tensor const& given, char const* name, nb::dlpack::dtype dtype,
                   std::vector<std::int64_t> const& last);
/// Product of all extents but the last `count`.
int rows_before(tensor const& of, int count);
/// The extents in front of the last `count`, as NumPy counts them.
std::vector<std::size_t> extents_before(tensor const& of, int count);

/// [head][token][dim] of a recorded sequence; further extents in front must be 1. Where an extent is 1 its stride is
/// that of a contiguous array, as the library takes 0 for just that and NumPy leaves it open.
tensor expect_heads(tensor given, char const* name);

/// Memory that a call fills and Python then owns, as a NumPy array. It is 0 at first, at no cost where it is large.
template <class Element>
struct fresh_array {
  Element* data;
  nb::capsule owner;
  nb::ndarray<nb::numpy, Element> array;

  explicit fresh_array(std::vector<std::size_t> const& extents) {
    std::size_t count = 1;
    for (std::size_t const extent : extents) count *= extent;
    data = static_cast<Element*>(std::calloc(std::max<std::size_t>(count, 1), sizeof(Element)));
    if (data == nullptr) throw std::bad_alloc();
    owner = nb::capsule(data, [](void* memory) noexcept { std::free(memory); });
    array = nb::ndarray<nb::numpy, Element>(data, extents.size(), extents.data(), owner);
  }
};

/// Of properties: an array that has its owner with it need not be tied to the object that it comes from.
inline constexpr auto as_owned = nb::rv_policy::automatic;

/// An array of either float type.
using real_array = nb::ndarray<nb::numpy>;

}  // namespace binding
