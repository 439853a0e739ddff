// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace foresightkv::inline v0::io {

/// What every function of `foresightkv::io` throws: one line of text, `FILE: reason`.
class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// `text` fit for one line of a message: control characters become '?', and what is over `limit` bytes is
/// cut. Names come from files, so they may hold anything.
[[nodiscard]] inline std::string printable(std::string_view text, std::size_t limit = 160) {
  std::string line(text.substr(0, limit));
  if (text.size() > limit) {
    while (!line.empty() && (static_cast<unsigned char>(line.back()) & 0xC0) == 0x80) line.pop_back();
    if (!line.empty() && static_cast<unsigned char>(line.back()) >= 0xC0) line.pop_back();
    line += "...";
  }
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return line;
}

}  // namespace foresightkv::inline v0::io
