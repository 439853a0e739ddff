// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <string>

namespace support {

/// 7 -> "7 s", 200 -> "3 min 20 s", 3900 -> "1 h 05 min".
[[nodiscard]] inline std::string duration_text(double seconds) {
  auto const total = std::llround(seconds);
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
  auto text = "[" + std::string(filled, '#') + std::string(width - filled, '.') + "] " + percent + "  " + what;
  if (done > 0.0 && seconds >= too_early) text += ", " + duration_text(seconds / done * (1.0 - done)) + " left";
  return text;
}

/// How far the work is, on standard error: one line that is redrawn in place on a terminal; elsewhere, as
/// under mpirun or in a log, a line a minute.
class progress_bar {
 public:
  /// Of several processes one shows how far all are.
  explicit progress_bar(bool shown = true) : shown_(shown), in_place_(shown && ::isatty(STDERR_FILENO) != 0) {}
  progress_bar(progress_bar const&) = delete;
  progress_bar& operator=(progress_bar const&) = delete;
  ~progress_bar() {
    if (in_place_) std::fputs("\r\x1b[K", stderr);
  }

  /// `done`: share of the work since the object was made, 0 to 1.
  void show(double done, std::string const& what) {
    auto const now = clock::now();
    if (!shown_ || (!in_place_ && now - last_ < std::chrono::minutes(1))) return;
    last_ = now;
    std::chrono::duration<double> const seconds = now - began_;
    auto const text = progress_text(done, what, seconds.count());
    std::fprintf(stderr, in_place_ ? "\r\x1b[K%s" : "%s\n", text.c_str());
    std::fflush(stderr);
  }

 private:
  using clock = std::chrono::steady_clock;

  bool shown_, in_place_;
  clock::time_point began_ = clock::now();
  clock::time_point last_ = began_;
};

}  // namespace support
