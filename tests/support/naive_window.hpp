// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/scorer_case.hpp"

namespace testing {

/// SnapKV of the R-KV flavour, before the newest tokens are put on top: importance of the first n - window tokens.
inline std::vector<double> naive_importance(naive_row const& row, std::size_t window, int kernel) {
  std::size_t const keys = row.length() > window ? row.length() - window : 0;
  std::size_t const used = std::min(window, row.queries());
  std::vector<double> mean(keys, 0.0), pooled(keys, 0.0);
  for (std::size_t r = row.queries() - used; r < row.queries(); ++r) {
    std::vector<double> logit(keys, -1e300);
    for (std::size_t slot = 0; slot < keys; ++slot)
      for (std::size_t j = 0; j < static_cast<std::size_t>(row.group); ++j)
        if (!row.masked[r][j] && row.position[slot] <= row.query_position[r])
          logit[slot] = std::max(logit[slot], row.logit(r, j, slot));
    double const largest = keys > 0 ? *std::max_element(logit.begin(), logit.end()) : -1e300;
    if (largest == -1e300) continue;
    double total = 0.0;
    for (double& value : logit) total += value = value == -1e300 ? 0.0 : std::exp(value - largest);
    for (std::size_t slot = 0; slot < keys; ++slot) mean[slot] += logit[slot] / total / static_cast<double>(used);
  }
  for (int slot = 0; slot < static_cast<int>(keys); ++slot)
    for (int k = slot - kernel / 2; k <= slot + kernel / 2; ++k)
      if (k >= 0 && k < static_cast<int>(keys))
        pooled[static_cast<std::size_t>(slot)] =
            std::max(pooled[static_cast<std::size_t>(slot)], mean[static_cast<std::size_t>(k)]);
  return pooled;
}

/// Puts the newest tokens 1 above the best of the others.
inline std::vector<double> with_newest(std::vector<double> scores, std::size_t length) {
  double const top = scores.empty() ? 0.0 : *std::max_element(scores.begin(), scores.end());
  scores.resize(length, top + 1.0);
  return scores;
}

/// R-KV from the whole matrix of cosines. Empty where a cosine is too near the threshold to tell.
inline std::vector<double> naive_r_kv(naive_row const& row, std::size_t window, int kernel, double lambda,
                                      double threshold) {
  std::size_t const n = row.length();
  std::vector<double> mean(n, 0.0);
  auto const norm = [&](std::size_t i) { return std::max(std::sqrt(row.dot(row.key[i], row.key[i])), 1e-8); };
  for (std::size_t i = 0; i < n; ++i) {
    std::vector<double> cosine(n, 0.0);
    std::size_t retained = 0;  // column 0 also where no cosine is above the threshold
    for (std::size_t k = 0; k < n; ++k) {
      if (k != i) cosine[k] = row.dot(row.key[i], row.key[k]) / norm(i) / norm(k);
      if (std::fabs(cosine[k] - threshold) < 2e-6) return {};
      if (cosine[k] > threshold) retained = k;
    }
    cosine[retained] = 0.0;
    for (std::size_t k = 0; k < n; ++k) mean[k] += cosine[k] / static_cast<double>(n);
  }
  double total = 0.0;
  for (double& value : mean) total += value = std::exp(value);
  std::vector<double> scores = naive_importance(row, window, kernel);
  for (std::size_t slot = 0; slot < scores.size(); ++slot)
    scores[slot] = lambda * scores[slot] - (1.0 - lambda) * mean[slot] / total;
  return with_newest(std::move(scores), n);
}

/// A case whose queries are masked in places by log-sum-exps that are not finite.
template <class Case>
void mask_queries(Case& tokens, random_source& random, double share) {
  tokens.lse.clear();
  int const count = tokens.shape.num_rows() * tokens.options.group * tokens.options.queries;
  for (int i = 0; i < count; ++i) {
    float const bad = random.chance(0.5) ? std::nanf("") : -HUGE_VALF;
    tokens.lse.push_back(random.chance(share) ? bad : random.normal());
  }
}

}  // namespace testing
