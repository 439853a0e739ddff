// SPDX-License-Identifier: Apache-2.0
#pragma once

// Attention and its statistics by their definitions, in double precision.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "driver/memory.hpp"

namespace driver {

/// One row as a naive scorer sees it, slot by slot.
struct row_tokens {
  std::vector<int> position;  // negative: an empty slot
  std::vector<numbers> key, value;
  std::vector<bool> pinned;  // [slot]
  int end = 0;               // one past the newest position

  [[nodiscard]] int length() const { return static_cast<int>(position.size()); }
  [[nodiscard]] bool occupied(int slot) const { return position[static_cast<std::size_t>(slot)] >= 0; }
  [[nodiscard]] bool seen_by(int query_position, std::size_t slot) const {
    return position[slot] >= 0 && position[slot] <= query_position;
  }
};

inline double dot(numbers const& a, numbers const& b) {
  double total = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) total += a[i] * b[i];
  return total;
}

/// Scaled and capped logits of a query; minus infinity where it does not see a token.
inline numbers logits_of(window_memory const& window, row_tokens const& tokens, numbers const& query,
                         int query_position) {
  double const scale = window.scale > 0.0f ? window.scale : 1.0 / std::sqrt(static_cast<double>(query.size()));
  double const cap = window.soft_cap;
  numbers made(tokens.position.size(), -HUGE_VAL);
  for (std::size_t slot = 0; slot < made.size(); ++slot) {
    if (!tokens.seen_by(query_position, slot)) continue;
    double const logit = dot(query, tokens.key[slot]) * scale;
    made[slot] = cap > 0.0 ? cap * std::tanh(logit / cap) : logit;
  }
  return made;
}

inline double sink_logit(window_memory const& window, fkv::row_index at, int j) {
  if (!window.has_sinks) return -HUGE_VAL;
  return window.sinks[static_cast<std::size_t>(at.layer * window.heads() + at.kv_head * window.shape.group + j)];
}

/// Natural log-sum-exp; minus infinity of nothing.
inline double log_sum_exp(numbers const& logits, double sink) {
  double const seen = logits.empty() ? -HUGE_VAL : *std::max_element(logits.begin(), logits.end());
  if (seen == -HUGE_VAL) return -HUGE_VAL;
  double const largest = std::max(seen, sink);
  double total = std::exp(sink - largest);
  for (double const logit : logits) total += std::exp(logit - largest);
  return largest + std::log(total);
}

/// The probabilities that one query of one head gives every slot.
inline numbers probabilities(window_memory const& window, row_tokens const& tokens, fkv::row_index at, int j, int r,
                             int query_position) {
  numbers made = logits_of(window, tokens, window.query(at, j, r), query_position);
  double sum = log_sum_exp(made, sink_logit(window, at, j));
  if (window.has_lse) {
    double const given = window.lse[window.place(at, j, r)];
    sum = window.base_two ? given * std::log(2.0) : given;
  }
  for (double& value : made) value = std::isfinite(sum) ? std::exp(value - sum) : 0.0;
  return made;
}

/// What a row's queries gave its slots: [query][j][slot]. Slots that joined later got nothing.
struct seen_window {
  int end = 0;                // one past the newest position of the declared window
  std::vector<int> position;  // [query]
  std::vector<std::vector<numbers>> probability;

  void add(window_memory const& window, row_tokens const& tokens, fkv::row_index at) {
    end = window.end(at.sequence, tokens.end);
    for (int r = 0; r < window.count(at.sequence); ++r) {
      position.push_back(window.first(at.sequence, tokens.end) + r);
      probability.emplace_back();
      for (int j = 0; j < window.shape.group; ++j)
        probability.back().push_back(probabilities(window, tokens, at, j, r, position.back()));
    }
  }
  [[nodiscard]] double given(std::size_t query, int j, std::size_t slot) const {
    numbers const& all = probability[query][static_cast<std::size_t>(j)];
    return slot < all.size() ? all[slot] : 0.0;
  }
};

/// A window statistic by name.
enum class fold { maximum, minimum, sum, last };
struct statistic {
  fold kind = fold::sum;
  int width = 0;
};

/// A statistic of one slot; 0 for a window of no queries.
inline double evaluate(statistic const& what, seen_window const& window, int j, std::size_t slot) {
  double largest = 0.0, total = 0.0;
  double smallest = window.position.empty() ? 0.0 : 1.0;
  for (std::size_t query = 0; query < window.position.size(); ++query) {
    double const p = window.given(query, j, slot);
    int const age = window.end - 1 - window.position[query];
    largest = std::max(largest, p);
    smallest = std::min(smallest, p);
    if (what.kind == fold::sum || age < what.width) total += p;
  }
  if (what.kind == fold::maximum) return largest;
  return what.kind == fold::minimum ? smallest : total;
}

/// Statistics of a row: [slot][statistic][j].
struct statistics_table {
  int num_statistics = 0;
  int group = 1;
  numbers values;

  statistics_table() = default;
  statistics_table(int slots, int statistics, int heads)
      : num_statistics(statistics), group(heads), values(static_cast<std::size_t>(slots * statistics * heads), 0.0) {}

  [[nodiscard]] double& at(int slot, int which, int j) {
    return values[static_cast<std::size_t>((slot * num_statistics + which) * group + j)];
  }
  [[nodiscard]] double at(int slot, int which, int j) const {
    return values[static_cast<std::size_t>((slot * num_statistics + which) * group + j)];
  }
  [[nodiscard]] double mean(int slot, int which) const {
    double total = 0.0;
    for (int j = 0; j < group; ++j) total += at(slot, which, j);
    return total / group;
  }
};

inline statistics_table evaluate_all(std::vector<statistic> const& wanted, seen_window const& window, int slots,
                                     int group) {
  statistics_table made(slots, static_cast<int>(wanted.size()), group);
  for (int slot = 0; slot < slots; ++slot)
    for (int which = 0; which < made.num_statistics; ++which)
      for (int j = 0; j < group; ++j)
        made.at(slot, which, j) =
            evaluate(wanted[static_cast<std::size_t>(which)], window, j, static_cast<std::size_t>(slot));
  return made;
}

/// How a carried statistic keeps what it had; it is fed by the window's sum.
enum class carried { accumulated, decayed };

inline double carry(carried kind, double old, double now) { return (kind == carried::decayed ? 0.9 * old : old) + now; }

}  // namespace driver
