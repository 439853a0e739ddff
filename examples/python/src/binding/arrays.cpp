// SPDX-License-Identifier: Apache-2.0
#include "arrays.hpp"

#include <algorithm>
#include <limits>

namespace binding {
namespace {

std::string extents_text(std::vector<std::int64_t> const& extents) {
  std::string text = "[";
  for (std::size_t i = 0; i < extents.size(); ++i)
    text += (i > 0 ? ", " : "") + (extents[i] < 0 ? std::string("any") : std::to_string(extents[i]));
  return text + "]";
}

std::string dtype_text(nb::dlpack::dtype const& dtype) {
  using code = nb::dlpack::dtype_code;
  auto const is = [&](code which) { return dtype.code == static_cast<std::uint8_t>(which); };
  std::string const kind = is(code::Int)      ? "int"
                           : is(code::UInt)   ? "uint"
                           : is(code::Float)  ? "float"
                           : is(code::Bfloat) ? "bfloat"
                           : is(code::Bool)   ? "bool"
                                              : "dtype code " + std::to_string(dtype.code) + ", bits ";
  return kind + std::to_string(dtype.bits);
}

bool is_contiguous(tensor const& given) {
  if (std::find(given.extents.begin(), given.extents.end(), 0) != given.extents.end()) return true;  // of no element
  std::int64_t next = 1;
  for (int dim = given.dims() - 1; dim >= 0; --dim) {
    auto const d = as_size(dim);
    if (given.extents[d] > 1 && given.strides[d] != next) return false;
    next *= given.extents[d];
  }
  return true;
}

/// What the backend has to say of an error of its own.
template <class Backend>
std::string native_text(fkv::status const& done) {
  if constexpr (requires { Backend::native_text(0); })
    if (done.code == fkv::errc::cuda) return std::string(": ") + Backend::native_text(done.native);
  return {};
}

}  // namespace

int tensor::extent(int dim) const {
  std::int64_t const count = extents.at(as_size(dim));
  if (count > std::numeric_limits<int>::max()) refuse("an extent of " + std::to_string(count) + " is too large");
  return static_cast<int>(count);
}

std::string tensor::text() const { return dtype_text(dtype) + " " + extents_text(extents); }

tensor tensor::with_dims(int count) const {
  tensor made = *this;
  while (made.dims() < count) {
    made.extents.insert(made.extents.begin(), 1);
    made.strides.insert(made.strides.begin(), 0);
  }
  return made;
}

tensor tensor::transposed(int a, int b) const {
  tensor made = *this;
  std::swap(made.extents.at(as_size(a)), made.extents.at(as_size(b)));
  std::swap(made.strides.at(as_size(a)), made.strides.at(as_size(b)));
  return made;
}

void refuse(std::string const& text) { throw nb::value_error(text.c_str()); }

void require(fkv::status const& done, char const* verb) {
  if (done.ok()) return;
  std::string text = std::string(verb) + ": " + done.message() + native_text<backend>(done);
  if (done.where != fkv::argument::none) text += std::string(" (") + fkv::message(done.where) + ")";
  refuse(text);
}

tensor expect(tensor const& given, char const* name, nb::dlpack::dtype dtype,
              std::vector<std::int64_t> const& extents) {
  bool fits = given.dtype == dtype && given.extents.size() == extents.size() && is_contiguous(given);
  for (std::size_t i = 0; fits && i < extents.size(); ++i) fits = extents[i] < 0 || extents[i] == given.extents[i];
  if (!fits)
    refuse(std::string(name) + ": must be a contiguous array " + dtype_text(dtype) + " " + extents_text(extents) +
           ", is " + given.text() + (is_contiguous(given) ? "" : ", not contiguous"));
  return given;
}

void expect_contiguous_tokens(tensor const& given, char const* name) {
  if (given.dims() > 0 && given.extents.back() > 1 && given.strides.back() != 1)
    refuse(std::string(name) + ": the elements of one token must stand one behind the other");
}

}  // namespace binding
