// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "io/temporary_folder.hpp"

namespace test {

struct outcome {
  int status = -1;  ///< -1: ended by a signal
  std::string out, err;
};

/// One list of arguments behind another.
[[nodiscard]] inline std::vector<std::string> joined(std::vector<std::string> first,
                                                     std::vector<std::string> const& more) {
  first.insert(first.end(), more.begin(), more.end());
  return first;
}

/// The files of a folder, by name.
[[nodiscard]] inline std::map<std::string, std::string> contents(std::filesystem::path const& folder) {
  std::map<std::string, std::string> files;
  for (auto const& entry : std::filesystem::directory_iterator(folder))
    files.emplace(entry.path().filename().string(), read_file(entry.path()));
  return files;
}

[[nodiscard]] inline std::string shell_word(std::string_view argument) {
  std::string text = "'";
  for (char const c : argument) c == '\'' ? text += "'\\''" : text += c;
  return text + "'";
}

/// Runs a program; its streams go through files in a folder that is not the one under test. `launcher` is
/// shell text that stands before it.
[[nodiscard]] inline outcome run_program(std::string_view program, std::vector<std::string> const& arguments,
                                         std::string const& launcher = "") {
  temporary_folder const streams;
  std::string command = launcher + " " + shell_word(program);
  for (auto const& argument : arguments) command += " " + shell_word(argument);
  command += " > " + shell_word((streams / "out").string()) + " 2> " + shell_word((streams / "err").string());
  int const ended = std::system(command.c_str());
  return {WIFEXITED(ended) ? WEXITSTATUS(ended) : -1, read_file(streams / "out"), read_file(streams / "err")};
}

/// Starts a program whose output nobody reads, waits, and kills it. Whether it had not ended before.
[[nodiscard]] inline bool kill_after(std::chrono::microseconds delay, std::string program,
                                     std::vector<std::string> arguments) {
  std::vector<char*> words{program.data()};
  for (auto& argument : arguments) words.push_back(argument.data());
  words.push_back(nullptr);
  pid_t const child = ::fork();
  if (child < 0) throw std::runtime_error("no new process");
  if (child == 0) {
    int const nowhere = ::open("/dev/null", O_RDWR);
    ::dup2(nowhere, STDOUT_FILENO);
    ::dup2(nowhere, STDERR_FILENO);
    ::execv(program.c_str(), words.data());
    ::_exit(127);
  }
  std::this_thread::sleep_for(delay);
  ::kill(child, SIGKILL);
  int ended = 0;
  while (::waitpid(child, &ended, 0) < 0 && errno == EINTR) {
  }
  return WIFSIGNALED(ended);
}

#if defined(FORESIGHTKV_MPIRUN)
inline constexpr bool has_mpirun = true;
/// For `run_program`: this many processes.
[[nodiscard]] inline std::string mpirun(int processes) { return FORESIGHTKV_MPIRUN " " + std::to_string(processes); }
#else
inline constexpr bool has_mpirun = false;
[[nodiscard]] inline std::string mpirun(int) { throw std::logic_error("mpirun was not found"); }
#endif

}  // namespace test
