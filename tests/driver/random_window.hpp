// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "driver/model.hpp"

namespace driver {

/// Log-sum-exps of every query of a window, and some that mask theirs. `tokens_now(row)` gives a row's
/// tokens.
template <class TokensNow>
void fill_log_sum_exps(window_memory& window, model& engine, random_source& random, TokensNow const& tokens_now) {
  if (!window.has_lse) return;
  float const masks[] = {std::nanf(""), HUGE_VALF, -HUGE_VALF};
  bool const masks_some = random.chance(0.2);
  auto const fill_row = [&](fkv::row_index at) {
    row_tokens const tokens = tokens_now(at);
    for (int r = 0; r < std::clamp(window.count(at.sequence), 0, window.max_queries); ++r)
      for (int j = 0; j < window.shape.group; ++j) {
        int const position = window.first(at.sequence, tokens.end) + r;
        double const exact =
            log_sum_exp(logits_of(window, tokens, window.query(at, j, r), position), sink_logit(window, at, j));
        bool const masked = masks_some && random.chance(0.3);
        window.lse[window.place(at, j, r)] =
            masked ? masks[random.integer(0, 2)] : static_cast<float>(window.base_two ? exact / std::log(2.0) : exact);
      }
  };
  for (int s = 0; s < window.shape.num_sequences; ++s) engine.each_row(s, fill_row);
}

/// Whether of no query the two largest logits differ by rounding alone.
template <class TokensNow>
bool window_is_decided(window_memory const& window, model& engine, TokensNow const& tokens_now) {
  bool decided = true;
  auto const ask_row = [&](fkv::row_index at) {
    row_tokens const tokens = tokens_now(at);
    for (int r = 0; r < std::clamp(window.count(at.sequence), 0, window.max_queries); ++r)
      for (int j = 0; j < window.shape.group; ++j) {
        int const position = window.first(at.sequence, tokens.end) + r;
        numbers logits = logits_of(window, tokens, window.query(at, j, r), position);
        std::sort(logits.rbegin(), logits.rend());
        if (logits.size() < 2 || !std::isfinite(logits[1])) continue;
        decided = decided && logits[0] - logits[1] > 1e-5 * (std::fabs(logits[0]) + std::fabs(logits[1]));
      }
  };
  for (int s = 0; s < window.shape.num_sequences; ++s) engine.each_row(s, ask_row);
  return decided;
}

/// Queries of all sequences one behind the other, of each as many as it likes.
inline void pack_queries(window_memory& window, random_source& random) {
  window.packed = random.chance(0.3);
  if (!window.packed) return;
  for (int s = 0; s < window.shape.num_sequences; ++s) {
    auto const i = static_cast<std::size_t>(s);
    window.query_starts[i + 1] = window.query_starts[i] + random.integer(0, window.max_queries);
  }
  // All have room: a count of its own may be as large as max_queries behind the last start.
  window.total_queries = window.query_starts[static_cast<std::size_t>(window.shape.num_sequences)] + window.max_queries;
  auto const places = static_cast<std::size_t>(window.shape.num_layers * window.heads() * window.total_queries);
  window.queries =
      guarded<std::byte>(places * static_cast<std::size_t>(window.shape.key_head_dim * format_of(window.kind).bytes));
  window.lse = guarded<float>(places);
}

/// Where the queries stand; now and then where they cannot.
inline void place_queries(window_memory& window, model& engine, random_source& random) {
  window.has_count = random.chance(0.4);
  window.has_end = random.chance(0.4);
  window.has_first = random.chance(0.3);
  for (int s = 0; s < window.shape.num_sequences; ++s) {
    auto const i = static_cast<std::size_t>(s);
    bool const broken = random.chance(0.02);
    window.query_count[i] =
        broken ? (random.chance(0.5) ? -1 : window.max_queries + 1) : random.integer(0, window.max_queries);
    window.window_end[i] = engine.sequence(s).end + random.integer(-3, 4);
    // Without an end of its own a window ends at the newest token.
    int const newest = window.end(s, engine.sequence(s).end) - window.count(s);
    window.first_position[i] = newest - random.integer(0, 4) + (window.has_end && random.chance(0.02) ? 9 : 0);
    if (!window.has_end) window.first_position[i] = std::max(0, window.first_position[i]);
  }
}

/// A window of queries with all that it can have.
template <class TokensNow>
window_memory make_window(model& engine, memory&, random_source& random, TokensNow const& tokens_now) {
  // Now and then more queries than a block of them, and than the longest horizon.
  bool const longer = random.chance(testing::is_emulated ? 0.03 : 0.06);
  int const most = longer ? random.integer(13, 70) : random.chance(0.1) ? random.integer(0, 2) : random.integer(1, 12);
  window_memory window(engine.shape, engine.setup.query, random.chance(0.5), most);
  window.base_two = engine.setup.base_two;
  for (float& sink : window.sinks) sink = 2.0f * random.normal();
  window.scale = random.chance(0.3) ? static_cast<float>(random.uniform(0.05, 0.6)) : 0.0f;
  window.soft_cap = random.chance(0.2) ? static_cast<float>(random.uniform(1.0, 20.0)) : 0.0f;
  window.has_sinks = random.chance(0.25);
  window.has_lse = random.chance(0.4) && !engine.extreme;
  if (engine.extreme) window.soft_cap = 0.0f;
  pack_queries(window, random);
  auto const elements = static_cast<int>(window.queries.size()) / format_of(window.kind).bytes;
  fill_random(window.kind, engine.query_exponent, window.queries.data(), elements, random);
  place_queries(window, engine, random);
  fill_log_sum_exps(window, engine, random, tokens_now);
  return window;
}

}  // namespace driver
