// SPDX-License-Identifier: Apache-2.0
#include "calls.hpp"

#include <limits>

namespace binding {

tensor expect_last(tensor const& given, char const* name, nb::dlpack::dtype dtype,
                   std::vector<std::int64_t> const& last) {
  std::vector<std::int64_t> extents(std::max(given.extents.size(), last.size()), -1);
  std::copy(last.begin(), last.end(), extents.end() - static_cast<std::ptrdiff_t>(last.size()));
  return expect(given, name, dtype, extents);
}

int rows_before(tensor const& of, int count) {
  std::int64_t rows = 1;
  for (int dim = 0; dim + count < of.dims(); ++dim) {
    rows *= of.extent(dim);
    if (rows > std::numeric_limits<int>::max()) refuse("too many rows: " + of.text());
  }
  return static_cast<int>(rows);
}

std::vector<std::size_t> extents_before(tensor const& of, int count) {
  std::vector<std::size_t> made;
  for (int dim = 0; dim + count < of.dims(); ++dim) made.push_back(as_size(of.extents[as_size(dim)]));
  return made;
}

tensor expect_heads(tensor given, char const* name) {
  tensor made = given;
  while (made.dims() > 3 && made.extents.front() == 1) {
    made.extents.erase(made.extents.begin());
    made.strides.erase(made.strides.begin());
  }
  if (made.dims() != 3) refuse(std::string(name) + ": [head][token][dim], is " + given.text());
  expect_contiguous_tokens(made, name);
  if (made.extents[1] <= 1) made.strides[1] = made.extents[2];
  if (made.extents[0] <= 1) made.strides[0] = made.strides[1] * made.extents[1];
  if (made.strides[1] < 1 || (made.strides[0] < 1 && made.extents[1] > 0))
    refuse(std::string(name) + ": distances between heads and tokens must be positive");
  return made;
}

}  // namespace binding
