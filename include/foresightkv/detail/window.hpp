// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <foresightkv/config.hpp>
#include <foresightkv/detail/partition_point.hpp>
#include <foresightkv/detail/row_view.hpp>
#include <foresightkv/observation.hpp>

namespace foresightkv::inline v0::detail {

inline constexpr float log2_e = 1.44269504088896340736f;

/// Where a window stands in a row.
struct window_place {
  int count = 0;  // queries of this chunk
  int first = 0;  // position of the oldest
  int end = 0;    // one past the newest position of the declared window
};

/// Of an observation, or of what a call knows of it without its queries.
template <class Window>
FORESIGHTKV_HOST_DEVICE window_place place_window(Window const& window, int sequence, int row_end) {
  window_place place;
  place.count = static_cast<int>(count_queries(window, sequence));
  place.end = window.window_end == nullptr ? row_end : window.window_end[sequence];
  place.first = window.first_position == nullptr ? place.end - place.count : window.first_position[sequence];
  return place;
}

/// What `observe` leaves for a token while its window has had no query: a zero that says so, since no fold of
/// probabilities gives it, and whose sign a later chunk reads.
inline constexpr std::uint32_t unobserved = 0x80000000u;

/// Stores a statistic, or the mark in its place: as an integer, since under -ffast-math one zero is as good as the
/// other.
FORESIGHTKV_HOST_DEVICE inline void store_or_mark(bool begun, float statistic, float* to) {
  std::uint32_t const bits = begun ? float_bits(statistic) : unobserved;
  std::memcpy(to, &bits, sizeof bits);
}

/// Whether a window that continues has had a query before, as the first statistic of a token that earlier chunks saw
/// says; without one, any token that says there was none. `statistics`: of the row, `width` floats a token.
FORESIGHTKV_HOST_DEVICE inline bool window_begun(row_positions const& positions, int length, window_place const& place,
                                                 float const* statistics, int width) {
  if (width == 0) return false;  // of no statistics there is nothing to read, and nothing to go on with
  bool none_said = false;
  for (int slot = 0; slot < length; ++slot) {
    int const position = positions.at(slot);
    bool const none = float_bits(statistics[std::int64_t{slot} * width]) == unobserved;
    if (position >= 0 && position < place.first) return !none;
    none_said = none_said || none;
  }
  return !none_said && place.first != 0;  // nothing comes before position 0
}

template <class Query, log_base Base>
FORESIGHTKV_HOST_DEVICE float softmax_scale(observation<Query, Base> const& window, cache_shape const& shape) {
  if (window.softmax_scale > 0.0f) return window.softmax_scale;
  return 1.0f / sqrtf(static_cast<float>(shape.key_head_dim));
}

/// What turns one query's logits into probabilities.
struct softmax_rule {
  float multiply = 0.0f;  // base-2 exponent per unit of logit
  float scale = 0.0f;
  float soft_cap = 0.0f;
};

/// Of products of queries and stored keys, each times token_scale(keys, slot).
template <class Query, log_base Base, class Cache>
FORESIGHTKV_HOST_DEVICE softmax_rule softmax_rule_of(observation<Query, Base> const& window, Cache const& cache,
                                                     row_index at) {
  softmax_rule rule;
  rule.scale = softmax_scale(window, cache.shape()) * row_scale(cache.keys(at));
  rule.soft_cap = window.soft_cap;
  rule.multiply = (rule.soft_cap > 0.0f ? 1.0f : rule.scale) * log2_e;
  return rule;
}

/// First slot of an ascending row that a query at `position` does not see.
FORESIGHTKV_HOST_DEVICE inline int visible_prefix(row_positions const& positions, int n, int position) {
  return partition_point(n, [&](int slot) { return positions.at(slot) <= position; });
}

/// A row as a scorer sees it, all but its statistics and what it borrows.
template <class Reads, class Cache, class Window>
FORESIGHTKV_HOST_DEVICE row_view<Cache, Window, Reads> view_row(Cache const& cache, Window const& window,
                                                                eviction_config const& config, row_state const& state,
                                                                row_index at, int length,
                                                                row_positions const& positions) {
  row_view<Cache, Window, Reads> view;
  view.cache = &cache;
  view.window = &window;
  view.at = at;
  view.tokens = length;
  view.positions = positions;
  view.protected_from = positions.end(length) - config.recent();
  view.sink_tokens = config.sink_tokens;
  view.pins = pins_of(state, at.sequence);
  view.request = state.request_id[at.sequence];
  view.evictions = state.step[cache.shape().row(at)];
  if constexpr (is_observation<Window>) {
    window_place const place = place_window(window, at.sequence, positions.end(length));
    view.window_queries = place.count;
    view.first_query = place.first;
    view.scale = softmax_scale(window, cache.shape());
    view.cap = window.soft_cap;
  }
  return view;
}

}  // namespace foresightkv::inline v0::detail
