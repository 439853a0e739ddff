// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/detail/kernels/block_context.hpp>
#include <foresightkv/detail/kernels/rows.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// Observed window statistics of the rows of a call.
struct observed_rows {
  float const* data = nullptr;  // [place or row][capacity][window list][group]
  int capacity = 0;
  bool by_row = false;

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE float const* of(visited_row const& row, int width) const {
    return part_of(data, by_row ? row.row : row.place, std::int64_t{capacity} * width);
  }
};

/// All carried statistics of one (token, query head) after a window: out[statistic * group]. `out` may be where the old
/// values stand.
template <class WindowList, class... Carried>
FORESIGHTKV_HOST_DEVICE void carry_token(statistics<Carried...>, row_carried const& old, float const* observed, int slot,
                                         int j, int group, float* out) {
  int place = 0;
  auto const at = std::int64_t{slot} * old.width + j;
  auto const now = std::int64_t{slot} * WindowList::size * group + j;
  (
      [&](auto carried) {
        using statistic = decltype(carried);
        float const before = slot < old.stored ? old.values[at + place * group] : 0.0f;
        float const seen = observed[now + WindowList::template index<typename statistic::window>() * group];
        out[place * group] = statistic::carry(before, seen);
        ++place;
      }(Carried{}),
      ...);
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
        carry_token<window_list>(carried_list{}, old, seen, i / group, i % group, group,
                                 state.carried_at(row.row, i / group) + i % group);
    }
    c.sync(columns_done);
    if (c.rank() != 0) return;
    state.next_position[row.row] = positions.end(row.length);
    state.seen_length[row.row] = row.length;
  }
};

/// Copies the carried columns of rows as they stand; zero for tokens that the state has not seen. A block per row.
struct recall_kernel {
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
