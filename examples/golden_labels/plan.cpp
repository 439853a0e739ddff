// SPDX-License-Identifier: Apache-2.0
#include "plan.hpp"

#include <foresightkv/io/error.hpp>
#include <foresightkv/io/file.hpp>
#include <map>
#include <optional>
#include <string>
#include <system_error>

namespace golden_labels {
namespace {

namespace io = foresightkv::io;
using support::same_file;

/// Two traces of one name would write the same files.
void check_names(options const& chosen) {
  std::map<std::string, std::filesystem::path> taken;
  for (auto const& trace : chosen.traces) {
    auto const [other, added] = taken.emplace(io::label_shard_name(trace, 0), trace);
    if (!added)
      throw input_error(other->second.string() + " and " + trace.string() + " would give files of the same name");
  }
}

/// The file's source; none where there is no file, or one that is damaged.
std::optional<io::label_source> find_labels(std::filesystem::path const& path) {
  std::error_code unreadable;
  if (!std::filesystem::exists(path, unreadable)) return {};
  try {
    return io::label_shard(path).source();
  } catch (io::error const&) {
    return {};
  }
}

bool is_finished(options const& chosen, io::trace const& trace, work const& unit) {
  if (chosen.force) return false;
  auto const path = shard_path(chosen, unit);
  auto const found = find_labels(path);
  if (!found) return false;
  if (*found != source_of(chosen, trace, unit))
    throw input_error(path.string() + ": holds labels of another config, range or trace (--force replaces them)");
  return true;
}

/// Finds out before the work that it cannot be written.
void make_folder(options const& chosen, work_plan const& plan) {
  std::error_code problem;
  std::filesystem::create_directories(chosen.out, problem);
  if (problem) throw input_error("--out " + chosen.out.string() + ": " + problem.message());
  for (auto const& unit : plan.missing) io::remove_abandoned(shard_path(chosen, unit));
  if (!plan.missing.empty()) io::output_file{shard_path(chosen, plan.missing.front())};
}

}  // namespace

io::trace open_trace(options const& chosen, int index) {
  auto const& path = chosen.traces[static_cast<std::size_t>(index)];
  io::trace trace(path);
  int const tokens = chosen.to.value_or(trace.tokens());
  auto const& config = chosen.config;
  if (tokens > trace.tokens())
    throw input_error(path.string() + ": --to " + std::to_string(tokens) + " lies behind its " +
                      std::to_string(trace.tokens()) + " tokens");
  if (config.steps(tokens) < 1)
    throw input_error(path.string() + ": nothing to evict: " + std::to_string(tokens) +
                      " tokens, and the first eviction comes when " + std::to_string(config.budget + config.interval) +
                      " are cached and another one arrives");
  return trace;
}

std::filesystem::path shard_path(options const& chosen, work const& unit) {
  auto const& trace = chosen.traces[static_cast<std::size_t>(unit.trace)];
  return chosen.out / io::label_shard_name(trace, unit.layer);
}

io::label_source source_of(options const& chosen, io::trace const& trace, work const& unit) {
  return {.trace = chosen.traces[static_cast<std::size_t>(unit.trace)].filename().string(),
          .fingerprint = io::layer_fingerprint(trace, unit.layer),
          .layer = unit.layer,
          .kv_heads = trace.shape(unit.layer).kv_heads,
          .tokens = chosen.to.value_or(trace.tokens()),
          .config = chosen.config};
}

work_plan make_plan(options const& chosen) {
  check_names(chosen);
  work_plan plan;
  for (int i = 0; i < static_cast<int>(chosen.traces.size()); ++i) {
    auto const trace = open_trace(chosen, i);
    for (int const layer : chosen.layers.empty() ? trace.layers() : chosen.layers) {
      (void)trace.shape(layer);  // throws if it was not recorded
      work const unit{i, layer};
      for (auto const& input : chosen.traces)
        if (same_file(shard_path(chosen, unit), input))
          throw input_error("refusing to replace the input " + input.string());
      if (is_finished(chosen, trace, unit))
        ++plan.finished;
      else
        plan.missing.push_back(unit);
    }
  }
  make_folder(chosen, plan);
  return plan;
}

}  // namespace golden_labels
