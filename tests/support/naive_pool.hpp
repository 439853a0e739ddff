// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "support/scorer_case.hpp"

namespace testing {

/// Scores of every token from its candidate neighbours: reduce(own score, neighbours' scores); others keep theirs.
template <class Reduce>
std::vector<double> naive_pool(naive_row const& row, std::vector<double> const& scores, int width,
                               Reduce const& reduce) {
  std::vector<double> pooled = scores;
  for (int slot = 0; slot < static_cast<int>(scores.size()); ++slot) {
    auto const own = static_cast<std::size_t>(slot);
    if (!row.candidate[own]) continue;
    std::vector<double> neighbours;
    for (int k = slot - width / 2; k <= slot + width / 2; ++k)
      if (k >= 0 && k < static_cast<int>(scores.size()) && row.candidate[static_cast<std::size_t>(k)])
        neighbours.push_back(scores[static_cast<std::size_t>(k)]);
    pooled[own] = reduce(scores[own], neighbours);
  }
  return pooled;
}

inline std::vector<double> naive_norms(naive_row const& row) {
  std::vector<double> scores;
  for (auto const& key : row.key) scores.push_back(-std::sqrt(row.dot(key, key)));
  return scores;
}

}  // namespace testing
