// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include <foresightkv/foresightkv.hpp>

#include "support/execution.hpp"
#include "support/random.hpp"
#include "support/red_zone.hpp"

namespace testing {

namespace fkv = foresightkv;

enum class layout { hnd, nhd, layer_pointers };

/// The memory behind a dense cache.
template <class Element, fkv::length_domain Domain = fkv::length_domain::sequence>
struct owned_cache {
  using view_type = fkv::dense_cache<Element, Element, Domain>;

  fkv::cache_shape shape{};
  layout order = layout::hnd;
  guarded<Element> keys, values;
  guarded<std::int32_t> lengths;
  std::vector<Element*> layer_keys, layer_values;

  owned_cache() = default;
  owned_cache(fkv::cache_shape const& extents, int length, layout wanted = layout::hnd)
      : shape(extents),
        order(wanted),
        keys(count(extents, extents.key_head_dim)),
        values(count(extents, extents.value_head_dim)),
        lengths(static_cast<std::size_t>(fkv::detail::num_lengths(Domain, extents)), length) {}

  static std::size_t count(fkv::cache_shape const& shape, int dim) {
    return static_cast<std::size_t>(shape.num_rows()) * static_cast<std::size_t>(shape.capacity) *
           static_cast<std::size_t>(dim);
  }

  void fill(random_source& random) {
    random.fill_normal<Element>(keys);
    random.fill_normal<Element>(values);
  }

  [[nodiscard]] view_type view() {
    if (order == layout::nhd) return view_type::nhd(keys.data(), values.data(), lengths.data(), shape);
    auto cache = view_type::hnd(keys.data(), values.data(), lengths.data(), shape);
    if (order == layout::layer_pointers) {
      // Layers in reverse order of memory: a view that walks from one base pointer would read the wrong one.
      layer_keys.clear();
      layer_values.clear();
      for (int layer = 0; layer < shape.num_layers; ++layer) {
        std::int64_t const place = shape.num_layers - 1 - layer;
        layer_keys.push_back(keys.data() + place * cache.key_layout.layer);
        layer_values.push_back(values.data() + place * cache.value_layout.layer);
      }
      cache.key_data = nullptr;
      cache.value_data = nullptr;
      cache.key_layers = layer_keys.data();
      cache.value_layers = layer_values.data();
    }
    return cache;
  }
  [[nodiscard]] int& length(fkv::row_index at) {
    return lengths[static_cast<std::size_t>(fkv::detail::length_index(Domain, shape, at))];
  }
  [[nodiscard]] bool same_tokens(owned_cache const& other) const {
    return keys.same_bytes(other.keys) && values.same_bytes(other.values);
  }
  [[nodiscard]] bool intact() const { return keys.intact() && values.intact() && lengths.intact(); }
};

/// Lengths of all rows as a call has them that visits every sequence, in order: [sequence][layer][kv_head].
template <class Cache>
std::vector<std::int32_t> lengths_by_place(Cache const& cache) {
  fkv::cache_shape const& shape = cache.shape();
  std::vector<std::int32_t> lengths;
  for (int sequence = 0; sequence < shape.num_sequences; ++sequence)
    for (int layer = 0; layer < shape.num_layers; ++layer)
      for (int head = 0; head < shape.num_kv_heads; ++head) lengths.push_back(cache.length({layer, sequence, head}));
  return lengths;
}

/// Whether two tokens have the same bytes.
template <class Cache>
bool same_token(Cache const& a, fkv::row_index at, int slot_a, Cache const& b, int slot_b) {
  bool same = true;
  for (int part = 0; part < fkv::detail::num_parts(a); ++part) {
    auto const bytes = static_cast<std::size_t>(fkv::detail::part_bytes(a, part));
    auto const of = [&](Cache const& cache, int slot) { return fkv::detail::part_place(cache, at, part)(slot); };
    same = same && std::memcmp(of(a, slot_a), of(b, slot_b), bytes) == 0;
  }
  return same;
}

/// The memory behind a policy's state: no tokens seen, request ids and seeds 0. Columns hold large numbers,
/// which show where somebody reads what nobody wrote.
template <class Policy>
struct owned_state {
  fkv::cache_shape shape{};
  guarded<std::byte> memory;
  fkv::eviction_state<Policy> view{};

  owned_state() = default;
  owned_state(fkv::cache_shape const& extents, int capacity)
      : shape(extents), memory(fkv::state_bytes(Policy{}, extents, capacity)) {
    std::memset(memory.data(), 0x7F, memory.bytes());
    view = fkv::make_state(Policy{}, extents, capacity, {memory.data(), memory.size()});
    auto const rows = static_cast<std::size_t>(extents.num_rows());
    auto const sequences = static_cast<std::size_t>(extents.num_sequences);
    std::fill_n(view.seen_length, rows, 0);
    std::fill_n(view.next_position, rows, 0);
    std::fill_n(view.step, rows, 0u);
    std::fill_n(view.request_id, sequences, 0u);
    std::fill_n(view.seed, sequences, std::uint64_t{0});
    std::fill_n(view.flags, sequences, 0u);
    std::fill_n(view.started, sequences, fkv::detail::start_mark);
  }
  owned_state(owned_state const& other) : shape(other.shape), memory(other.memory) { rebind(other); }
  owned_state& operator=(owned_state const& other) {
    shape = other.shape;
    memory = other.memory;
    rebind(other);
    return *this;
  }

  [[nodiscard]] int seen(int row) const { return view.seen_length[row]; }
  [[nodiscard]] bool intact() const { return memory.intact(); }

 private:
  void rebind(owned_state const& other) {
    if (other.view.empty()) return;
    view = fkv::make_state(Policy{}, shape, other.view.capacity, {memory.data(), memory.size()});
  }
};

/// Whether a row of two states is the same in its scalars and in the first `slots` slots of every column.
inline bool same_columns(fkv::row_state const& a, fkv::row_state const& b, int row, int slots) {
  auto const count = static_cast<std::size_t>(std::min(slots, a.capacity));
  auto const floats = count * static_cast<std::size_t>(a.num_carried * a.group);
  return a.seen_length[row] == b.seen_length[row] && a.next_position[row] == b.next_position[row] &&
         a.step[row] == b.step[row] &&
         (count == 0 || std::memcmp(a.position + a.column(row, 0), b.position + b.column(row, 0),
                                    count * sizeof(std::int32_t)) == 0) &&
         (floats == 0 || std::memcmp(a.carried_at(row, 0), b.carried_at(row, 0), floats * sizeof(float)) == 0);
}

/// Whether two states say the same about every row: scalars, and columns up to the seen length. What lies
/// behind it is nobody's business.
inline bool same_state(fkv::row_state const& a, fkv::row_state const& b) {
  if (a.num_rows() != b.num_rows() || a.num_sequences != b.num_sequences) return false;
  for (int s = 0; s < a.num_sequences; ++s)
    if (a.request_id[s] != b.request_id[s] || a.seed[s] != b.seed[s] || a.flags[s] != b.flags[s]) return false;
  for (int row = 0; row < a.num_rows(); ++row)
    if (!same_columns(a, b, row, a.seen_length[row])) return false;
  return true;
}

/// The lists that select writes, for every row.
struct owned_selection {
  guarded<std::int32_t> kept, evicted, evicted_count, evicted_positions;
  int capacity = 0;

  owned_selection() = default;
  owned_selection(fkv::cache_shape const& shape, int entries)
      : kept(places(shape, entries)),
        evicted(places(shape, entries)),
        evicted_count(static_cast<std::size_t>(shape.num_rows()), -1),
        evicted_positions(places(shape, entries)),
        capacity(entries) {}

  static std::size_t places(fkv::cache_shape const& shape, int entries) {
    return static_cast<std::size_t>(shape.num_rows()) * static_cast<std::size_t>(entries);
  }
  [[nodiscard]] fkv::selection view() {
    return {kept.data(), evicted.data(), evicted_count.data(), evicted_positions.data(), capacity};
  }
  [[nodiscard]] int count(int row) const { return evicted_count[static_cast<std::size_t>(row)]; }
  [[nodiscard]] std::vector<int> kept_of(int row, int length) const { return part(kept, row, length - count(row)); }
  [[nodiscard]] std::vector<int> evicted_of(int row) const { return part(evicted, row, count(row)); }
  [[nodiscard]] std::vector<int> positions_of(int row) const { return part(evicted_positions, row, count(row)); }
  [[nodiscard]] bool same(owned_selection const& other) const {
    return kept.same_bytes(other.kept) && evicted.same_bytes(other.evicted) &&
           evicted_count.same_bytes(other.evicted_count) && evicted_positions.same_bytes(other.evicted_positions);
  }
  [[nodiscard]] bool intact() const {
    return kept.intact() && evicted.intact() && evicted_count.intact() && evicted_positions.intact();
  }

 private:
  [[nodiscard]] std::vector<int> part(guarded<std::int32_t> const& list, int row, int length) const {
    std::int32_t const* const first = list.data() + static_cast<std::ptrdiff_t>(row) * capacity;
    return {first, first + std::max(length, 0)};
  }
};

/// Statistics of every row: [row][slot][statistic][j].
template <class List>
struct owned_statistics {
  guarded<float> values;
  int capacity = 0;
  int group = 0;

  owned_statistics() = default;
  owned_statistics(fkv::cache_shape const& shape, int slots)
      : values(static_cast<std::size_t>(shape.num_rows()) * static_cast<std::size_t>(slots) *
               static_cast<std::size_t>(List::size * shape.group)),
        capacity(slots),
        group(shape.group) {}

  [[nodiscard]] fkv::statistics_view<List> view() { return {values.data(), capacity}; }
  [[nodiscard]] float at(int row, int slot, int statistic, int j) const {
    auto const place =
        (static_cast<std::size_t>(row) * static_cast<std::size_t>(capacity) + static_cast<std::size_t>(slot)) *
            static_cast<std::size_t>(List::size) +
        static_cast<std::size_t>(statistic);
    return values[place * static_cast<std::size_t>(group) + static_cast<std::size_t>(j)];
  }
};

/// Scores of every row: [row][slot].
struct owned_scores {
  guarded<float> values;
  int capacity = 0;

  owned_scores() = default;
  owned_scores(fkv::cache_shape const& shape, int slots)
      : values(static_cast<std::size_t>(shape.num_rows()) * static_cast<std::size_t>(slots)), capacity(slots) {}

  [[nodiscard]] fkv::score_view view() { return {values.data(), capacity}; }
  [[nodiscard]] float& at(int row, int slot) { return values[place(row, slot)]; }
  [[nodiscard]] float at(int row, int slot) const { return values[place(row, slot)]; }

 private:
  [[nodiscard]] std::size_t place(int row, int slot) const {
    return static_cast<std::size_t>(row) * static_cast<std::size_t>(capacity) + static_cast<std::size_t>(slot);
  }
};

/// Memory of exactly the bytes that a verb asks for.
struct owned_workspace {
  guarded<std::byte> memory;

  explicit owned_workspace(std::size_t bytes, std::size_t shift = 0) : memory(bytes, shift) {}
  [[nodiscard]] fkv::workspace view() { return {memory.data(), memory.size()}; }
};

template <class Policy>
owned_workspace workspace_for(fkv::cache_shape const& shape, fkv::sequence_list const& list, int max_queries,
                              testing::execution exec = testing::exec) {
  return owned_workspace(fkv::evict_bytes(exec, Policy{}, shape, list, max_queries));
}

}  // namespace testing
