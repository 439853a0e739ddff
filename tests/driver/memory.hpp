// SPDX-License-Identifier: Apache-2.0
#pragma once

// The arrays that an engine shares with the library, without the types of a policy.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <foresightkv/foresightkv.hpp>

#include "driver/elements.hpp"
#include "support/harness.hpp"

namespace driver {

namespace fkv = foresightkv;
using testing::guarded;
using testing::layout;
using testing::random_source;

/// Number of a row in the library's [rows] arrays.
inline std::size_t row_number(fkv::cache_shape const& shape, fkv::row_index at) {
  return static_cast<std::size_t>((at.layer * shape.num_sequences + at.sequence) * shape.num_kv_heads + at.kv_head);
}

/// Whose tensors pages stand in: keys and values in a pool each, or both in one.
enum class convention { pools, vllm, tensorrt_llm, flashinfer };

/// Pages of a pool, where there is one: which page of a sequence is which.
struct page_map {
  convention kind{};
  int page_size = 0;  // 0: tokens stand in rows
  int num_layers = 1;
  int row_pages = 0;
  int num_pages = 0;
  std::vector<std::int32_t> pages;  // [sequence][row_pages]

  page_map() = default;
  page_map(fkv::cache_shape const& shape, convention whose, int tokens, random_source& random)
      : kind(whose),
        page_size(tokens),
        num_layers(shape.num_layers),
        row_pages((shape.capacity + tokens - 1) / tokens),
        num_pages(shape.num_sequences * row_pages + random.integer(0, 3)) {
    for (int page = 0; page < num_pages; ++page) pages.push_back(page);
    for (std::size_t i = pages.size(); i > 1; --i)
      std::swap(pages[i - 1], pages[static_cast<std::size_t>(random.integer(0, static_cast<int>(i) - 1))]);
    pages.resize(static_cast<std::size_t>(shape.num_sequences * row_pages));
  }
  /// Tables of a sequence: one, or one of keys and one of values.
  [[nodiscard]] int parts() const { return kind == convention::tensorrt_llm ? 2 : 1; }
  /// Entries from one page to the next: TensorRT-LLM counts blocks of keys or values of one layer.
  [[nodiscard]] int step() const { return kind == convention::tensorrt_llm ? 2 * num_layers : 1; }
  /// [sequence][part][row_pages]
  [[nodiscard]] std::vector<std::int32_t> entries() const {
    std::vector<std::int32_t> made;
    for (std::size_t first = 0; first < pages.size(); first += static_cast<std::size_t>(row_pages))
      for (int part = 0; part < parts(); ++part)
        for (int i = 0; i < row_pages; ++i) made.push_back(pages[first + static_cast<std::size_t>(i)] * step() + part);
    return made;
  }
};

/// Keys or values of a cache.
struct token_array {
  fkv::cache_shape shape{};
  storage kind{};
  layout order{};
  int dim = 0;
  bool of_values = false;
  page_map map;
  guarded<std::byte> bytes;  // of a joint tensor the other half is nobody's

  token_array() = default;
  token_array(fkv::cache_shape const& extents, storage element, layout wanted, int head_dim, bool values,
              page_map const& paged)
      : shape(extents),
        kind(element),
        order(wanted),
        dim(head_dim),
        of_values(values),
        map(paged),
        bytes(static_cast<std::size_t>(extents.num_layers) * layer_bytes()) {}

  [[nodiscard]] std::size_t token_bytes() const { return static_cast<std::size_t>(dim * format_of(kind).bytes); }
  [[nodiscard]] std::size_t layer_bytes() const {
    int const joint = map.kind == convention::pools ? 1 : 2;
    int const slots = map.page_size == 0 ? shape.num_sequences * shape.capacity : joint * map.num_pages * map.page_size;
    return static_cast<std::size_t>(slots * shape.num_kv_heads) * token_bytes();
  }
  /// Layers with a pointer each stand in reverse order: a view that walks from one base would read the wrong
  /// one.
  [[nodiscard]] std::byte* layer(int index) {
    int const place = order == layout::layer_pointers ? shape.num_layers - 1 - index : index;
    return bytes.data() + static_cast<std::size_t>(place) * layer_bytes();
  }
  [[nodiscard]] std::byte* token(fkv::row_index at, int slot) {
    // Slots of a sequence, or of one of its pages, or of a half of such a page, stand together.
    int group = at.sequence, width = shape.capacity;
    if (map.page_size != 0) {
      group = map.pages[static_cast<std::size_t>(at.sequence * map.row_pages + slot / map.page_size)];
      width = map.page_size;
      slot %= map.page_size;
    }
    int const half = of_values ? 1 : 0;
    if (map.kind == convention::vllm) {  // [layer][2][page][token][kv_head]
      int const block = (at.layer * 2 + half) * map.num_pages + group;
      return element((block * width + slot) * shape.num_kv_heads + at.kv_head);
    }
    if (map.kind == convention::tensorrt_llm) {  // [page][layer][2][kv_head][token]
      int const block = (group * shape.num_layers + at.layer) * 2 + half;
      return element((block * shape.num_kv_heads + at.kv_head) * width + slot);
    }
    if (map.kind == convention::flashinfer) group = group * 2 + half;  // [layer][page][2], then as here
    int const inside = order == layout::nhd ? (group * width + slot) * shape.num_kv_heads + at.kv_head
                                            : (group * shape.num_kv_heads + at.kv_head) * width + slot;
    return layer(at.layer) + static_cast<std::size_t>(inside) * token_bytes();
  }

 private:
  [[nodiscard]] std::byte* element(int token) { return bytes.data() + static_cast<std::size_t>(token) * token_bytes(); }
};

/// A window's queries and all that an observation can have beside them.
struct window_memory {
  fkv::cache_shape shape{};
  storage kind{};
  bool base_two = false;  // the log-sum-exps
  bool head_first = true;
  int max_queries = 0;
  guarded<std::byte> queries;
  guarded<float> lse, sinks;
  guarded<std::int32_t> query_count, query_starts, window_end, first_position;
  float scale = 0.0f;
  float soft_cap = 0.0f;
  bool packed = false;  // one sequence's queries behind the other's, head by head
  int total_queries = 0;
  bool has_lse = false, has_sinks = false, has_count = false, has_end = false, has_first = false, continues = false;

  window_memory() = default;
  window_memory(fkv::cache_shape const& extents, storage element, bool heads_first, int most)
      : shape(extents),
        kind(element),
        head_first(heads_first),
        max_queries(most),
        queries(static_cast<std::size_t>(places() * extents.key_head_dim * format_of(element).bytes)),
        lse(static_cast<std::size_t>(places())),
        sinks(static_cast<std::size_t>(extents.num_layers * heads())),
        query_count(static_cast<std::size_t>(extents.num_sequences), most),
        query_starts(static_cast<std::size_t>(extents.num_sequences) + 1, 0),
        window_end(static_cast<std::size_t>(extents.num_sequences), -1),
        first_position(static_cast<std::size_t>(extents.num_sequences), -1) {}

  [[nodiscard]] int heads() const { return shape.num_kv_heads * shape.group; }
  [[nodiscard]] int places() const { return shape.num_layers * shape.num_sequences * heads() * max_queries; }
  /// Number of a query; j counts inside the group.
  [[nodiscard]] std::size_t place(fkv::row_index at, int j, int r) const {
    int const head = at.kv_head * shape.group + j;
    if (packed) {
      int const query = query_starts[static_cast<std::size_t>(at.sequence)] + r;
      return static_cast<std::size_t>((at.layer * total_queries + query) * heads() + head);
    }
    int const inside = head_first ? head * max_queries + r : r * heads() + head;
    return static_cast<std::size_t>((at.layer * shape.num_sequences + at.sequence) * heads() * max_queries + inside);
  }
  [[nodiscard]] numbers query(fkv::row_index at, int j, int r) const {
    auto const width = static_cast<std::size_t>(shape.key_head_dim * format_of(kind).bytes);
    return decode_all(kind, queries.data() + place(at, j, r) * width, shape.key_head_dim, 1.0);
  }
  [[nodiscard]] int count(int sequence) const {
    auto const s = static_cast<std::size_t>(sequence);
    if (has_count) return query_count[s];
    return packed ? query_starts[s + 1] - query_starts[s] : max_queries;
  }
  [[nodiscard]] int end(int sequence, int newest) const {
    return has_end ? window_end[static_cast<std::size_t>(sequence)] : newest;
  }
  [[nodiscard]] int first(int sequence, int newest) const {
    return has_first ? first_position[static_cast<std::size_t>(sequence)] : end(sequence, newest) - count(sequence);
  }
  [[nodiscard]] bool intact() const {
    return queries.intact() && lse.intact() && sinks.intact() && query_count.intact() && query_starts.intact() &&
           window_end.intact() && first_position.intact();
  }
};

/// A list of sequences as a call takes it.
struct list_memory {
  guarded<std::int32_t> slots, count;
  bool has_slots = false, has_count = false;
  int max_count = 0;
  int max_length = 0;

  [[nodiscard]] fkv::sequence_list view() const {
    return {has_slots ? slots.data() : nullptr, has_count ? count.data() : nullptr, max_count, max_length};
  }
};

/// What a call leaves, to compare with what was there before: every array that some verb may write.
struct image {
  std::vector<std::byte> keys, values, target_keys, target_values;
  std::vector<std::int32_t> position, seen_length, next_position;
  std::vector<std::uint32_t> step, request_id, flags;
  std::vector<std::uint64_t> seed;
  std::vector<float> carried, statistics, scores;
  std::vector<std::int32_t> kept, evicted, evicted_count, evicted_positions, new_lengths;
};

/// Which lists `evict` writes.
enum class wanted_lists { none, evicted, all };

/// Capacities of the arrays that have one of their own.
struct capacities {
  int state = 0, statistics = 0, scores = 0, lists = 0;
};

/// All that an engine and the library share, but for the state, whose layout is the library's.
struct memory {
  fkv::cache_shape shape{};
  fkv::length_domain domain{};
  capacities room;
  token_array keys, values;
  token_array target_keys, target_values;  // another cache: see moving_batch
  guarded<std::uint32_t> pinned;           // [sequence][pinned_words]
  int pinned_words = 0;
  guarded<std::int32_t> table, target_table;  // of pages, [sequence][row_pages]
  guarded<std::int32_t> rooms;                // lengths of the target
  guarded<std::int32_t> lengths, new_lengths, budgets, due_slots, due_count;
  guarded<float> key_scales, value_scales;
  bool scaled = false;
  int num_statistics = 0;
  guarded<float> statistics, scores;
  guarded<std::int32_t> kept, evicted, evicted_count, evicted_positions;

  /// Where a row has its length, and which row.
  [[nodiscard]] std::size_t length_place(fkv::row_index at) const {
    if (domain == fkv::length_domain::sequence) return static_cast<std::size_t>(at.sequence);
    if (domain == fkv::length_domain::layer)
      return static_cast<std::size_t>(at.layer * shape.num_sequences + at.sequence);
    return row_number(shape, at);
  }
  [[nodiscard]] double key_scale(fkv::row_index at) const { return scale_of(key_scales, at); }
  [[nodiscard]] double value_scale(fkv::row_index at) const { return scale_of(value_scales, at); }
  [[nodiscard]] std::size_t row_statistics() const {
    return static_cast<std::size_t>(room.statistics * num_statistics * shape.group);
  }
  [[nodiscard]] bool intact() const {
    return keys.bytes.intact() && values.bytes.intact() && target_keys.bytes.intact() && target_values.bytes.intact() &&
           target_table.intact() && rooms.intact() && pinned.intact() && table.intact() && lengths.intact() &&
           new_lengths.intact() && budgets.intact() && due_slots.intact() && due_count.intact() &&
           key_scales.intact() && value_scales.intact() && statistics.intact() && scores.intact() && kept.intact() &&
           evicted.intact() && evicted_count.intact() && evicted_positions.intact();
  }

 private:
  [[nodiscard]] double scale_of(guarded<float> const& scales, fkv::row_index at) const {
    return scaled ? scales[static_cast<std::size_t>(at.layer * shape.num_kv_heads + at.kv_head)] : 1.0f;
  }
};

template <class Range>
auto copy_of(Range const& range) {
  return std::vector(range.begin(), range.end());
}

/// Everything as it stands.
inline image capture(memory const& arrays, fkv::row_state const& state) {
  image made;
  made.keys = copy_of(arrays.keys.bytes);
  made.values = copy_of(arrays.values.bytes);
  made.target_keys = copy_of(arrays.target_keys.bytes);
  made.target_values = copy_of(arrays.target_values.bytes);
  int const rows = state.num_rows();
  made.position.assign(state.position, state.position + rows * state.capacity);
  made.carried.assign(state.carried, state.carried + rows * state.capacity * state.num_carried * state.group);
  made.seen_length.assign(state.seen_length, state.seen_length + rows);
  made.next_position.assign(state.next_position, state.next_position + rows);
  made.step.assign(state.step, state.step + rows);
  made.request_id.assign(state.request_id, state.request_id + state.num_sequences);
  made.flags.assign(state.flags, state.flags + state.num_sequences);
  made.seed.assign(state.seed, state.seed + state.num_sequences);
  made.statistics = copy_of(arrays.statistics);
  made.scores = copy_of(arrays.scores);
  made.kept = copy_of(arrays.kept);
  made.evicted = copy_of(arrays.evicted);
  made.evicted_count = copy_of(arrays.evicted_count);
  made.evicted_positions = copy_of(arrays.evicted_positions);
  made.new_lengths = copy_of(arrays.new_lengths);
  return made;
}

}  // namespace driver
