// SPDX-License-Identifier: Apache-2.0
// evict_trace: replays recorded attention under every eviction policy and says what each of them lost.
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <foresightkv/io/error.hpp>
#include <foresightkv/io/file.hpp>
#include <optional>
#include <string>

#include "experiment.hpp"
#include "options.hpp"
#include "page.hpp"
#include "report.hpp"

namespace {

using namespace evict_trace;

/// One line on standard error that is redrawn in place; nothing at all if no one is looking.
class progress_bar {
 public:
  progress_bar() = default;
  progress_bar(progress_bar const&) = delete;
  progress_bar& operator=(progress_bar const&) = delete;
  ~progress_bar() {
    if (visible_) std::fputs("\r\x1b[K", stderr);
  }
  void show(double done, std::string const& what) const {
    if (!visible_) return;
    constexpr int width = 30;
    auto const filled = static_cast<std::size_t>(done * width);
    std::fprintf(stderr, "\r\x1b[K[%s%s] %3.0f %%  %s", std::string(filled, '#').c_str(),
                 std::string(width - filled, '.').c_str(), 100.0 * done, what.c_str());
    std::fflush(stderr);
  }

 private:
  bool visible_ = ::isatty(STDERR_FILENO) != 0;
};

/// Finds out before the work that a file cannot be written: the temporary file is gone at the end of the
/// call.
void expect_writable(std::filesystem::path const& path) {
  if (path.empty()) return;
  if (std::filesystem::is_directory(path)) throw input_error(path.string() + ": is a folder");
  foresightkv::io::output_file{path};
}

experiment replay(options const& chosen) {
  progress_bar const bar;
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
  try {
    run(parse_options({arguments + 1, arguments + count}));
    return 0;
  } catch (std::exception const& problem) {
    std::fprintf(stderr, "evict_trace: %s\n", foresightkv::io::printable(problem.what(), 4096).c_str());
    return 2;
  }
}
