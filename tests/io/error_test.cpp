// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <stdexcept>
#include <string>
#include <type_traits>

#include <foresightkv/io/error.hpp>

namespace io = foresightkv::io;

TEST_CASE("io error: is a runtime_error that keeps its text") {
  static_assert(std::is_base_of_v<std::runtime_error, io::error>);
  CHECK(std::string(io::error("a: b").what()) == "a: b");
}

TEST_CASE("io error: printable keeps one line, cuts long names, never splits a UTF-8 character") {
  CHECK(io::printable("layer.0.key") == "layer.0.key");
  CHECK(io::printable("a\nb\tc\x7f\x1b[0m") == "a?b?c??[0m");
  CHECK(io::printable(std::string("\0", 1)) == "?");
  CHECK(io::printable("abcdef", 6) == "abcdef");
  CHECK(io::printable("abcdefg", 6) == "abcdef...");
  CHECK(io::printable("ab\u00e9cd", 3) == "ab...");  // the cut falls inside a two-byte character
  CHECK(io::printable("ab\u00e9cd", 5) == "ab\u00e9c...");
  CHECK(io::printable("a\u20acbc", 3) == "a...");  // and inside a three-byte one
  CHECK(io::printable("") == "");
}
