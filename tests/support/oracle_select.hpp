// SPDX-License-Identifier: Apache-2.0
#pragma once

// Which tokens should go, and where the others should end up: sorting and plain lists. Works on bits, so that
// it is right in a program built with -ffast-math too.

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include <foresightkv/compactions/fill_holes.hpp>
#include <foresightkv/compactions/ordered.hpp>
#include <foresightkv/compactions/slot_list.hpp>
#include <foresightkv/config.hpp>

namespace oracle {

namespace fkv = foresightkv;

/// Place of a score in the order: NaN below everything, -0 with +0. A float is a sign and a magnitude.
inline std::int64_t rank(float score) {
  auto const bits = __builtin_bit_cast(std::uint32_t, score);
  auto const magnitude = static_cast<std::int64_t>(bits & 0x7fffffffu);
  if (magnitude > 0x7f800000) return INT64_MIN;
  return (bits >> 31) != 0 ? -magnitude : magnitude;
}

/// Whether a token may go: neither a sink nor recent, nor an empty slot.
inline bool candidate(fkv::eviction_config const& config, int position, int end) {
  return position >= 0 && position >= config.sink_tokens && position < end - config.recent();
}

/// The slots of the `count` lowest scores among candidates, lowest slot first among equals; ascending.
inline std::vector<int> lowest(std::vector<float> const& scores, std::vector<bool> const& free, int count) {
  std::vector<int> slots;
  for (std::size_t slot = 0; slot < scores.size(); ++slot)
    if (free[slot]) slots.push_back(static_cast<int>(slot));
  std::stable_sort(slots.begin(), slots.end(), [&](int a, int b) {
    return rank(scores[static_cast<std::size_t>(a)]) < rank(scores[static_cast<std::size_t>(b)]);
  });
  slots.resize(static_cast<std::size_t>(std::clamp(count, 0, static_cast<int>(slots.size()))));
  std::sort(slots.begin(), slots.end());
  return slots;
}

/// What an eviction does to a row.
struct choice {
  std::vector<int> evicted;
  std::vector<int> kept;  // occupied slots that stay
};

/// top_k on a row with these positions: min(tokens - budget, candidates) tokens go.
inline choice choose(fkv::eviction_config const& config, int budget, std::vector<int> const& position, int end,
                     std::vector<float> const& scores) {
  std::vector<bool> free(position.size());
  int tokens = 0;
  for (std::size_t slot = 0; slot < position.size(); ++slot) {
    free[slot] = candidate(config, position[slot], end);
    tokens += position[slot] >= 0;
  }
  choice made;
  made.evicted = lowest(scores, free, tokens - budget);
  for (int slot = 0; slot < static_cast<int>(position.size()); ++slot)
    if (position[static_cast<std::size_t>(slot)] >= 0 &&
        !std::binary_search(made.evicted.begin(), made.evicted.end(), slot))
      made.kept.push_back(slot);
  return made;
}

/// For every slot after a compaction, the slot whose token stands there now; -1: empty. A row that loses
/// nothing keeps its slots.
inline std::vector<int> sources(fkv::ordered, choice const& made, int length) {
  std::vector<int> from(static_cast<std::size_t>(length));
  std::iota(from.begin(), from.end(), 0);
  return made.evicted.empty() ? from : made.kept;
}
inline std::vector<int> sources(fkv::slot_list, choice const& made, int length) {
  std::vector<int> from(static_cast<std::size_t>(length), -1);
  for (int const slot : made.kept) from[static_cast<std::size_t>(slot)] = slot;
  return from;
}
inline std::vector<int> sources(fkv::fill_holes, choice const& made, int length) {
  auto const left = length - static_cast<int>(made.evicted.size());
  std::vector<int> from(static_cast<std::size_t>(left), -1);
  auto hole = made.evicted.begin();
  for (int const slot : made.kept) from[static_cast<std::size_t>(slot < left ? slot : *hole++)] = slot;
  return from;
}

}  // namespace oracle
