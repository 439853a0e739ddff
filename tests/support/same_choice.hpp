// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

#include "support/execution.hpp"

namespace testing {

/// How far apart a fused call and its stages may put the score of a token. On a device that is a rounding, since
/// compilers contract products and sums kernel by kernel; everywhere else nothing.
inline constexpr float rounding_of_scores = rounds_alike ? 0.0f : 1e-5f;

/// Whether two choices of evicted slots are the same, but for tokens whose scores are so close together that a choice
/// may fall either way. `scores`: of one of the two.
inline bool same_choice(std::vector<int> const& a, std::vector<int> const& b, std::vector<float> const& scores,
                        float tolerance = rounding_of_scores) {
  if (a == b) return true;
  if (tolerance == 0.0f || a.size() != b.size()) return false;
  std::vector<int> slots;
  std::set_symmetric_difference(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(slots));
  auto const score = [&](int slot) { return scores[static_cast<std::size_t>(slot)]; };
  auto const [least, most] =
      std::minmax_element(slots.begin(), slots.end(), [&](int i, int j) { return score(i) < score(j); });
  return score(*most) - score(*least) <= tolerance * std::max(1.0f, std::fabs(score(*most)));
}

}  // namespace testing
