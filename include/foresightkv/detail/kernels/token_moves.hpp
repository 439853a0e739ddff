// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <foresightkv/detail/kernels/rows.hpp>
#include <foresightkv/detail/kernels/vector_copy.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// Part of a token's key or value that one thread moves.
struct token_vector {
  bool of_key = false;
  int offset = 0;  // bytes
  int bytes = 0;   // vector_bytes, or what is left
};

/// A row's tokens as vectors: those of a token's key, then those of its value, numbered through.
template <class Cache>
class token_vectors {
 public:
  FORESIGHTKV_HOST_DEVICE token_vectors(Cache const& cache, row_index at) : cache_(cache), at_(at) {}

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static int count(cache_shape const& shape) {
    return divide_up(bytes(shape.key_head_dim), vector_bytes) + divide_up(bytes(shape.value_head_dim), vector_bytes);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int count() const { return count(cache_.shape()); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE token_vector operator[](int index) const {
    int const key_bytes = bytes(cache_.shape().key_head_dim);
    int const key_vectors = divide_up(key_bytes, vector_bytes);
    bool const of_key = index < key_vectors;
    int const offset = (of_key ? index : index - key_vectors) * vector_bytes;
    int const end = of_key ? key_bytes : bytes(cache_.shape().value_head_dim);
    return {of_key, offset, smaller(end - offset, vector_bytes)};
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::byte* address(token_vector const& vector, int slot) const {
    auto* const token = vector.of_key ? cache_.key(at_, slot) : cache_.value(at_, slot);
    return reinterpret_cast<std::byte*>(token) + vector.offset;
  }

 private:
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static int bytes(int dim) {
    return static_cast<int>(sizeof(typename Cache::element_type)) * dim;
  }

  Cache const& cache_;
  row_index at_;
};

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

/// Copies one strip of tokens from(i) to to(i); no destination is a source. Several vectors of a thread are on their way at
/// a time.
template <class Context, class Cache, class From, class To>
FORESIGHTKV_HOST_DEVICE void copy_tokens(Context const& c, token_vectors<Cache> const& tokens, vector_strip const& strip,
                                         int count, From const& from, To const& to) {
  constexpr int together = 8;
  int const index = strip.first + c.rank() % strip.lanes;
  if (index >= strip.end) return;
  token_vector const vector = tokens[index];
  int const step = Context::threads / strip.lanes;
  for (int first = c.rank() / strip.lanes; first < count; first += together * step) {
    vector16 held[together];
    std::byte* target[together];
    bool whole = vector.bytes == vector_bytes;
    for (int i = 0; i < together; ++i) {
      if (first + i * step >= count) continue;
      std::byte const* const source = tokens.address(vector, from(first + i * step));
      target[i] = tokens.address(vector, to(first + i * step));
      whole = whole && aligned_to(target[i], source, vector_bytes);
      if (whole) held[i] = *reinterpret_cast<vector16 const*>(source);
    }
    if (whole) {
      for (int i = 0; i < together; ++i)
        if (first + i * step < count) *reinterpret_cast<vector16*>(target[i]) = held[i];
    } else {
      for (int move = first; move < smaller(count, first + together * step); move += step)
        copy_vector(tokens.address(vector, to(move)), tokens.address(vector, from(move)), vector.bytes);
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

/// Closes up one strip of tokens in place: token list[i] goes to slot i, first <= i < count, list ascending. A column goes
/// along with the strip's first vector. Every thread stores what it fetched, so that only the order between tiles needs
/// a barrier: a tile is stored when all loads of this and of earlier ones have landed, and what is still on its way comes
/// from behind it, since sources never lie before destinations.
template <class Context, class Cache, class Ring, class Slot, class Column>
FORESIGHTKV_HOST_DEVICE void close_up(Context const& c, Ring& ring, token_vectors<Cache> const& tokens,
                                      vector_strip const& strip, Slot const* list, int first, int count,
                                      Column const& column) {
  static_assert(Ring::vectors % Context::threads == 0);
  int const in_tile = Ring::vectors / strip.lanes;  // tokens
  int const tiles = divide_up(count - first, in_tile);
  int const index = strip.first + c.rank() % strip.lanes;
  token_vector const vector = tokens[smaller(index, strip.end - 1)];
  auto const each = [&](int tile, auto const& body) {
    for (int part = 0; part < Ring::vectors; part += Context::threads) {
      int const place = part + c.rank();
      int const to = first + tile * in_tile + place / strip.lanes;
      if (to < count && index < strip.end)
        body(to, ring.stage[tile % Ring::stages][place], &ring.word[tile % Ring::stages][place / strip.lanes]);
    }
  };
  auto const fetch = [&](int tile) {
    if (tile < tiles)
      each(tile, [&](int to, std::byte* stage, std::int32_t* word) {
        fetch_vector(c, stage, tokens.address(vector, list[to]), vector.bytes);
        if (index == strip.first) column.fetch(c, word, list[to]);
      });
    c.commit();
  };
  for (int ahead = 0; ahead < Ring::stages - 1; ++ahead) fetch(ahead);
  for (int now = 0; now < tiles; ++now) {
    fetch(now + Ring::stages - 1);
    c.template wait<Ring::stages - 1>();
    c.sync(tile_landed);
    each(now, [&](int to, std::byte* stage, std::int32_t* word) {
      copy_vector(tokens.address(vector, to), stage, vector.bytes);
      if (index == strip.first) column.store(to, word);
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

}  // namespace foresightkv::inline v0::detail::kernels
