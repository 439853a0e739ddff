// SPDX-License-Identifier: Apache-2.0
#pragma once

// What an engine knows of its sequences, and what it may expect of a call's data.

#include <functional>
#include <string>
#include <vector>

#include "driver/choice.hpp"

namespace driver {

/// A row as the engine sees it. The tokens that the state has not seen stand behind the others.
struct row_model {
  std::vector<int> position;  // [slot]; negative: empty
  int seen = 0;
  std::uint32_t step = 0;

  [[nodiscard]] int length() const { return static_cast<int>(position.size()); }
};

struct sequence_model {
  int end = 0;                  // position of the next token
  std::vector<row_model> rows;  // [layer][kv_head]
};

enum class budget_kind { uniform, per_sequence, per_layer, per_row };

/// What a setup of the library is, as values.
struct setup_values {
  storage element = storage::float32, query = storage::float32;
  fkv::length_domain domain{};
  moves compaction{};
  budget_kind budget{};
  std::vector<statistic> window;
  std::vector<carried> carries;
  bool scaled = false, has_target = false, base_two = false, needs_queries = false, sampled = false;
  int least_key_dim = 1;
  int page_size = 0;  // 0: tokens stand in rows; any_page_size

  [[nodiscard]] bool moves_tokens() const { return compaction != moves::slot_list; }
  [[nodiscard]] int num_window() const { return static_cast<int>(window.size()); }
  [[nodiscard]] int num_carried() const { return static_cast<int>(carries.size()); }
};

using naive_scorer = std::function<rating(scored_row const&)>;

/// Bits of a sequence's flags.
constexpr std::uint32_t flag(fkv::sequence_flag which) { return static_cast<std::uint32_t>(which); }

/// The sequences that a list names.
struct listing {
  std::vector<int> visited;
  std::uint32_t repeated = 0;  // a bit per sequence
  bool cut = false;            // the list's count is above its max_count

  [[nodiscard]] bool visits(int sequence) const {
    return std::find(visited.begin(), visited.end(), sequence) != visited.end();
  }
};

inline listing read_list(list_memory const& list, int num_sequences) {
  listing made;
  made.cut = list.has_count && list.count[0] > list.max_count;
  int const wanted = list.has_count ? std::min(list.count[0], list.max_count) : list.max_count;
  for (int entry = 0; entry < wanted; ++entry) {
    int const sequence = list.has_slots ? list.slots[static_cast<std::size_t>(entry)] : entry;
    if (sequence < 0 || sequence >= num_sequences) continue;
    if (made.visits(sequence))
      made.repeated |= 1u << sequence;
    else
      made.visited.push_back(sequence);
  }
  return made;
}

/// What a verb asks of the sequences that it visits.
struct questions {
  int longest = 0;                        // row, besides the list's max_length and the capacity
  int storable = 0x7fffffff;              // row
  window_memory const* window = nullptr;  // queries
  bool observed = false;                  // statistics that were observed before
  bool stateless = false;                 // of rows from which nothing was evicted
  bool budget = false;
  bool lists = false;
};

/// The state of the whole engine.
struct model {
  setup_values setup;
  fkv::eviction_config config{};
  fkv::cache_shape shape{};
  naive_scorer score;
  std::vector<sequence_model> sequences;
  bool extreme = false;  // logits far below -1e30
  int key_exponent = 0;  // elements of keys and values are below 2 to one more than this
  int query_exponent = 0;

  [[nodiscard]] row_model& row(fkv::row_index at) {
    return sequences[static_cast<std::size_t>(at.sequence)]
        .rows[static_cast<std::size_t>(at.layer * shape.num_kv_heads + at.kv_head)];
  }
  [[nodiscard]] sequence_model& sequence(int index) { return sequences[static_cast<std::size_t>(index)]; }
  template <class Body>
  void each_row(int sequence, Body const& body) const {
    for (int layer = 0; layer < shape.num_layers; ++layer)
      for (int head = 0; head < shape.num_kv_heads; ++head) body(fkv::row_index{layer, sequence, head});
  }
  /// Where tokens are pinned: how many are protected, cached or not.
  [[nodiscard]] int protected_tokens(memory const& arrays, fkv::row_index at, int length) {
    int const recent = config.recent_tokens < 0 ? config.interval : config.recent_tokens;
    int const end = sequence(at.sequence).end + length - row(at).length();  // of a length that is not the row's, too
    int pinned = 0;
    for (int position = config.sink_tokens; position < end - recent && position < arrays.pinned_words * 32;
         ++position) {
      auto const word = static_cast<std::size_t>(at.sequence * arrays.pinned_words + position / 32);
      pinned += arrays.pinned[word] >> position % 32 & 1u ? 1 : 0;
    }
    return pinned == 0 ? 0 : config.sink_tokens + recent + pinned;
  }
  /// Slots of a row whose tokens must stay, whatever their scores.
  [[nodiscard]] std::vector<bool> pinned(memory const& arrays, fkv::row_index at) {
    std::vector<bool> made;
    for (int const position : row(at).position) {
      auto const word = static_cast<std::size_t>(at.sequence * arrays.pinned_words + position / 32);
      bool const known = position >= 0 && position < arrays.pinned_words * 32;
      made.push_back(known && (arrays.pinned[word] >> position % 32 & 1u) != 0);
    }
    return made;
  }
  /// A row's tokens; `keys` and `values` stand for the arrays' bytes, now or before.
  [[nodiscard]] row_tokens tokens(memory& arrays, fkv::row_index at, std::byte const* keys, std::byte const* values) {
    row_tokens made;
    made.position = row(at).position;
    made.pinned = pinned(arrays, at);
    made.end = sequence(at.sequence).end;
    auto const decoded = [&](token_array& array, std::byte const* bytes, int slot, double scale) {
      return decode_all(array.kind, bytes + (array.token(at, slot) - array.bytes.data()), array.dim, scale);
    };
    for (int slot = 0; slot < made.length(); ++slot) {
      made.key.push_back(decoded(arrays.keys, keys, slot, arrays.key_scale(at)));
      made.value.push_back(decoded(arrays.values, values, slot, arrays.value_scale(at)));
    }
    return made;
  }
  [[nodiscard]] int budget(memory const& arrays, fkv::row_index at) const {
    auto const value = [&](std::size_t place) { return arrays.budgets[place]; };
    if (setup.budget == budget_kind::uniform) return config.budget;
    if (setup.budget == budget_kind::per_layer) return value(static_cast<std::size_t>(at.layer));
    if (setup.budget == budget_kind::per_row) return value(row_number(shape, at));
    int const tokens = value(static_cast<std::size_t>(at.sequence));
    int const recent = config.recent_tokens < 0 ? config.interval : config.recent_tokens;
    return tokens >= recent + config.sink_tokens ? tokens : -1;
  }

  /// Flags that a sequence may get; 0: it is accepted. Which of several, nobody promises.
  [[nodiscard]] std::uint32_t faults(memory const& arrays, list_memory const& list, int sequence,
                                     questions const& asked) {
    std::uint32_t found = asked.window == nullptr ? 0 : window_faults(*asked.window, sequence);
    each_row(sequence, [&](fkv::row_index at) {
      int const length = arrays.lengths[arrays.length_place(at)];
      int const longest = std::min({asked.longest, list.max_length, shape.capacity});
      if (length < 0 || length > longest) found |= flag(fkv::sequence_flag::bad_length);
      if (length > asked.storable) found |= flag(fkv::sequence_flag::state_overflow);
      if (length < row(at).seen && !asked.stateless) found |= flag(fkv::sequence_flag::length_mismatch);
      if (asked.observed && setup.num_window() > 0 && length > arrays.room.statistics)
        found |= flag(fkv::sequence_flag::bad_window);
      int const tokens = budget(arrays, at);
      bool const has_length = length >= 0 && length <= shape.capacity;
      bool const fits = !has_length || tokens >= protected_tokens(arrays, at, length);
      if (asked.budget && (tokens < 0 || tokens > arrays.room.state || !fits))
        found |= flag(fkv::sequence_flag::bad_budget);
    });
    // Lists are looked at in sequences that are sound otherwise.
    if (asked.lists && found == 0)
      each_row(sequence, [&](fkv::row_index at) {
        if (!lists_fit(arrays, at)) found |= flag(fkv::sequence_flag::bad_length);
      });
    if (arrays.keys.map.page_size != 0 && found == 0 &&
        !is_table(arrays, sequence, arrays.keys.map, arrays.table, arrays.lengths))
      found |= flag(fkv::sequence_flag::bad_table);
    return found;
  }

  /// The same of what a sequence finds in another cache, before anything is chosen of it.
  [[nodiscard]] std::uint32_t target_faults(memory const& arrays, int sequence) {
    std::uint32_t found = 0;
    each_row(sequence, [&](fkv::row_index at) {
      int const room = arrays.rooms[arrays.length_place(at)];
      if (room < 0 || room > shape.capacity) found |= flag(fkv::sequence_flag::bad_length);
    });
    bool const sound = arrays.keys.map.page_size == 0 || found != 0 ||
                       is_table(arrays, sequence, arrays.target_keys.map, arrays.target_table, arrays.rooms);
    return sound ? found : flag(fkv::sequence_flag::bad_table);
  }
  /// How many tokens a row keeps: candidates, as many as the budget asks for, go.
  [[nodiscard]] int kept(memory const& arrays, fkv::row_index at) {
    row_model const& tokens = row(at);
    int const there = occupied(tokens.position), wanted = there - budget(arrays, at);
    auto const free = candidates(config, tokens.position, pinned(arrays, at), this->sequence(at.sequence).end);
    return wanted <= 0 ? tokens.length() : there - std::min(wanted, static_cast<int>(free.size()));
  }

  /// What is kept of a row whose `count` newest tokens leave. One that nothing was evicted from gets shorter.
  [[nodiscard]] choice without_newest(fkv::row_index at, int count) {
    row_model const& tokens = row(at);
    choice made;
    for (int slot = 0; slot < tokens.length(); ++slot) {
      int const position = tokens.position[static_cast<std::size_t>(slot)];
      bool const leaves = position >= sequence(at.sequence).end - count;
      if (leaves || position >= 0) (leaves ? made.evicted : made.kept).push_back(slot);
    }
    return made;
  }
  [[nodiscard]] bool slots_stay(fkv::row_index at) { return !setup.moves_tokens() && row(at).step > 0; }
  [[nodiscard]] int length_without(fkv::row_index at, int count) {
    int const gone = static_cast<int>(without_newest(at, count).evicted.size());
    return row(at).length() - (slots_stay(at) ? 0 : gone);
  }
  /// Flags of a sequence whose `count` newest tokens cannot leave. Rows that share a length lose as many as each other.
  [[nodiscard]] std::uint32_t faults_of_leaving(memory const& arrays, int sequence, int count) {
    if (count < 0 || count > this->sequence(sequence).end) return flag(fkv::sequence_flag::length_mismatch);
    std::uint32_t found = 0;
    struct loss {
      int length = -1;
      std::size_t tokens = 0;
    };
    std::vector<loss> losses(arrays.lengths.size());
    each_row(sequence, [&](fkv::row_index at) {
      if (count > 0 && slots_stay(at) && row(at).length() > arrays.room.state)
        found |= flag(fkv::sequence_flag::state_overflow);
      loss& other = losses[arrays.length_place(at)];
      loss const mine{length_without(at, count), without_newest(at, count).evicted.size()};
      if (other.length >= 0 && (other.length != mine.length || other.tokens != mine.tokens))
        found |= flag(fkv::sequence_flag::length_mismatch);
      other = mine;
    });
    return found;
  }

  /// The lists of a row as they stand in memory.
  [[nodiscard]] choice lists_of(memory const& arrays, fkv::row_index at) {
    auto const place = row_number(shape, at);
    int const count = arrays.evicted_count[place];
    auto const part = [&](guarded<std::int32_t> const& all, int length) {
      auto const* const first = all.data() + place * static_cast<std::size_t>(arrays.room.lists);
      return std::vector<int>(first, first + std::clamp(length, 0, arrays.room.lists));
    };
    return {part(arrays.kept, occupied(row(at).position) - count), part(arrays.evicted, count), false};
  }

 private:
  /// Whether the longest row of a sequence finds all its pages, each once.
  [[nodiscard]] bool is_table(memory const& arrays, int sequence, page_map const& map,
                              guarded<std::int32_t> const& table, guarded<std::int32_t> const& lengths) const {
    int longest = 0;
    each_row(sequence, [&](fkv::row_index at) { longest = std::max(longest, lengths[arrays.length_place(at)]); });
    int const count = (longest + map.page_size - 1) / map.page_size;
    bool sound = true;
    for (int part = 0; part < map.parts(); ++part) {
      auto const* const first =
          table.data() + static_cast<std::ptrdiff_t>(sequence * map.parts() + part) * map.row_pages;
      std::vector<std::int32_t> pages(first, first + count);
      std::sort(pages.begin(), pages.end());
      sound = sound && std::adjacent_find(pages.begin(), pages.end()) == pages.end();
      for (std::int32_t const page : pages)
        sound = sound && page >= part && page < map.num_pages * map.step() && (page - part) % map.step() == 0;
    }
    return sound;
  }
  static std::uint32_t window_faults(window_memory const& window, int sequence) {
    std::int64_t const count = window.count(sequence);
    std::int64_t const end = window.has_end ? window.window_end[static_cast<std::size_t>(sequence)] : 0x7fffffff;
    std::int64_t const first =
        window.has_first ? window.first_position[static_cast<std::size_t>(sequence)] : end - count;
    bool const sound = count >= 0 && count <= window.max_queries && first + count <= end;
    return sound ? 0 : flag(fkv::sequence_flag::bad_window);
  }
  [[nodiscard]] bool lists_fit(memory const& arrays, fkv::row_index at) {
    int const count = arrays.evicted_count[row_number(shape, at)];
    if (count == 0) return true;
    int const left = occupied(row(at).position) - count;
    if (count < 0 || left < 0 || (setup.moves_tokens() && left > arrays.room.state)) return false;
    choice const lists = lists_of(arrays, at);
    auto const ascends = [&](std::vector<int> const& slots) {
      for (std::size_t i = 0; i < slots.size(); ++i)
        if (slots[i] < 0 || slots[i] >= row(at).length() || (i > 0 && slots[i] <= slots[i - 1])) return false;
      return true;
    };
    return ascends(lists.kept) && ascends(lists.evicted);
  }
};

}  // namespace driver
