// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <foresightkv/version.hpp>
#include <fstream>
#include <iostream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// The C++ half of worker.py: options and one-line protocol of a program that side_by_side.py tells to run.
namespace peers {

/// Shape of both comparisons; inputs.py has the same numbers.
inline constexpr int kv_heads = 8;
inline constexpr int group = 4;
inline constexpr int head_dim = 128;
inline constexpr int budget = 1024;

struct options {
  std::string inputs;
  std::string selector = "sampled_top_k";
  int threads = 1;
  bool lse = false;
};

[[noreturn]] inline void fail(std::string_view why) {
  std::fprintf(stderr, "%.*s\n", static_cast<int>(why.size()), why.data());
  std::exit(2);
}

inline options parse(int count, char** words) {
  options result;
  for (int i = 1; i < count; ++i) {
    std::string_view const word = words[i];
    if (word == "--lse") {
      result.lse = true;
    } else if (i + 1 == count) {
      fail("usage: --inputs DIR [--threads N] [--selector sampled_top_k|top_k] [--lse]");
    } else if (word == "--inputs") {
      result.inputs = words[++i];
    } else if (word == "--threads") {
      result.threads = std::atoi(words[++i]);
    } else if (word == "--selector") {
      result.selector = words[++i];
    } else {
      fail("unknown option: " + std::string(word));
    }
  }
  if (result.inputs.empty() || result.threads < 1) fail("needs --inputs DIR and --threads of at least 1");
  if (result.selector != "sampled_top_k" && result.selector != "top_k") fail("--selector: sampled_top_k or top_k");
#ifndef _OPENMP
  if (result.threads > 1) fail("--threads above 1 needs a build with OpenMP");
#endif
  return result;
}

/// A raw little-endian float32 file that holds exactly `count` values.
inline std::vector<float> read(std::string const& directory, std::string const& name, std::size_t count) {
  auto const path = std::filesystem::path(directory) / (name + ".f32");
  std::vector<float> values(count);
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(count * sizeof(float)));
  if (!file || file.peek() != std::ifstream::traits_type::eof())
    fail(path.string() + ": not a file of " + std::to_string(count) + " float32 values");
  return values;
}

template <class Value>
void write(std::string const& directory, std::string const& file_name, std::span<Value const> values) {
  std::filesystem::create_directories(directory);
  std::ofstream file(std::filesystem::path(directory) / file_name, std::ios::binary);
  file.write(reinterpret_cast<char const*>(values.data()), static_cast<std::streamsize>(values.size_bytes()));
  if (!file) fail(directory + "/" + file_name + ": cannot be written");
}

/// Seconds of wall clock that one call takes.
template <class Call>
double seconds_of(Call&& call) {
  auto const begin = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Obeys standard input until "quit" or its end: `run()` returns seconds, `save(directory)` writes the last
/// results.
template <class Run, class Save>
int serve(std::string_view name, options const& given, Run&& run, Save&& save) {
  std::cout << "{\"ready\": \"" << name << "\", \"threads\": " << given.threads << ", \"foresightkv\": \""
            << foresightkv::version_major << '.' << foresightkv::version_minor << '.' << foresightkv::version_patch
            << "\", \"compiler\": \"" << __VERSION__ << "\"}" << std::endl;
  for (std::string line; std::getline(std::cin, line) && line != "quit";) {
    if (line == "run") {
      std::cout << "{\"seconds\": " << run() << '}' << std::endl;
    } else if (line.starts_with("save ")) {
      save(line.substr(5));
      std::cout << "{\"saved\": true}" << std::endl;
    } else {
      std::cout << "{\"error\": \"unknown command\"}" << std::endl;
    }
  }
  return 0;
}

}  // namespace peers
