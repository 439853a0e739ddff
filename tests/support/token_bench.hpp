// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "support/harness.hpp"
#include "support/random_window.hpp"

namespace testing {

/// What happened to a row before: nothing; evictions that kept time order; that filled holes; that left
/// holes.
enum class history { pristine, ordered, filled, holes };

/// Rows of random lengths and positions, and a list that names their sequences.
template <class Policy, class Element = float, fkv::length_domain Domain = fkv::length_domain::sequence>
struct token_bench {
  using policy_type = Policy;
  using cache_type = fkv::dense_cache<Element, Element, Domain>;

  random_source random;
  fkv::cache_shape shape;
  owned_cache<Element, Domain> cache;
  owned_state<Policy> state;
  std::vector<std::vector<int>> positions;  // [row][slot]
  std::vector<int> row_end;                 // [row] one past the newest position
  std::vector<std::int32_t> slots;          // the list
  int most = 0;                             // its max_length

  token_bench(std::uint64_t seed, int longest)
      : random(seed), shape(random_shape(random, longest + random.integer(0, 3))), most(longest) {
    rebuild();
  }
  /// One with chosen extents.
  token_bench(std::uint64_t seed, fkv::cache_shape const& extents)
      : random(seed), shape(extents), most(extents.capacity) {
    rebuild();
  }

  void rebuild() {
    cache = {shape, 0, static_cast<layout>(random.integer(0, 2))};
    cache.fill(random);
    state = {shape, shape.capacity};
    positions.assign(static_cast<std::size_t>(shape.num_rows()), {});
    row_end.assign(positions.size(), 0);
    slots.clear();
    for (int s = 0; s < shape.num_sequences; ++s) {
      slots.push_back(s);
      state.view.request_id[s] = static_cast<std::uint32_t>(random.bits());
      state.view.seed[s] = random.bits();
    }
  }

  template <class Body>
  void each_row(Body const& body) const {
    for (int layer = 0; layer < shape.num_layers; ++layer)
      for (int sequence = 0; sequence < shape.num_sequences; ++sequence)
        for (int head = 0; head < shape.num_kv_heads; ++head) body(fkv::row_index{layer, sequence, head});
  }
  template <class Body>
  void each_row(int sequence, Body const& body) const {
    each_row([&](fkv::row_index at) {
      if (at.sequence == sequence) body(at);
    });
  }

  [[nodiscard]] int random_length() {
    return random.chance(0.1) ? random.integer(0, std::min(2, most)) : random.integer(1, most);
  }

  void place(history kind) {
    for (int sequence = 0; sequence < shape.num_sequences; ++sequence) place(sequence, kind, random_length());
  }

  /// Gives the rows of a sequence a length and positions. They end together, as they do in an engine; where
  /// every row has a length of its own, those that lost tokens differ in how many.
  void place(int sequence, history kind, int length) {
    bool const ragged = Domain == fkv::length_domain::row && kind != history::pristine;
    int const longest_seen = kind == history::pristine ? 0 : random.integer(0, length);
    int const next = kind == history::pristine ? 0 : 3 * longest_seen + random.integer(1, 4);
    int const fresh = length - longest_seen;  // tokens that the state has not seen
    each_row(sequence, [&](fkv::row_index at) {
      int const row = shape.row(at);
      int const seen = ragged ? random.integer(0, longest_seen) : longest_seen;
      auto& place = positions[static_cast<std::size_t>(row)];
      place.resize(static_cast<std::size_t>(seen));
      random_positions(random, kind == history::ordered, kind == history::holes, place);
      state.view.step[row] = kind == history::pristine ? 0 : static_cast<std::uint32_t>(random.integer(1, 5));
      state.view.seen_length[row] = seen;
      state.view.next_position[row] = next;
      if (kind != history::pristine) {
        std::copy(place.begin(), place.end(), state.view.position + state.view.column(row, 0));
        for (int slot = 0; slot < seen; ++slot)
          for (int i = 0; i < state.view.num_carried * shape.group; ++i)
            state.view.carried_at(row, slot)[i] =
                place[static_cast<std::size_t>(slot)] < 0 ? 0.0f : static_cast<float>(random.uniform(0.0, 3.0));
      }
      for (int i = 0; i < fresh; ++i) place.push_back(next + i);
      cache.length(at) = seen + fresh;
      row_end[static_cast<std::size_t>(row)] = next + fresh;
    });
  }

  [[nodiscard]] int length(fkv::row_index at) const {
    return static_cast<int>(positions[static_cast<std::size_t>(shape.row(at))].size());
  }
  [[nodiscard]] int tokens(fkv::row_index at) const {
    auto const& row = positions[static_cast<std::size_t>(shape.row(at))];
    return static_cast<int>(std::count_if(row.begin(), row.end(), [](int position) { return position >= 0; }));
  }
  [[nodiscard]] bool listed(int sequence) const {
    return std::find(slots.begin(), slots.end(), sequence) != slots.end();
  }
  [[nodiscard]] fkv::sequence_list list() const {
    return {slots.data(), nullptr, static_cast<int>(slots.size()), most};
  }

  /// One row's part of an array [rows][width].
  template <class Array>
  [[nodiscard]] bool same_row(Array const& a, Array const& b, fkv::row_index at, int width) const {
    auto const from = static_cast<std::size_t>(shape.row(at)) * static_cast<std::size_t>(width);
    return width == 0 || std::memcmp(&a[from], &b[from], static_cast<std::size_t>(width) * sizeof(a[from])) == 0;
  }
};

}  // namespace testing
