// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "driver/model.hpp"

namespace driver {

/// Where a row's statistics come from.
struct window_source {
  window_memory const* queries = nullptr;  // null: observed before, or none
  bool observed = false;
};

/// What the numbers of a row are, by the model, as it stood before a call.
class row_numbers {
 public:
  row_numbers(model& engine, memory& arrays) : engine_(engine), arrays_(arrays) {}

  /// Tokens of a row as they stood before the call.
  [[nodiscard]] row_tokens tokens_of(fkv::row_index at) const {
    return engine_.tokens(arrays_, at, before_.keys.data(), before_.values.data());
  }

 protected:
  /// Statistics that were observed before.
  [[nodiscard]] statistics_table stored_statistics(fkv::row_index at, int slots) const {
    statistics_table made(slots, engine_.setup.num_window(), engine_.shape.group);
    for (int slot = 0; slot < slots; ++slot)
      for (int which = 0; which < made.num_statistics; ++which)
        for (int j = 0; j < made.group; ++j)
          made.at(slot, which, j) = before_.statistics[statistics_place(at, slot, which, j)];
    return made;
  }

  [[nodiscard]] statistics_table statistics_of(fkv::row_index at, window_source const& window,
                                               row_tokens const& tokens) {
    if (window.observed) return stored_statistics(at, tokens.length());
    seen_window seen;
    if (window.queries != nullptr && engine_.setup.num_window() > 0) seen.add(*window.queries, tokens, at);
    return evaluate_all(engine_.setup.window, seen, tokens.length(), engine_.shape.group);
  }
  /// Carried statistics as they stood before the call; 0 for tokens that the state has not seen.
  [[nodiscard]] statistics_table old_carried(fkv::row_index at) {
    statistics_table made(engine_.row(at).length(), engine_.setup.num_carried(), engine_.shape.group);
    int const stored = std::min(before_.seen_length[row_number(engine_.shape, at)], state_.capacity);
    for (int slot = 0; slot < std::min(stored, engine_.row(at).length()); ++slot)
      for (int which = 0; which < made.num_statistics; ++which)
        for (int j = 0; j < made.group; ++j)
          made.at(slot, which, j) = before_.carried[carried_place(at, slot, which, j)];
    return made;
  }
  [[nodiscard]] statistics_table carry_window(fkv::row_index at, statistics_table const& window) {
    statistics_table made = old_carried(at);
    auto const& names = engine_.setup.window;
    auto const fed = std::find_if(names.begin(), names.end(), [](statistic const& s) { return s.kind == fold::sum; });
    for (int slot = 0; slot < engine_.row(at).length(); ++slot)
      for (int which = 0; which < made.num_statistics; ++which)
        for (int j = 0; j < made.group; ++j)
          made.at(slot, which, j) =
              driver::carry(engine_.setup.carries[static_cast<std::size_t>(which)], made.at(slot, which, j),
                            window.at(slot, static_cast<int>(fed - names.begin()), j));
    return made;
  }
  /// What a row's scores depend on; `carries`: the carried statistics take in the window first.
  [[nodiscard]] scored_row inputs(fkv::row_index at, window_source const& window, bool carries) {
    scored_row row;
    row.at = at;
    row.tokens = tokens_of(at);
    row.window = statistics_of(at, window, row.tokens);
    row.carried = carries ? carry_window(at, row.window) : old_carried(at);
    auto const& shape = engine_.shape;
    int const layer = shape.layers == nullptr ? at.layer : shape.layers[at.layer];
    int const heads = shape.total_kv_heads == 0 ? shape.num_kv_heads : shape.total_kv_heads;
    row.judge = layer * heads + shape.first_kv_head + at.kv_head;
    row.model_row = static_cast<std::uint32_t>(row.judge);
    row.request_id = before_.request_id[static_cast<std::size_t>(at.sequence)];
    row.step = engine_.row(at).step;
    row.queries = window.queries;
    return row;
  }

  [[nodiscard]] std::size_t column(fkv::row_index at, int slot) const {
    return row_number(engine_.shape, at) * static_cast<std::size_t>(state_.capacity) + static_cast<std::size_t>(slot);
  }
  [[nodiscard]] std::size_t carried_place(fkv::row_index at, int slot, int which, int j) const {
    return (column(at, slot) * static_cast<std::size_t>(state_.num_carried) + static_cast<std::size_t>(which)) *
               static_cast<std::size_t>(state_.group) +
           static_cast<std::size_t>(j);
  }
  [[nodiscard]] std::size_t statistics_place(fkv::row_index at, int slot, int which, int j) const {
    return row_number(engine_.shape, at) * arrays_.row_statistics() +
           static_cast<std::size_t>((slot * engine_.setup.num_window() + which) * engine_.shape.group + j);
  }

  model& engine_;
  memory& arrays_;
  image before_;
  fkv::row_state state_;
};

}  // namespace driver
