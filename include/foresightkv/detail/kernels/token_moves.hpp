// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/cache.hpp>
#include <foresightkv/detail/kernels/rows.hpp>
#include <foresightkv/detail/kernels/vector_copy.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// One vector of every token of a row. Moves spend their time on addresses: what does not depend on the slot is worked
/// out before.
template <class Place>
struct vector_path {
  static constexpr bool knows = requires(Place const place) {  // of all slots at once
    place.behind(0);
    place.aligned_to(0);
  };
  Place place;
  int offset = 0;  // bytes
  int bytes;       // vector_bytes, or what is left
  bool whole = false;

  FORESIGHTKV_HOST_DEVICE vector_path(Place const& tokens, int begin, int size) : place(tokens), bytes(size) {
    if constexpr (knows) {
      place = tokens.behind(begin);
      whole = size == vector_bytes && place.aligned_to(vector_bytes);
    } else {
      offset = begin;
    }
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::byte* operator()(int slot) const {
    if constexpr (knows) return place(slot);
    return place(slot) + offset;
  }
  /// Whether it can be copied in one step.
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE bool is_whole(int slot) const {
    if constexpr (knows) return whole;
    return bytes == vector_bytes && aligned_to((*this)(slot), (*this)(slot), vector_bytes);
  }
};

/// Vectors of a token: those of its parts, one part after the other, numbered through.
template <class Cache>
FORESIGHTKV_HOST_DEVICE int vectors_of(Cache const& cache) {
  int count = 0;
  for (int part = 0; part < num_parts(cache); ++part) count += divide_up(part_bytes(cache, part), vector_bytes);
  return count;
}
template <class Cache>
FORESIGHTKV_HOST_DEVICE auto path_of(Cache const& cache, row_index at, int vector) {
  int part = 0, before = 0;
  for (; part + 1 < num_parts(cache); ++part) {
    int const here = divide_up(part_bytes(cache, part), vector_bytes);
    if (vector - before < here) break;
    before += here;
  }
  int const offset = (vector - before) * vector_bytes;
  auto const place = part_place(cache, at, part);
  return vector_path<std::remove_const_t<decltype(place)>>(place, offset,
                                                           smaller(part_bytes(cache, part) - offset, vector_bytes));
}

/// Vectors [first, end) of every token, at most a warp's, and how threads share them: `lanes` to a token.
struct vector_strip {
  static constexpr int least_lanes = 8;
  int first = 0;
  int end = 0;
  int lanes = least_lanes;

  FORESIGHTKV_HOST_DEVICE vector_strip(int begin, int count, int most)
      : first(begin), end(smaller(begin + most, count)) {
    while (lanes < end - first) lanes *= 2;
  }
};

/// Copies one strip of a row's tokens from(i) to to(i); no destination is a source. Several vectors of a thread are on
/// their way at a time.
template <class Context, class Cache, class From, class To>
FORESIGHTKV_HOST_DEVICE void copy_tokens(Context const& c, Cache const& cache, row_index at, vector_strip const& strip,
                                         int count, From const& from, To const& to) {
  constexpr int together = 8;
  int const vector = strip.first + c.rank() % strip.lanes;
  if (vector >= strip.end) return;
  auto const path = path_of(cache, at, vector);
  int const step = Context::threads / strip.lanes;
  for (int first = c.rank() / strip.lanes; first < count; first += together * step) {
    vector16 held[together];
    bool whole = true;
    for (int i = 0; i < together; ++i) {
      int const move = first + i * step;
      if (move >= count) continue;
      whole = whole && path.is_whole(from(move)) && path.is_whole(to(move));
      if (whole) held[i] = *reinterpret_cast<vector16 const*>(path(from(move)));
    }
    if (whole) {
      for (int i = 0; i < together; ++i)
        if (first + i * step < count) *reinterpret_cast<vector16*>(path(to(first + i * step))) = held[i];
    } else {
      for (int move = first; move < smaller(count, first + together * step); move += step)
        copy_vector(path(to(move)), path(from(move)), path.bytes);
    }
  }
}

/// Stages of tokens on their way, with a word for each that may travel along.
template <int Vectors, int Stages>
struct token_ring {
  static constexpr int vectors = Vectors;  // of a stage
  static constexpr int stages = Stages;    // of which all but one are on their way

  alignas(vector_bytes) std::byte stage[Stages][Vectors][vector_bytes];
  std::int32_t word[Stages][Vectors / vector_strip::least_lanes];
};

/// Nothing travels along.
struct no_column {
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void fetch(Context const&, std::int32_t*, int) const {}
  FORESIGHTKV_HOST_DEVICE void store(int, std::int32_t const*) const {}
};

enum ring_sync : int { tile_landed = 60 };

/// Closes up one strip of tokens in place: token list[i] goes to slot i, first <= i < count, list ascending. A column
/// goes along with the strip's first vector. Every thread stores what it fetched, so that only the order between tiles
/// needs a barrier: a tile is stored when all loads of this and of earlier ones have landed, and what is still on its
/// way comes from behind it, since sources never lie before destinations.
template <class Context, class Cache, class Ring, class Slot, class Column>
FORESIGHTKV_HOST_DEVICE void close_up(Context const& c, Ring& ring, Cache const& cache, row_index at,
                                      vector_strip const& strip, Slot const* list, int first, int count,
                                      Column const& column) {
  static_assert(Ring::vectors % Context::threads == 0);
  int const in_tile = Ring::vectors / strip.lanes;  // tokens
  int const tiles = divide_up(count - first, in_tile);
  int const vector = strip.first + c.rank() % strip.lanes;
  auto const path = path_of(cache, at, smaller(vector, strip.end - 1));
  auto const each = [&](int tile, auto const& body) {
    for (int part = 0; part < Ring::vectors; part += Context::threads) {
      int const place = part + c.rank();
      int const to = first + tile * in_tile + place / strip.lanes;
      if (to < count && vector < strip.end)
        body(to, ring.stage[tile % Ring::stages][place], &ring.word[tile % Ring::stages][place / strip.lanes]);
    }
  };
  auto const fetch = [&](int tile) {
    if (tile < tiles)
      each(tile, [&](int to, std::byte* stage, std::int32_t* word) {
        fetch_vector(c, stage, path(list[to]), path.bytes);
        if (vector == strip.first) column.fetch(c, word, list[to]);
      });
    c.commit();
  };
  for (int ahead = 0; ahead < Ring::stages - 1; ++ahead) fetch(ahead);
  for (int now = 0; now < tiles; ++now) {
    fetch(now + Ring::stages - 1);
    c.template wait<Ring::stages - 1>();
    c.sync(tile_landed);
    each(now, [&](int to, std::byte* stage, std::int32_t* word) {
      copy_vector(path(to), stage, path.bytes);
      if (vector == strip.first) column.store(to, word);
    });
  }
  c.template wait<0>();
}

/// The columns of a row that is cut: positions in the state, and carried statistics, whose values before the cut stand
/// elsewhere.
struct row_columns {
  row_positions before{};
  std::int32_t* position = nullptr;
  float const* carried_before = nullptr;  // [slot][width]
  float* carried = nullptr;
  int width = 0;

  FORESIGHTKV_HOST_DEVICE row_columns(row_state const& state, visited_row const& row, row_positions const& positions,
                                      float const* values, int max_length)
      : before(positions), position(state.position + state.column(row.row, 0)), width(state.num_carried * state.group) {
    if (width == 0) return;
    carried_before = part_of(values, row.place, std::int64_t{max_length} * width);
    carried = state.carried_at(row.row, 0);
  }

  FORESIGHTKV_HOST_DEVICE void move_position(int to, int from) const { position[to] = before.at(from); }
  /// Positions that follow from the slot alone, of the first `length` tokens.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void store_implied(Context const& c, int length) const {
    for (int slot = (before.column == nullptr ? 0 : before.seen) + c.rank(); slot < length; slot += Context::threads)
      position[slot] = before.at(slot);
  }
  /// Carried statistics of tokens from(i) to to(i).
  template <class Context, class From, class To>
  FORESIGHTKV_HOST_DEVICE void carry(Context const& c, int count, From const& from, To const& to) const {
    for (int i = c.rank(); i < count * width; i += Context::threads)
      carried[std::int64_t{to(i / width)} * width + i % width] =
          carried_before[std::int64_t{from(i / width)} * width + i % width];
  }
  /// Slots that are empty from now on.
  template <class Context, class Slot>
  FORESIGHTKV_HOST_DEVICE void empty(Context const& c, Slot const* slots, int count) const {
    for (int i = c.rank(); i < count; i += Context::threads) position[slots[i]] = -1;
    for (int i = c.rank(); i < count * width; i += Context::threads)
      carried[std::int64_t{slots[i / width]} * width + i % width] = 0.0f;
  }
  /// By one thread, when all have read what they need of the state.
  FORESIGHTKV_HOST_DEVICE void advance(row_state const& state, visited_row const& row, int new_length) const {
    state.next_position[row.row] = before.end(row.length);
    state.seen_length[row.row] = new_length;
    ++state.step[row.row];
  }

  // As a column of close_up.
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void fetch(Context const& c, std::int32_t* word, int slot) const {
    if (before.column != nullptr && slot < before.seen)
      c.template copy_async<4>(word, before.column + slot);
    else
      *word = before.at(slot);
  }
  FORESIGHTKV_HOST_DEVICE void store(int to, std::int32_t const* word) const { position[to] = *word; }
};

/// The columns of tokens that go from(i) to to(i), in place. The barrier stands between what is read and what is written.
template <class Context, class From, class To>
FORESIGHTKV_HOST_DEVICE void move_columns(Context const& c, row_columns const& columns, int count, From const& from,
                                          To const& to, int barrier) {
  int first = 0;
  do {
    int const i = first + c.rank();
    std::int32_t const position = i < count ? columns.before.at(from(i)) : 0;
    c.sync(barrier);  // positions close up in place too; and all threads know the state as it was
    if (i < count) columns.position[to(i)] = position;
    first += Context::threads;
  } while (first < count);
  columns.carry(c, count, from, to);
}

}  // namespace foresightkv::inline v0::detail::kernels
