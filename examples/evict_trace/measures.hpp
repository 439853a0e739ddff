// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <vector>

#include "replay.hpp"

namespace evict_trace {

/// Sums over queries and query heads; they add up over layers.
struct loss {
  double recalled = 0.0;  ///< full-cache attention that fell on cached tokens
  double queries = 0.0;   ///< number of (query, query head)
  double squared_error = 0.0;
  double squared_norm = 0.0;  ///< of the full-cache outputs

  loss& operator+=(loss const& other) {
    recalled += other.recalled;
    queries += other.queries;
    squared_error += other.squared_error;
    squared_norm += other.squared_norm;
    return *this;
  }
  [[nodiscard]] double attention_recall() const { return recalled / queries; }
  [[nodiscard]] double output_error() const {
    return squared_error > 0.0 ? std::sqrt(squared_error / squared_norm) : 0.0;  // values may all be 0
  }
};

/// A replay to measure.
struct replayed {
  setting const* given = nullptr;
  record const* what = nullptr;
};

/// What each replay of a layer lost against the full cache, over all queries after its first eviction. The
/// full cache's attention is computed once for all of them. The same results whatever the number of threads.
[[nodiscard]] std::vector<loss> measure(fkv::io::trace_layer const& layer, std::vector<replayed> const& replays,
                                        int tokens, int threads);

}  // namespace evict_trace
