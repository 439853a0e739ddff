// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "support/progress.hpp"

TEST_CASE("progress: durations as people say them") {
  CHECK(support::duration_text(0.0) == "0 s");
  CHECK(support::duration_text(59.4) == "59 s");
  CHECK(support::duration_text(59.6) == "1 min 00 s");
  CHECK(support::duration_text(200.0) == "3 min 20 s");
  CHECK(support::duration_text(3900.0) == "1 h 05 min");
  CHECK(support::duration_text(36000.0 * 10) == "100 h 00 min");
}

TEST_CASE("progress: the time left goes by the time that what was done took") {
  CHECK(support::progress_text(0.0, "begin", 90.0) == "[..............................]   0 %  begin");
  CHECK(support::progress_text(0.5, "middle", 90.0) ==
        "[###############...............]  50 %  middle, 1 min 30 s left");
  CHECK(support::progress_text(0.75, "late", 30.0) == "[######################........]  75 %  late, 10 s left");
  CHECK(support::progress_text(0.1, "too early to tell", 0.5) ==
        "[###...........................]  10 %  too early to tell");
  CHECK(support::progress_text(1.5, "more than all", 10.0) ==
        "[##############################] 100 %  more than all, 0 s left");
}
