// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "driver/library.hpp"
#include "driver/verifier.hpp"

namespace driver {

/// Calls verbs on lists of all kinds, and compares what they did.
class caller {
 public:
  int calls = 0;
  std::string last;  // what the last call was

  caller(model& engine, memory& arrays, library& verbs, random_source& random)
      : engine_(engine), arrays_(arrays), verbs_(verbs), random_(random), check_(engine, arrays) {}

  [[nodiscard]] std::string const& problem() const { return check_.problem(); }
  [[nodiscard]] verifier const& check() const { return check_; }

 protected:
  // --- lists and lengths
  [[nodiscard]] int sequences() const { return engine_.shape.num_sequences; }
  [[nodiscard]] list_memory every_sequence() const {
    list_memory list;
    list.max_count = sequences();
    list.max_length = engine_.shape.capacity;
    return list;
  }
  [[nodiscard]] list_memory exactly(std::vector<std::int32_t> const& slots) const {
    list_memory list = every_sequence();
    list.has_slots = true;
    list.slots = guarded<std::int32_t>(slots);
    list.max_count = static_cast<int>(slots.size());
    return list;
  }
  /// With repeats, entries that name nothing, and counts of all sizes.
  [[nodiscard]] list_memory some_list() {
    list_memory list = every_sequence();
    if (random_.chance(0.6)) {
      std::vector<std::int32_t> slots;
      for (int entries = random_.integer(0, sequences() + 3); entries > 0; --entries)
        slots.push_back(random_.integer(0, sequences() - 1));
      if (random_.chance(0.2)) slots.push_back(random_.chance(0.5) ? -1 : sequences());
      if (random_.chance(0.7)) keep_first_listings(slots);
      list = exactly(slots);
    } else if (random_.chance(0.1)) {
      list.max_count += random_.integer(-1, 2);
    }
    list.has_count = random_.chance(0.3);
    int const most = list.max_count + 2;
    list.count = guarded<std::int32_t>(1, random_.chance(0.5) ? list.max_count : random_.integer(0, most));
    if (random_.chance(0.15)) list.max_length = random_.integer(0, engine_.shape.capacity);
    return list;
  }
  static void keep_first_listings(std::vector<std::int32_t>& slots) {
    std::vector<std::int32_t> kept;
    for (std::int32_t const slot : slots)
      if (std::find(kept.begin(), kept.end(), slot) == kept.end()) kept.push_back(slot);
    slots = kept;
  }
  [[nodiscard]] listing read(list_memory const& list) const { return read_list(list, sequences()); }

  void write_lengths() {
    for (int s = 0; s < sequences(); ++s)
      engine_.each_row(
          s, [&](fkv::row_index at) { arrays_.lengths[arrays_.length_place(at)] = engine_.row(at).length(); });
    write_table(arrays_.keys.map, arrays_.table);
    write_table(arrays_.target_keys.map, arrays_.target_table);
  }
  static void write_table(page_map const& map, guarded<std::int32_t>& table) {
    std::vector<std::int32_t> const entries = map.entries();
    std::copy(entries.begin(), entries.end(), table.begin());
  }
  /// What stands behind the rows' ends is no number from now on: nobody may read it.
  void spoil_the_rest() {
    for (int s = 0; s < sequences(); ++s)
      engine_.each_row(s, [&](fkv::row_index at) {
        for (token_array* array : {&arrays_.keys, &arrays_.values})
          for (int slot = engine_.row(at).length(); slot < engine_.shape.capacity; ++slot)
            std::fill_n(array->token(at, slot), array->token_bytes(), std::byte{0xff});
      });
  }
  /// Now and then a length for one call that no row can have.
  void break_length() {
    write_lengths();
    if (arrays_.table.size() > 0 && random_.chance(0.05)) break_table(arrays_.table, arrays_.keys.map);
    if (!random_.chance(0.05)) return;
    fkv::row_index const at{random_.integer(0, engine_.shape.num_layers - 1), random_.integer(0, sequences() - 1),
                            random_.integer(0, engine_.shape.num_kv_heads - 1)};
    std::vector<int> bad{-1, -0x7fffffff - 1, engine_.shape.capacity + 1, 0x7fffffff};
    if (engine_.row(at).seen > 0) bad.push_back(engine_.row(at).seen - 1);
    arrays_.lengths[arrays_.length_place(at)] =
        bad[static_cast<std::size_t>(random_.integer(0, static_cast<int>(bad.size()) - 1))];
  }
  /// An entry that is no page, or a page that stands before it in the table.
  void break_table(guarded<std::int32_t>& table, page_map const& map) {
    auto const entry = static_cast<std::size_t>(random_.integer(0, static_cast<int>(table.size()) - 1));
    int const index = static_cast<int>(entry) % map.row_pages;
    std::int32_t const twice = index == 0 ? -1 : table[entry - static_cast<std::size_t>(random_.integer(1, index))];
    std::int32_t const bad[] = {-1, map.num_pages * map.step(), -0x7fffffff - 1, 0x7fffffff, twice};
    table[entry] = bad[random_.integer(0, 4)];
  }
  /// Tokens are pinned, and let go.
  void change_pins() {
    if (arrays_.pinned_words == 0 || !random_.chance(0.1)) return;
    auto const words = static_cast<std::size_t>(arrays_.pinned_words);
    auto const first = static_cast<std::size_t>(random_.integer(0, sequences() - 1)) * words;
    if (random_.chance(0.3))
      return void(std::fill_n(arrays_.pinned.begin() + static_cast<std::ptrdiff_t>(first), words, 0u));
    for (int count = random_.integer(1, 3); count > 0; --count) {
      int const position = random_.integer(0, arrays_.pinned_words * 32 - 1);
      arrays_.pinned[first + static_cast<std::size_t>(position / 32)] |= 1u << position % 32;
    }
  }
  void change_budgets() {
    int const least =
        std::max(0, engine_.config.recent_tokens < 0 ? engine_.config.interval : engine_.config.recent_tokens) +
        engine_.config.sink_tokens;
    if (!random_.chance(0.2)) return;
    for (std::int32_t& budget : arrays_.budgets) {
      budget = random_.integer(std::max(least, 1), arrays_.room.state);
      if (random_.chance(0.03)) budget = random_.chance(0.5) ? arrays_.room.state + 1 : -1;
      // Fewer than are protected: a bad budget of a sequence; a row then loses all that it can.
      bool const low =
          engine_.setup.budget == budget_kind::per_row || engine_.setup.budget == budget_kind::per_sequence;
      if (low && random_.chance(0.1)) budget = random_.integer(0, least);
    }
  }

  /// Room in the other cache, now and then too little, or none that there could be.
  void make_rooms() {
    for (int s = 0; s < sequences(); ++s) {
      engine_.each_row(s, [&](fkv::row_index at) { arrays_.rooms[arrays_.length_place(at)] = 0; });
      engine_.each_row(s, [&](fkv::row_index at) {
        int const most = std::max(arrays_.rooms[arrays_.length_place(at)], engine_.kept(arrays_, at));
        arrays_.rooms[arrays_.length_place(at)] = std::min(most, engine_.shape.capacity);
      });
    }
    for (std::int32_t& room : arrays_.rooms) {
      int const least = room;
      if (random_.chance(0.7)) room = random_.integer(least, engine_.shape.capacity);
      if (!random_.chance(0.04)) continue;
      int const bad[] = {-1, engine_.shape.capacity + 1, -0x7fffffff - 1, 0x7fffffff, least - 1};
      room = bad[random_.integer(0, 4)];
    }
    if (arrays_.target_table.size() > 0 && random_.chance(0.05))
      break_table(arrays_.target_table, arrays_.target_keys.map);
  }

  // --- one call
  /// Runs a verb on a list, with the flags that it should set, and lets `effects` say what it should write.
  template <class Verb, class Effects>
  std::vector<int> call(std::string const& name, list_memory const& list, questions const& asked, Verb const& verb,
                        Effects const& effects) {
    listing const listed = read(list);
    std::vector<std::uint32_t> faults(static_cast<std::size_t>(sequences()), 0);
    std::vector<int> accepted;
    for (int const s : listed.visited) {
      faults[static_cast<std::size_t>(s)] = engine_.faults(arrays_, list, s, asked);
      if (faults[static_cast<std::size_t>(s)] == 0) accepted.push_back(s);
    }
    begin(name);
    auto const done = verb();
    // Without a state nobody can be flagged.
    end(done, asked.stateless ? listing{} : listed, faults, [&] {
      for (int const s : accepted) engine_.each_row(s, [&](fkv::row_index at) { effects(at); });
    });
    return accepted;
  }
  void begin(std::string const& name) {
    ++calls;
    last = name;
    check_.start(verbs_.state());
  }
  template <class Effects>
  void end(fkv::status done, listing const& listed, std::vector<std::uint32_t> const& faults, Effects const& effects) {
    check_.finish(verbs_.state(), done);
    check_.require(arrays_.intact() && verbs_.intact(), "something wrote outside an array");
    if (!problem().empty()) return;
    effects();
    check_.flags(listed, faults);
    check_.compare();
    write_lengths();
    if (random_.chance(0.1)) spoil_the_rest();
  }
  [[nodiscard]] std::vector<std::uint32_t> no_faults() const {
    return std::vector<std::uint32_t>(static_cast<std::size_t>(sequences()), 0);
  }

  model& engine_;
  memory& arrays_;
  library& verbs_;
  random_source& random_;
  verifier check_;
};

}  // namespace driver
