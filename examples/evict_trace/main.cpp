// SPDX-License-Identifier: Apache-2.0
// evict_trace: replays recorded attention under every eviction policy and says what each of them lost.
#include <cstdio>
#include <filesystem>
#include <foresightkv/io/file.hpp>
#include <optional>
#include <string>

#include "experiment.hpp"
#include "options.hpp"
#include "page.hpp"
#include "report.hpp"
#include "support/program.hpp"
#include "support/progress.hpp"

namespace {

using namespace evict_trace;

/// Finds out before the work that a file cannot be written: the temporary file is gone at the end of the
/// call.
void expect_writable(std::filesystem::path const& path) {
  if (path.empty()) return;
  if (std::filesystem::is_directory(path)) throw input_error(path.string() + ": is a folder");
  foresightkv::io::output_file{path};
}

experiment replay(options const& chosen) {
  support::progress_bar bar;
  return run_experiment(chosen, [&](double done, std::string const& what) { bar.show(done, what); });
}

/// All files are complete before the first of them appears.
void write_files(options const& chosen, experiment const& done) {
  std::optional<foresightkv::io::output_file> json_file, html_file;
  if (!chosen.json.empty()) json_file.emplace(chosen.json).write(json(done));
  if (!chosen.html.empty()) html_file.emplace(chosen.html).write(page(done));
  if (json_file) json_file->commit();
  if (html_file) html_file->commit();
}

void run(options const& chosen) {
  if (chosen.help) {
    std::fputs(help_text().c_str(), stdout);
    return;
  }
  expect_writable(chosen.json);
  expect_writable(chosen.html);
  auto const done = replay(chosen);
  write_files(chosen, done);
  std::fputs(table(done).c_str(), stdout);
}

}  // namespace

int main(int count, char** arguments) {
  return support::run_program("evict_trace", [&] { run(parse_options({arguments + 1, arguments + count})); });
}
