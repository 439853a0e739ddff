// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <foresightkv/compactions/fill_holes.hpp>
#include <foresightkv/compactions/ordered.hpp>
#include <foresightkv/compactions/slot_list.hpp>
#include <foresightkv/detail/host/row.hpp>

namespace foresightkv::inline v0::detail::host {

/// Neighbours that move together.
struct token_run {
  int to, from, tokens;
};

/// Copies them from one place to another of the same tokens, whose bytes are contiguous. Where both are one place,
/// destinations never lie behind their sources, and may reach into them.
template <class ToPlace, class FromPlace>
void move_run(ToPlace const& to, FromPlace const& from, std::size_t bytes, token_run const& tokens) {
  if (tokens.tokens == 1) return void(std::memcpy(to(tokens.to), from(tokens.from), bytes));
  if constexpr (requires {
                  to.steady(0);
                  from.steady(0);
                }) {
    auto const to_step = static_cast<std::ptrdiff_t>(to.step()), from_step = static_cast<std::ptrdiff_t>(from.step());
    bool const whole = to_step == static_cast<std::ptrdiff_t>(bytes) && from_step == to_step;
    for (int done = 0, here = 0; done < tokens.tokens; done += here) {
      int const first_to = tokens.to + done, first_from = tokens.from + done;
      here = std::min({tokens.tokens - done, to.steady(first_to), from.steady(first_from)});
      std::byte *const target = to(first_to), *const source = from(first_from);
      if (whole)
        std::memmove(target, source, bytes * static_cast<std::size_t>(here));
      else
        for (std::ptrdiff_t i = 0; i < here; ++i) std::memcpy(target + i * to_step, source + i * from_step, bytes);
    }
  } else {
    for (int i = 0; i < tokens.tokens; ++i) std::memcpy(to(tokens.to + i), from(tokens.from + i), bytes);
  }
}

/// Moves tokens, all parts of them. Moves are collected, neighbours together, and made part by part, so that what does
/// not depend on the slot is worked out once for many of them; those of a part are made in the order that they came in.
template <class Cache>
class token_moves {
 public:
  token_moves(Cache const& cache, row_index at) : cache_(cache), at_(at) {}
  token_moves(token_moves const&) = delete;
  token_moves& operator=(token_moves const&) = delete;
  ~token_moves() { flush(); }

  void add(int to, int from) {
    if (count_ == most) flush();
    runs_[count_++] = {to, from, 1};
  }
  /// The same where neighbours often move together.
  void add_neighbour(int to, int from) {
    if (count_ > 0) {
      token_run& last = runs_[count_ - 1];
      if (to == last.to + last.tokens && from == last.from + last.tokens) return void(++last.tokens);
    }
    add(to, from);
  }

 private:
  static constexpr int most = 64;

  void flush() {
    for (int part = 0; part < num_parts(cache_); ++part) {
      auto const place = part_place(cache_, at_, part);
      auto const bytes = static_cast<std::size_t>(part_bytes(cache_, part));
      for (int i = 0; i < count_; ++i) move_run(place, place, bytes, runs_[i]);
    }
    count_ = 0;
  }

  Cache const& cache_;
  row_index at_;
  int count_ = 0;
  token_run runs_[most];
};

/// A row whose tokens move: its columns as they stand before (`positions`, `carried`) and after (the state's own).
/// Columns may be moved in place: destinations never lie behind sources still to be read.
template <class Cache>
struct moving_row {
  Cache const* cache = nullptr;
  row_index at{};
  row_positions positions{};
  float const* carried = nullptr;  // [slot][width], updated by this call
  int width = 0;                   // num_carried * group
  std::int32_t* position_column = nullptr;
  float* carried_column = nullptr;

  [[nodiscard]] token_moves<Cache> tokens() const { return {*cache, at}; }
  void move_columns(int to, int from) const {
    position_column[to] = positions.at(from);
    if (width == 0) return;
    float const* const source = carried + static_cast<std::ptrdiff_t>(from) * width;
    float* const target = carried_column + static_cast<std::ptrdiff_t>(to) * width;
    if (source != target) std::memcpy(target, source, sizeof(float) * static_cast<std::size_t>(width));
  }
};

/// Kept tokens close up. Ascending, so a destination is at or before its source and everything before it has
/// moved.
template <class Row>
void compact_row(ordered, Row const& row, std::int32_t const* kept, int num_kept, std::int32_t const*, int) {
  auto tokens = row.tokens();
  for (int i = 0; i < num_kept; ++i) {
    if (kept[i] != i) tokens.add_neighbour(i, kept[i]);
    row.move_columns(i, kept[i]);
  }
}

/// Kept tokens beyond the new length fill the slots below it that are not kept: sources and destinations are disjoint.
template <class Row>
void compact_row(fill_holes, Row const& row, std::int32_t const* kept, int num_kept, std::int32_t const*, int) {
  auto tokens = row.tokens();
  int filler = num_kept;
  while (filler > 0 && kept[filler - 1] >= num_kept) --filler;
  for (int slot = 0, stays = 0; slot < num_kept; ++slot) {
    bool const stay = kept[stays] == slot;
    int const from = kept[stay ? stays++ : filler++];
    if (!stay) tokens.add(slot, from);
    row.move_columns(slot, from);
  }
}

/// Evicted slots become empty.
template <class Row>
void compact_row(slot_list, Row const& row, std::int32_t const* kept, int num_kept, std::int32_t const* evicted,
                 int num_evicted) {
  for (int i = 0; i < num_kept; ++i) row.move_columns(kept[i], kept[i]);
  for (int i = 0; i < num_evicted; ++i) {
    row.position_column[evicted[i]] = -1;
    for (int w = 0; w < row.width; ++w)
      row.carried_column[static_cast<std::ptrdiff_t>(evicted[i]) * row.width + w] = 0.0f;
  }
}

}  // namespace foresightkv::inline v0::detail::host
