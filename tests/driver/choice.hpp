// SPDX-License-Identifier: Apache-2.0
#pragma once

// Which tokens go and where the others end up, by sorting.

#include <algorithm>
#include <cmath>
#include <vector>

#include "driver/scorers.hpp"

namespace driver {

enum class moves { ordered, fill_holes, slot_list };

struct choice {
  std::vector<int> kept, evicted;  // slots, ascending; empty ones are in neither
  bool over_budget = false;

  friend bool operator==(choice const&, choice const&) = default;
};

/// Slots of a row that may go, ascending.
inline std::vector<int> candidates(fkv::eviction_config const& config, std::vector<int> const& position,
                                   std::vector<bool> const& pinned, int end) {
  int const recent = config.recent_tokens < 0 ? config.interval : config.recent_tokens;
  std::vector<int> slots;
  for (std::size_t slot = 0; slot < position.size(); ++slot)
    if (position[slot] >= 0 && position[slot] >= config.sink_tokens && position[slot] < end - recent && !pinned[slot])
      slots.push_back(static_cast<int>(slot));
  return slots;
}

inline int occupied(std::vector<int> const& position) {
  return static_cast<int>(std::count_if(position.begin(), position.end(), [](int where) { return where >= 0; }));
}

inline choice without(std::vector<int> const& position, std::vector<int> evicted) {
  std::sort(evicted.begin(), evicted.end());
  choice made;
  for (std::size_t slot = 0; slot < position.size(); ++slot)
    if (position[slot] >= 0 && !std::binary_search(evicted.begin(), evicted.end(), static_cast<int>(slot)))
      made.kept.push_back(static_cast<int>(slot));
  made.evicted = std::move(evicted);
  return made;
}

/// The documented order of scores: NaN lowest, -0 equals +0.
inline bool ranks_below(double a, double b) { return std::isnan(a) ? !std::isnan(b) : a < b; }

/// The `count` lowest of some slots; of equal scores the lowest slots.
inline std::vector<int> lowest(std::vector<int> slots, numbers const& scores, std::size_t count) {
  std::stable_sort(slots.begin(), slots.end(), [&](int a, int b) {
    return ranks_below(scores[static_cast<std::size_t>(a)], scores[static_cast<std::size_t>(b)]);
  });
  slots.resize(std::min(count, slots.size()));
  std::sort(slots.begin(), slots.end());
  return slots;
}

/// min(tokens - budget, candidates) of the lowest scores.
inline choice choose(fkv::eviction_config const& config, int budget, row_tokens const& tokens, numbers const& scores) {
  std::vector<int> const free = candidates(config, tokens.position, tokens.pinned, tokens.end);
  auto const excess = static_cast<std::size_t>(std::max(0, occupied(tokens.position) - budget));
  choice made = without(tokens.position, lowest(free, scores, excess));
  made.over_budget = excess > free.size();
  return made;
}

/// As many of the twice as many lowest scores, drawn with probabilities softmax(-score).
inline choice sample(fkv::eviction_config const& config, int budget, scored_row const& row, numbers scores,
                     std::uint64_t seed) {
  choice made = choose(config, budget, row.tokens, scores);
  std::vector<int> const free = candidates(config, row.tokens.position, row.tokens.pinned, row.tokens.end);
  std::vector<int> const pool = lowest(free, scores, 2 * made.evicted.size());
  for (int const slot : pool) scores[static_cast<std::size_t>(slot)] -= gumbel(row, slot, seed);
  bool const over = made.over_budget;
  made = without(row.tokens.position, lowest(pool, scores, made.evicted.size()));
  made.over_budget = over;
  return made;
}

/// Whether as many candidates go.
inline bool among(choice const& other, choice const& right, std::vector<int> const& free) {
  return other.evicted.size() == right.evicted.size() &&
         std::includes(free.begin(), free.end(), other.evicted.begin(), other.evicted.end());
}

/// Whether rounding may have turned `right` into `other`: as many candidates go, and none that scores higher,
/// beyond rounding, than one that stays. Scores that are exactly 0 tie, and ties have their rule.
inline bool nearly(choice const& other, choice const& right, std::vector<int> const& free, rating const& scores) {
  if (!among(other, right, free)) return false;
  auto const goes = [&](int slot) { return std::binary_search(other.evicted.begin(), other.evicted.end(), slot); };
  for (int const gone : other.evicted) {
    auto const a = static_cast<std::size_t>(gone);
    for (int const slot : free) {
      auto const b = static_cast<std::size_t>(slot);
      if (goes(slot)) continue;
      double const gap = scores.score[a] - scores.score[b];
      if (gap > 1e-4 * (scores.size[a] + scores.size[b]) + 1e-7) return false;
      if (scores.score[a] == 0.0 && scores.score[b] == 0.0 && gone > slot) return false;
    }
  }
  return true;
}

/// The slot that each slot of the new row is filled from; -1: empty.
inline std::vector<int> sources(moves compaction, choice const& cut, int length) {
  if (compaction == moves::ordered) return cut.kept;
  if (compaction == moves::slot_list) {
    std::vector<int> from(static_cast<std::size_t>(length), -1);
    for (int const slot : cut.kept) from[static_cast<std::size_t>(slot)] = slot;
    return from;
  }
  auto const left = static_cast<int>(cut.kept.size());
  auto filler = std::lower_bound(cut.kept.begin(), cut.kept.end(), left);
  std::vector<int> from;
  for (int slot = 0; slot < left; ++slot) {
    bool const stays = std::binary_search(cut.kept.begin(), cut.kept.end(), slot);
    from.push_back(stays ? slot : *filler++);
  }
  return from;
}

}  // namespace driver
