// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <foresightkv/io/safetensors.hpp>

#include "support/baseline_vectors.hpp"
#include "support/data.hpp"
#include "support/evaluation_vectors.hpp"
#include "support/golden_vectors.hpp"
#include "support/run_vectors.hpp"
#include "support/score_vectors.hpp"
#include "support/training_vectors.hpp"

namespace fkv = foresightkv;

namespace {

using checker = void (*)(fkv::io::safetensors_file const&);

void check_golden(fkv::io::safetensors_file const& file) {
  if (!golden_vectors::check_golden_vector(file)) throw fkv::io::error(file.label() + ": no golden set that is known");
}

/// A kind of vector set: files whose name begins so. Without a checker it belongs to a part of the library
/// that is not there yet.
struct kind {
  std::string_view prefix;
  checker check;
  std::vector<std::string_view> methods{};  // those of the file that are checked; none: the whole file
};

kind const kinds[] = {
    {"baselines_budgets", nullptr},
    {"baselines_h2o_fork", testing::check_baselines_h2o_fork},
    {"baselines_kvpress",
     testing::check_baselines_kvpress,
     {"keydiff", "knorm", "observed_attention", "snapkv", "streaming_llm", "tova"}},
    {"baselines_reference", testing::check_baselines_reference},
    {"golden", check_golden},
    {"grpo", testing::check_grpo},
    {"hinge", testing::check_hinge},
    {"judge_forward", testing::check_judge_forward},
    {"large_golden", check_golden},
    {"large_trajectory", testing::check_large_trajectory},
    {"sampling", testing::check_sampling},
    {"selection", testing::check_selection},
    {"statistics", testing::check_statistics},
    {"trajectory", testing::check_trajectory},
};

kind const* kind_of(std::string const& name) {
  for (kind const& candidate : kinds)
    if (name.starts_with(candidate.prefix)) return &candidate;
  return nullptr;
}

/// Methods whose results a file holds (tensors METHOD.RESULT) and that nobody checked.
std::set<std::string> unchecked_methods(kind const& checked, fkv::io::safetensors_file const& file) {
  std::set<std::string> names;
  for (auto const& [name, tensor] : file) {
    std::string const method = name.substr(0, name.find('.'));
    bool const known = std::find(checked.methods.begin(), checked.methods.end(), method) != checked.methods.end();
    if (!checked.methods.empty() && method != name && !known) names.insert(method);
  }
  return names;
}

/// Emulated blocks are slow: there, the sets whose verbs run on them, in their smaller sizes.
bool quick(std::string const& name) {
  if (testing::reads_device_data || !testing::is_emulated) return true;
  auto const begins = [&](char const* prefix) { return name.starts_with(prefix); };
  return begins("judge") || begins("selection") || begins("statistics") || begins("trajectory");
}

std::vector<std::filesystem::path> vector_files(std::filesystem::path const& folder) {
  std::vector<std::filesystem::path> files;
  for (auto const& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".safetensors" && quick(entry.path().filename().string()))
      files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

TEST_CASE("vectors: every set of the folder agrees") {
  std::filesystem::path const folder = testing::vectors_folder();
  REQUIRE_MESSAGE(std::filesystem::is_directory(folder), "not a folder: " << folder.string());
  auto const files = vector_files(folder);
  int checked = 0;
  std::cout << "vectors of " << folder.string() << "\n";
  for (auto const& path : files) {
    std::string const name = path.filename().string();
    kind const* const found = kind_of(name);
    if (found == nullptr || found->check == nullptr) {
      std::cout << "  not checked: " << name
                << (found == nullptr ? " (unknown kind)\n" : " (nothing to check it with yet)\n");
      continue;
    }
    INFO(name);
    try {
      fkv::io::safetensors_file const file(path);
      found->check(file);
      ++checked;
      std::cout << "  checked: " << name;
      auto const missing = unchecked_methods(*found, file);
      if (!missing.empty()) std::cout << ", but not";
      for (std::string const& method : missing) std::cout << " " << method;
      std::cout << "\n";
    } catch (std::exception const& problem) {
      FAIL_CHECK("cannot be read: " << std::string(problem.what()));
    } catch (...) {
      // A REQUIRE that failed, recorded already: go on with the next file.
    }
  }
  std::cout << "  " << checked << " of " << files.size() << " files checked" << std::endl;
  CHECK(checked > 0);
}
