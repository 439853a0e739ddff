// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include <foresightkv/io/fingerprint.hpp>

namespace io = foresightkv::io;

namespace {

std::uint64_t of(std::string_view text, std::uint64_t seed = 0) {
  return io::fingerprint(std::as_bytes(std::span(text)), seed);
}

}  // namespace

TEST_CASE("fingerprint: every bit, every byte added and every seed shows") {
  std::set<std::uint64_t> seen;
  std::size_t expected = 0;
  for (std::size_t size = 0; size < 40; ++size) {
    std::string bytes(size, '\0');
    seen.insert(of(bytes));
    ++expected;
    for (std::size_t bit = 0; bit < 8 * size; ++bit) {
      bytes[bit / 8] = static_cast<char>(1 << bit % 8);
      seen.insert(of(bytes));
      bytes[bit / 8] = 0;
      ++expected;
    }
  }
  CHECK(seen.size() == expected);
  CHECK(of("ab", 1) != of("ab", 2));
  CHECK(of("12345678abcdefgh") != of("abcdefgh12345678"));
}

TEST_CASE("fingerprint: files that hold it outlive the program, so it may not change") {
  CHECK(io::fingerprint_text(0) == "0000000000000000");
  CHECK(io::fingerprint_text(0x0123456789abcdef) == "0123456789abcdef");
  // Worked out by integer arithmetic of any width.
  CHECK(io::fingerprint_text(of("")) == "0000000000000000");
  CHECK(io::fingerprint_text(of("foresightkv", 7)) == "376ab9e43c7b5fe0");
}
