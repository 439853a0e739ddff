// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>

namespace support {

/// 7 -> "7 s", 200 -> "3 min 20 s", 3900 -> "1 h 05 min".
[[nodiscard]] inline std::string duration_text(double seconds) {
  auto const total = static_cast<long long>(seconds + 0.5);
  auto const two_digits = [](long long number) { return (number < 10 ? "0" : "") + std::to_string(number); };
  if (total < 60) return std::to_string(total) + " s";
  if (total < 3600) return std::to_string(total / 60) + " min " + two_digits(total % 60) + " s";
  return std::to_string(total / 3600) + " h " + two_digits(total / 60 % 60) + " min";
}

/// "[######....]  60 %  what, 40 s left", for a share of the work that took so many seconds.
[[nodiscard]] inline std::string progress_text(double done, std::string const& what, double seconds) {
  constexpr int width = 30;
  constexpr double too_early = 1.0;  // seconds from which on the time left is more than a guess
  done = std::clamp(done, 0.0, 1.0);
  auto const filled = static_cast<std::size_t>(done * width);
  char percent[16];
  std::snprintf(percent, sizeof percent, "%3.0f %%", 100.0 * done);
  auto text =
      "[" + std::string(filled, '#') + std::string(width - filled, '.') + "] " + percent + "  " + what;
  if (done > 0.0 && seconds >= too_early)
    text += ", " + duration_text(seconds / done * (1.0 - done)) + " left";
  return text;
}

/// One line on standard error that is redrawn in place; nothing at all if no one is looking.
class progress_bar {
 public:
  /// Of several processes one shows how far all are.
  explicit progress_bar(bool shown = true) : visible_(shown && ::isatty(STDERR_FILENO) != 0) {}
  progress_bar(progress_bar const&) = delete;
  progress_bar& operator=(progress_bar const&) = delete;
  ~progress_bar() {
    if (visible_) std::fputs("\r\x1b[K", stderr);
  }

  /// `done`: share of the work since the object was made, 0 to 1.
  void show(double done, std::string const& what) const {
    if (!visible_) return;
    std::chrono::duration<double> const seconds = std::chrono::steady_clock::now() - began_;
    std::fprintf(stderr, "\r\x1b[K%s", progress_text(done, what, seconds.count()).c_str());
    std::fflush(stderr);
  }

 private:
  bool visible_;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

}  // namespace support
