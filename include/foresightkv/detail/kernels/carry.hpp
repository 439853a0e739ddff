// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/detail/kernels/block_context.hpp>
#include <foresightkv/detail/kernels/observe.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// store(place, before, after) for all carried statistics of one (token, query head); seen(statistic) is what a window
/// statistic observed.
template <class... Carried, class Seen, class Store>
FORESIGHTKV_HOST_DEVICE void carry_token(statistics<Carried...>, row_carried const& old, int slot, int j, int group,
                                         Seen const& seen, Store const& store) {
  int place = 0;
  auto const at = std::int64_t{slot} * old.width + j;
  (
      [&](auto carried) {
        using statistic = decltype(carried);
        float const before = slot < old.stored ? old.values[at + place * group] : 0.0f;
        store(place, before, statistic::carry(before, seen(typename statistic::window{})));
        ++place;
      }(Carried{}),
      ...);
}

/// The same from observed statistics in memory: out[statistic * group]. `out` may be where the old values stand.
template <class WindowList, class CarriedList>
FORESIGHTKV_HOST_DEVICE void carry_observed(row_carried const& old, float const* observed, int slot, int j, int group,
                                            float* out) {
  float const* const token = observed + std::int64_t{slot} * WindowList::size * group + j;
  carry_token(
      CarriedList{}, old, slot, j, group,
      [&](auto window) { return token[WindowList::template index<decltype(window)>() * group]; },
      [&](int place, float, float after) { out[place * group] = after; });
}

/// Folds a window into the carried columns of whole rows, in place, and marks their tokens as seen. A block per row.
template <class Reads>
struct carry_kernel {
  static constexpr int threads = 256;
  enum sync : int { columns_done };
  using window_list = window_statistics<Reads>;
  using carried_list = carried_statistics<Reads>;

  visited_rows rows{};
  observed_rows observed{};

  template <class Context>
  struct shared {};

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>&) const {
    visited_row const row = rows.at(c.block());
    if (!row.visited()) return;
    row_state const& state = rows.state;
    row_positions const positions = rows.positions(row);
    for (int slot = c.rank(); slot < row.length; slot += threads)
      state.position[state.column(row.row, slot)] = positions.at(slot);
    if constexpr (carried_list::size > 0) {
      int const group = state.group;
      row_carried const old = carried_of(state, row.row);
      float const* const seen = observed.of(row, window_list::size * group);
      for (int i = c.rank(); i < row.length * group; i += threads)
        carry_observed<window_list, carried_list>(old, seen, i / group, i % group, group,
                                                  state.carried_at(row.row, i / group) + i % group);
    }
    c.sync(columns_done);
    if (c.rank() != 0) return;
    state.next_position[row.row] = positions.end(row.length);
    state.seen_length[row.row] = row.length;
  }
};

/// Copies the carried columns of rows as they stand; zero for tokens that the state has not seen. A block per row.
struct fetch_carried_kernel {
  static constexpr int threads = 256;

  visited_rows rows{};
  float* out = nullptr;  // [place][max_length][num_carried][group]
  int max_length = 0;

  template <class Context>
  struct shared {};

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>&) const {
    visited_row const row = rows.at(c.block());
    if (!row.visited()) return;
    row_carried const old = carried_of(rows.state, row.row);
    float* const target = part_of(out, row.place, std::int64_t{max_length} * old.width);
    int const stored = smaller(old.stored, row.length) * old.width;
    for (int i = c.rank(); i < row.length * old.width; i += threads) target[i] = i < stored ? old.values[i] : 0.0f;
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
