// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "driver/caller.hpp"

namespace driver {

/// A window that is observed in chunks.
struct pending_window {
  std::vector<int> end, next;     // [sequence] one past its newest query; position of its next query
  std::vector<int> began;         // [sequence] 0: statistics are not those of this window
  std::vector<seen_window> rows;  // [row]
};

/// Tokens that join sequences, and drafts that leave them again.
class token_player : public caller {
 protected:
  using caller::caller;

  [[nodiscard]] bool evicted_before(int sequence) {
    for (row_model const& row : engine_.sequence(sequence).rows)
      if (row.step > 0) return true;
    return false;
  }
  /// Empty slots do not show in a length: the state must be told of tokens that fill them.
  [[nodiscard]] bool must_tell(int sequence) { return !engine_.setup.moves_tokens() && evicted_before(sequence); }

  [[nodiscard]] bool fits(int sequence, int count) {
    bool all = true;
    engine_.each_row(sequence, [&](fkv::row_index at) {
      auto const& row = engine_.row(at);
      int const behind = std::max(0, count - (row.length() - occupied(row.position)));
      all = all && row.length() + behind <= engine_.shape.capacity;
    });
    return all;
  }
  void write_tokens(int sequence, int count) {
    sequence_model& tokens = engine_.sequence(sequence);
    for (int i = 0; i < count; ++i, ++tokens.end)
      engine_.each_row(sequence, [&](fkv::row_index at) {
        auto& position = engine_.row(at).position;
        auto const hole = std::find(position.begin(), position.end(), -1);
        auto const slot = static_cast<int>(hole - position.begin());
        if (hole == position.end()) position.push_back(-1);
        position[static_cast<std::size_t>(slot)] = tokens.end;
        fill_token(arrays_.keys, at, slot);
        fill_token(arrays_.values, at, slot);
      });
    write_lengths();
  }
  void fill_token(token_array& array, fkv::row_index at, int slot) {
    fill_random(array.kind, engine_.key_exponent, array.token(at, slot), array.dim, random_);
  }
  /// The engine forgets its newest tokens; evicted rows of slot_list keep their length.
  void drop_tokens(int sequence, int count) {
    sequence_model& tokens = engine_.sequence(sequence);
    tokens.end -= count;
    for (row_model& row : tokens.rows) {
      for (int& position : row.position) position = position >= tokens.end ? -1 : position;
      if (engine_.setup.moves_tokens() || row.step == 0)
        row.position.resize(static_cast<std::size_t>(row.length() - count));
    }
    write_lengths();
  }
  /// What must be said of a sequence whose state is told of so many more tokens, the engine having written its own.
  [[nodiscard]] std::uint32_t fault_of_arrival(int sequence, int count) {
    std::uint32_t faults = 0;
    engine_.each_row(sequence, [&](fkv::row_index at) {
      auto const& row = engine_.row(at);
      int const next = check_.before().next_position[row_number(engine_.shape, at)];
      int room = 0;  // slots that were empty before the engine filled them, or still are
      for (int slot = 0; slot < row.seen && !engine_.setup.moves_tokens() && row.step > 0; ++slot) {
        int const position = row.position[static_cast<std::size_t>(slot)];
        room += position < 0 || position >= next ? 1 : 0;
      }
      int const seen = row.seen + count - room;
      if (row.step > 0 && seen > arrays_.room.state)
        faults |= flag(fkv::sequence_flag::state_overflow);
      else if (seen > row.length())
        faults |= flag(fkv::sequence_flag::length_mismatch);
    });
    return faults;
  }
  /// Tokens join some sequences, and the state is told of some of them.
  void arrive() {
    list_memory const list = some_list();
    listing const listed = read(list);
    guarded<std::int32_t> counts(static_cast<std::size_t>(sequences()), 0);
    for (int s = 0; s < sequences(); ++s) {
      bool const prompt = engine_.sequence(s).end == 0 || random_.chance(0.1);
      int const count = prompt ? random_.integer(0, engine_.shape.capacity) : random_.integer(0, 9);
      bool const tell = listed.visits(s) && (must_tell(s) || random_.chance(0.4));
      if (!fits(s, count) || (must_tell(s) && !tell)) continue;
      write_tokens(s, count);
      counts[static_cast<std::size_t>(s)] = tell ? count : 0;
    }
    append(list, counts);
  }
  void append(list_memory const& list, guarded<std::int32_t> const& counts) {
    listing const listed = read(list);
    auto faults = no_faults();
    begin("append");
    auto const done = verbs_.append(list, counts);
    for (int const s : listed.visited)
      if (int const count = counts[static_cast<std::size_t>(s)]; count > 0)
        faults[static_cast<std::size_t>(s)] = fault_of_arrival(s, count);
    end(done, listed, faults, [&] {
      for (int const s : listed.visited) {
        int const count = counts[static_cast<std::size_t>(s)];
        if (count > 0 && faults[static_cast<std::size_t>(s)] == 0)
          engine_.each_row(s, [&](fkv::row_index at) { check_.appended_row(at, count); });
      }
    });
    for (int const s : listed.visited)  // where tokens filled empty slots, the engine has to take them back
      if (faults[static_cast<std::size_t>(s)] != 0) undo_arrival(s, counts[static_cast<std::size_t>(s)]);
  }
  void undo_arrival(int sequence, int count) {
    drop_tokens(sequence, count);
    for (row_model& row : engine_.sequence(sequence).rows)
      if (!engine_.setup.moves_tokens() && row.step > 0) row.position.resize(static_cast<std::size_t>(row.seen));
    write_lengths();
  }

  /// The state is told of tokens that nobody wrote.
  void invent_tokens() {
    int const s = random_.integer(0, sequences() - 1);
    guarded<std::int32_t> counts(static_cast<std::size_t>(sequences()), 0);
    int count = 0;
    engine_.each_row(s, [&](fkv::row_index at) {
      auto const& row = engine_.row(at);
      count = std::max(count, row.length() - (must_tell(s) ? occupied(row.position) : row.seen));
    });
    count += random_.integer(1, 6);
    counts[static_cast<std::size_t>(s)] = count;
    auto faults = no_faults();
    list_memory const list = random_.chance(0.5) ? every_sequence() : exactly({s});
    begin("append of tokens that are not there");
    faults[static_cast<std::size_t>(s)] = fault_of_arrival(s, count);
    auto const done = verbs_.append(list, counts);
    end(done, read(list), faults, [] {});
  }

  /// Draft tokens are rejected. Where no verb has seen them, nobody needs to be told.
  void reject() {
    int const s = random_.integer(0, sequences() - 1);
    int const count = random_.integer(1, 6);
    forget_statistics(s);
    if (!can_drop(s, count)) return refuse_to_reject(s, count);
    bool unseen = !must_tell(s);
    for (row_model const& row : engine_.sequence(s).rows) unseen = unseen && row.seen <= row.length() - count;
    drop_tokens(s, count);
    if (!unseen || random_.chance(0.5)) take_back(s, -count, 0);
  }
  /// Whether the newest tokens are all there, where they can be taken from.
  [[nodiscard]] bool can_drop(int sequence, int count) {
    sequence_model const& tokens = engine_.sequence(sequence);
    bool all = true;
    for (row_model const& row : tokens.rows) {
      int found = 0;
      for (int const position : row.position) found += position >= tokens.end - count;
      bool at_end = row.length() >= count;
      for (int i = 0; at_end && i < count; ++i)
        at_end = row.position[static_cast<std::size_t>(row.length() - 1 - i)] == tokens.end - 1 - i;
      bool const anywhere = !engine_.setup.moves_tokens() && row.step > 0;
      all = all && found == count && (at_end || anywhere);
    }
    return all;
  }
  /// Tokens that are gone, or stand inside their row, are not taken back.
  void refuse_to_reject(int sequence, int count) {
    engine_.each_row(sequence, [&](fkv::row_index at) {
      row_model const& row = engine_.row(at);
      if (engine_.setup.moves_tokens() || row.step == 0)
        arrays_.lengths[arrays_.length_place(at)] = row.length() - count;
    });
    int const told = random_.chance(0.1) ? -0x7fffffff - 1 : -count;
    std::uint32_t fault = 0;
    engine_.each_row(sequence, [&](fkv::row_index at) {
      bool const none = arrays_.lengths[arrays_.length_place(at)] < 0;
      fault |= flag(none ? fkv::sequence_flag::bad_length : fkv::sequence_flag::length_mismatch);
    });
    take_back(sequence, told, fault);
  }
  /// The engine's row is what it should be already.
  void take_back(int sequence, int count, std::uint32_t fault) {
    guarded<std::int32_t> counts(static_cast<std::size_t>(sequences()), 0);
    counts[static_cast<std::size_t>(sequence)] = count;
    auto faults = no_faults();
    faults[static_cast<std::size_t>(sequence)] = fault;
    list_memory const list = random_.chance(0.5) ? every_sequence() : exactly({sequence});
    begin("append of a negative count");
    auto const done = verbs_.append(list, counts);
    end(done, read(list), faults, [&] {
      if (fault == 0)
        engine_.each_row(sequence,
                         [&](fkv::row_index at) { check_.taken_back_row(at, engine_.sequence(sequence).end); });
    });
  }

  /// Drafts leave, wherever evictions have put them.
  void take_newest_back() {
    list_memory const list = some_list();
    listing const listed = read(list);
    guarded<std::int32_t> counts(static_cast<std::size_t>(sequences()), 0);
    for (int s = 0; s < sequences(); ++s) {
      int const end = engine_.sequence(s).end;
      int const rare[] = {0, -1, -0x7fffffff - 1, end + 1, 0x7fffffff, end, random_.integer(0, end)};
      counts[static_cast<std::size_t>(s)] = random_.chance(0.2) ? rare[random_.integer(0, 6)] : random_.integer(1, 6);
    }
    break_length();
    questions asked;
    asked.longest = engine_.shape.capacity;
    auto faults = no_faults();
    std::vector<int> granted;
    for (int const s : listed.visited) {
      std::uint32_t& fault = faults[static_cast<std::size_t>(s)];
      fault = engine_.faults(arrays_, list, s, asked);
      if (fault == 0) fault = engine_.faults_of_leaving(arrays_, s, counts[static_cast<std::size_t>(s)]);
      if (fault == 0) granted.push_back(s);
    }
    begin("take_back");
    auto const done = verbs_.take_back(list, counts);
    end(done, listed, faults, [&] {
      for (int const s : granted) {
        int const count = counts[static_cast<std::size_t>(s)];
        engine_.each_row(s, [&](fkv::row_index at) { check_.left_row(at, count); });
        engine_.sequence(s).end -= count;
      }
    });
    forget_statistics(granted);
    write_lengths();
  }

  void forget_statistics(int sequence) {
    fresh_[static_cast<std::size_t>(sequence)] = 0;
    if (!pending_.began.empty()) pending_.began[static_cast<std::size_t>(sequence)] = 0;
  }
  void forget_statistics(std::vector<int> const& cut) {
    for (int const s : cut) forget_statistics(s);
  }

  std::vector<int> fresh_ = std::vector<int>(static_cast<std::size_t>(engine_.shape.num_sequences), 0);  // statistics
  pending_window pending_;
};

}  // namespace driver
