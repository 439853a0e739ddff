// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <filesystem>
#include <foresightkv/io/error.hpp>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace support {

/// Input that the program cannot work with: one line for standard error, exit status 2.
class input_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

[[noreturn]] inline void fail(std::string_view option, std::string_view reason) {
  throw input_error(std::string(option) + " " + std::string(reason));
}

[[nodiscard]] inline std::string quoted(std::string_view text) { return "'" + foresightkv::io::printable(text) + "'"; }

/// A whole number of at least `least`.
template <class Number>
[[nodiscard]] Number parse_number(std::string_view option, std::string_view text, Number least) {
  Number value{};
  auto const [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem == std::errc::result_out_of_range) fail(option, "is too large: " + quoted(text));
  if (problem != std::errc() || end != text.data() + text.size())
    fail(option, "must be a whole number, is " + quoted(text));
  if (value < least) fail(option, "must be at least " + std::to_string(least) + ", is " + std::to_string(value));
  return value;
}

/// The entries of a list separated by commas, none of them empty or there twice.
[[nodiscard]] inline std::vector<std::string_view> split(std::string_view option, std::string_view list) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0; begin <= list.size();) {
    auto const end = std::min(list.find(',', begin), list.size());
    auto const part = list.substr(begin, end - begin);
    if (part.empty()) fail(option, "has an empty entry: " + quoted(list));
    if (std::ranges::count(parts, part) > 0) fail(option, "names " + quoted(part) + " twice");
    parts.push_back(part);
    begin = end + 1;
  }
  return parts;
}

/// How the value of one option gets into `Options`.
template <class Options>
struct option_parser {
  std::string_view name;
  void (*parse)(Options&, std::string_view option, std::string_view value);
  bool takes_value = true;
};

/// For the parsers' tables: a member that is a number or a path.
template <auto Member, int Least, int Most = std::numeric_limits<int>::max()>
void parse_count(auto& out, std::string_view option, std::string_view value) {
  int const number = parse_number(option, value, Least);
  if (number > Most) fail(option, "must be at most " + std::to_string(Most) + ", is " + std::to_string(number));
  out.*Member = number;
}
/// More threads than a machine starts are a mistake, and end in a crash of the threads' library.
template <auto Member>
void parse_threads(auto& out, std::string_view option, std::string_view value) {
  parse_count<Member, 1, 1024>(out, option, value);
}
template <auto Member>
void parse_path(auto& out, std::string_view, std::string_view value) {
  out.*Member = value;
}

/// Reads `--option value`, `--option=value`, `--flag` and, by `positional(options, word)`, everything else, and
/// everything behind `--`. Stops at --help or -h and says whether one was there.
template <class Options, class Positional>
[[nodiscard]] bool parse_arguments(std::span<char const* const> arguments,
                                   std::span<option_parser<Options> const> parsers, Options& options,
                                   Positional&& positional) {
  bool words_only = false;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    std::string_view const argument = arguments[i];
    if (!words_only && (argument == "--help" || argument == "-h")) return true;
    if (!words_only && argument == "--") {
      words_only = true;
      continue;
    }
    if (words_only || !argument.starts_with("-")) {
      positional(options, argument);
      continue;
    }
    auto const equals = argument.find('=');
    auto const option = argument.substr(0, equals);
    auto const parser = std::ranges::find(parsers, option, &option_parser<Options>::name);
    if (parser == parsers.end()) throw input_error("unknown option " + quoted(option) + " (see --help)");
    std::string_view value;
    if (equals != argument.npos)
      value = argument.substr(equals + 1);
    else if (parser->takes_value && i + 1 < arguments.size())
      value = arguments[++i];
    if (!parser->takes_value && equals != argument.npos) fail(option, "takes no value");
    if (parser->takes_value && (value.empty() || value.starts_with("--"))) fail(option, "needs a value");
    parser->parse(options, option, value);
  }
  return false;
}

/// Whether writing `output` would replace `input`.
[[nodiscard]] inline bool same_file(std::filesystem::path const& output, std::filesystem::path const& input) {
  std::error_code missing;
  return output == input || std::filesystem::equivalent(output, input, missing);
}

}  // namespace support
