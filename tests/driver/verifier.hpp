// SPDX-License-Identifier: Apache-2.0
#pragma once

// Compares what a call left with what it should have left. `expected` starts as a copy of what was there
// before; each verb's effects are written into it, and in the end the two must have the same bits everywhere.
// Numbers that may differ by rounding are compared on the way and taken over.

#include <cstring>
#include <sstream>

#include "driver/row_numbers.hpp"

namespace driver {

/// Where an eviction leaves the tokens that stay.
enum class destination { in_place, target, no_room };

class verifier : public row_numbers {
 public:
  int cuts = 0;
  int near_ties = 0;

  using row_numbers::row_numbers;

  [[nodiscard]] std::string const& problem() const { return problem_; }

  void start(fkv::row_state const& state) {
    before_ = expected = capture(arrays_, state);
    state_ = state;
  }
  void finish(fkv::row_state const& state, fkv::status done) {
    after_ = capture(arrays_, state);
    state_ = state;
    require(done.ok(), std::string("status: ") + done.message());
  }
  [[nodiscard]] image const& before() const { return before_; }
  [[nodiscard]] image const& after() const { return after_; }

  /// The flags of a call: `faults` holds what each sequence may get, and of which it must get some.
  void flags(listing const& list, std::vector<std::uint32_t> const& faults) {
    for (int sequence : list.visited) {
      auto const s = static_cast<std::size_t>(sequence);
      if ((list.repeated >> sequence & 1u) != 0) expected.flags[s] |= flag(fkv::sequence_flag::duplicate);
      if (list.cut) expected.flags[s] |= flag(fkv::sequence_flag::list_cut);
      expected.flags[s] |= after_.flags[s] & faults[s];
      require(faults[s] == 0 || (expected.flags[s] & faults[s]) != 0,
              text("sequence ", sequence, " is not flagged; may be: ", faults[s], ", is: ", after_.flags[s]));
    }
  }

  void observed_row(fkv::row_index at, statistics_table const& right) {
    int const slots = engine_.row(at).length();
    for (int slot = 0; slot < slots; ++slot)
      for (int which = 0; which < right.num_statistics; ++which)
        for (int j = 0; j < right.group; ++j)
          adopt_close(expected.statistics, after_.statistics, statistics_place(at, slot, which, j),
                      right.at(slot, which, j), std::fabs(right.at(slot, which, j)), "statistic", at);
  }
  void carried_row(fkv::row_index at, window_source const& window) {
    row_model& row = engine_.row(at);
    statistics_table const right = inputs(at, window, true).carried;
    touch_columns(at);
    settle(at, row.length(), engine_.sequence(at.sequence).end, row.step);
    for (int slot = 0; slot < row.length(); ++slot) {
      place(at, slot, row.position[static_cast<std::size_t>(slot)]);
      if (row.position[static_cast<std::size_t>(slot)] >= 0)
        adopt_carried(at, slot, right, slot);
      else
        forget_carried(at, slot);
    }
    row.seen = row.length();
  }

  void scored_row_of(fkv::row_index at, window_source const& window) {
    rating const right = engine_.score(inputs(at, window, false));
    for (int slot = 0; slot < engine_.row(at).length(); ++slot) {
      auto const place = row_number(engine_.shape, at) * static_cast<std::size_t>(arrays_.room.scores) +
                         static_cast<std::size_t>(slot);
      auto const s = static_cast<std::size_t>(slot);
      if (engine_.row(at).position[s] >= 0)
        adopt_close(expected.scores, after_.scores, place, right.score[s], right.uncertain ? HUGE_VAL : right.size[s],
                    "score", at);
      else
        expected.scores[place] = after_.scores[place];
    }
  }

  /// Given the scores that stand in memory the lists are exact, but for the rounding of sampled ones.
  void selected_row(fkv::row_index at) {
    auto const* const first =
        before_.scores.data() + row_number(engine_.shape, at) * static_cast<std::size_t>(arrays_.room.scores);
    rating scores(engine_.row(at).length());
    scores.score.assign(first, first + engine_.row(at).length());
    choice const right = choose_from(inputs(at, {}, false), scores.score);
    if (right.over_budget) over_budget(at.sequence);
    choice const found = engine_.setup.sampled ? written_lists(at) : right;
    if (engine_.setup.sampled) compare_choice(at, found, right, scores);
    write_lists(at, found);
  }

  /// The lists that stand in memory.
  void compacted_row(fkv::row_index at) {
    row_model const& row = engine_.row(at);
    auto const place = row_number(engine_.shape, at);
    new_length(at, row.length());
    if (before_.evicted_count[place] == 0) return;
    ++cuts;
    cut(at, engine_.lists_of(arrays_, at), old_carried(at));
  }

  void evicted_row(fkv::row_index at, window_source const& window, wanted_lists wanted, bool dry_run,
                   destination where = destination::in_place) {
    row_model const& row = engine_.row(at);
    int const budget = engine_.budget(arrays_, at);
    bool const goes = where == destination::target && !dry_run;
    if (where == destination::no_room) dry_run = true;
    if (where != destination::no_room) new_length(at, row.length());
    if (occupied(row.position) <= budget) {
      write_lists(at, without(row.position, {}), wanted);
      if (goes) copy_whole(at);
      return;
    }
    ++cuts;
    scored_row const seen = inputs(at, window, true);
    rating const scores = engine_.score(seen);
    choice const right = choose_from(seen, scores.score);
    if (right.over_budget) over_budget(at.sequence);
    bool const shows = !dry_run && !right.evicted.empty();
    bool const told = wanted != wanted_lists::none;
    choice const found = told ? written_lists(at) : shows ? kept_positions(at, right) : right;
    compare_choice(at, found, right, scores);
    write_lists(at, found, wanted);
    if (!problem_.empty() || where == destination::no_room) return;
    if (found.evicted.empty()) return void(goes ? copy_whole(at) : void());  // protected tokens alone are not cut
    if (engine_.setup.moves_tokens()) new_length(at, static_cast<int>(found.kept.size()));
    if (!dry_run) cut(at, found, seen.carried, goes);
  }

  /// Tokens that the state was told of. Their positions are the engine's already.
  void appended_row(fkv::row_index at, int count) {
    row_model& row = engine_.row(at);
    auto const place = row_number(engine_.shape, at);
    int const next = before_.next_position[place];
    touch_columns(at);
    row.seen += count - (row.step == 0 || engine_.setup.moves_tokens() ? 0 : filled(at, next));
    settle(at, row.seen, next + count, row.step);
    for (int slot = 0; slot < std::min(row.seen, state_.capacity); ++slot) {
      int const position = row.position[static_cast<std::size_t>(slot)];
      this->place(at, slot, position);
      if (position >= next) clear_carried(at, slot);
    }
  }
  /// Tokens that were taken back: the engine's row is shorter already, or has the empty slots.
  void taken_back_row(fkv::row_index at, int end) {
    row_model& row = engine_.row(at);
    touch_columns(at);
    row.seen = std::min(row.seen, row.length());
    settle(at, row.seen, end - (row.length() - row.seen), row.step);
    for (int slot = 0; slot < std::min(row.seen, state_.capacity); ++slot) {
      place(at, slot, row.position[static_cast<std::size_t>(slot)]);
      if (row.position[static_cast<std::size_t>(slot)] < 0) forget_carried(at, slot);
    }
  }
  /// Tokens that were taken back wherever they stood: what stays moves with all that belongs to it.
  void left_row(fkv::row_index at, int count) {
    row_model& row = engine_.row(at);
    int const length = row.length(), unseen = length - row.seen, new_length = engine_.length_without(at, count);
    this->new_length(at, new_length);
    if (count == 0) return;
    bool const stays = engine_.slots_stay(at);
    auto const plan = stays ? moves::slot_list : row.step == 0 ? moves::ordered : engine_.setup.compaction;
    auto const from = sources(plan, engine_.without_newest(at, count), length);
    int const old_seen = row.seen;
    bool const in_columns = row.step > 0 && (stays || count > unseen);
    if (row.step == 0) row.seen = std::min(row.seen, new_length);
    if (in_columns) row.seen = new_length;
    touch_columns(at);
    int const end = engine_.sequence(at.sequence).end - count;
    settle(at, row.seen, end - (new_length - row.seen), row.step);
    std::vector<int> position;
    for (int slot = 0; slot < new_length; ++slot) {
      int const source = from[static_cast<std::size_t>(slot)];
      position.push_back(source < 0 ? -1 : row.position[static_cast<std::size_t>(source)]);
      if (slot < std::min(row.seen, state_.capacity)) {
        place(at, slot, position.back());
        source < 0 ? forget_carried(at, slot) : take_carried(at, slot, source, old_seen);
      }
      if (source < 0) continue;
      move_bytes(arrays_.keys, before_.keys, expected.keys, at, slot, source);
      move_bytes(arrays_.values, before_.values, expected.values, at, slot, source);
    }
    for (int slot = new_length; slot < length; ++slot) {  // behind the row's new end
      move_bytes(arrays_.keys, after_.keys, expected.keys, at, slot, slot);
      move_bytes(arrays_.values, after_.values, expected.values, at, slot, slot);
    }
    row.position = position;
  }
  void reset_row(fkv::row_index at) { settle(at, 0, 0, 0); }
  /// Columns of a row that were copied from a row of some image of the same capacity.
  void copied_row(fkv::row_index at, image const& source, fkv::row_index from) {
    auto const origin = row_number(engine_.shape, from);
    touch_columns(at);
    settle(at, source.seen_length[origin], source.next_position[origin], source.step[origin]);
    for (int slot = 0; slot < std::min(source.seen_length[origin], state_.capacity); ++slot) {
      if (source.step[origin] > 0) place(at, slot, source.position[column(from, slot)]);
      auto const width = static_cast<std::size_t>(state_.num_carried * state_.group);
      std::copy_n(source.carried.begin() + static_cast<std::ptrdiff_t>(column(from, slot) * width), width,
                  expected.carried.begin() + static_cast<std::ptrdiff_t>(column(at, slot) * width));
    }
  }

  /// What nobody is promised anything about.
  void forget_new_lengths() { expected.new_lengths = after_.new_lengths; }

  /// The end of every check.
  void compare() {
    same(expected.flags, after_.flags, "flags");
    same(expected.seen_length, after_.seen_length, "seen_length");
    same(expected.next_position, after_.next_position, "next_position");
    same(expected.step, after_.step, "step");
    same(expected.request_id, after_.request_id, "request_id");
    same(expected.seed, after_.seed, "seed");
    same(expected.position, after_.position, "position");
    same(expected.carried, after_.carried, "carried");
    same(expected.new_lengths, after_.new_lengths, "new_lengths");
    same(expected.evicted_count, after_.evicted_count, "evicted_count");
    same(expected.kept, after_.kept, "kept");
    same(expected.evicted, after_.evicted, "evicted");
    same(expected.evicted_positions, after_.evicted_positions, "evicted_positions");
    same(expected.keys, after_.keys, "keys");
    same(expected.values, after_.values, "values");
    same(expected.target_keys, after_.target_keys, "keys of the target");
    same(expected.target_values, after_.target_values, "values of the target");
    same(expected.statistics, after_.statistics, "statistics");
    same(expected.scores, after_.scores, "scores");
  }
  void require(bool right, std::string const& what) {
    if (!right && problem_.empty()) problem_ = what;
  }
  template <class... Parts>
  static std::string text(Parts const&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
  }

  /// Saved from one state and restored to another, of more columns, every sequence is what it was.
  void moved_state() {
    same(before_.flags, after_.flags, "flags");
    same(before_.seen_length, after_.seen_length, "seen_length");
    same(before_.next_position, after_.next_position, "next_position");
    same(before_.step, after_.step, "step");
    same(before_.request_id, after_.request_id, "request_id");
    same(before_.seed, after_.seed, "seed");
    auto const rows = static_cast<std::size_t>(engine_.shape.num_rows());
    for (std::size_t row = 0; row < rows; ++row) moved_columns(row, before_.position.size() / rows);
  }

  image expected;

 private:
  void moved_columns(std::size_t row, std::size_t old_capacity) {
    auto const capacity = static_cast<std::size_t>(state_.capacity);
    auto const width = static_cast<std::size_t>(state_.num_carried * state_.group);
    for (std::size_t slot = 0; slot < std::min(static_cast<std::size_t>(after_.seen_length[row]), capacity); ++slot) {
      bool const stored = slot < old_capacity;
      if (after_.step[row] > 0)
        require(before_.position[row * old_capacity + slot] == after_.position[row * capacity + slot],
                "a position has not moved");
      for (std::size_t i = 0; i < width; ++i) {
        float const right = stored ? before_.carried[(row * old_capacity + slot) * width + i] : 0.0f;
        require(after_.carried[(row * capacity + slot) * width + i] == right, "a carried statistic has not moved");
      }
    }
  }
  static std::byte const* old_bytes(token_array& array, std::vector<std::byte> const& bytes, fkv::row_index at,
                                    int slot) {
    return bytes.data() + (array.token(at, slot) - array.bytes.data());
  }
  [[nodiscard]] std::size_t list_place(fkv::row_index at, std::size_t entry) const {
    return row_number(engine_.shape, at) * static_cast<std::size_t>(arrays_.room.lists) + entry;
  }

  // --- choices
  [[nodiscard]] choice choose_from(scored_row const& row, numbers const& scores) const {
    int const budget = engine_.budget(arrays_, row.at);
    if (!engine_.setup.sampled) return choose(engine_.config, budget, row.tokens, scores);
    return sample(engine_.config, budget, row, scores, before_.seed[static_cast<std::size_t>(row.at.sequence)]);
  }
  [[nodiscard]] choice written_lists(fkv::row_index at) const {
    auto const row = row_number(engine_.shape, at);
    int const count = std::clamp(after_.evicted_count[row], 0, arrays_.room.lists);
    auto const first = after_.evicted.begin() + static_cast<std::ptrdiff_t>(list_place(at, 0));
    return without(engine_.row(at).position, std::vector<int>(first, first + count));
  }
  /// The choice that a row's positions tell of.
  [[nodiscard]] choice kept_positions(fkv::row_index at, choice const& right) const {
    auto const& row = engine_.row(at);
    int const length = engine_.setup.moves_tokens() ? static_cast<int>(right.kept.size()) : row.length();
    auto const first = after_.position.begin() + static_cast<std::ptrdiff_t>(column(at, 0));
    std::vector<int> evicted;
    for (int slot = 0; slot < row.length(); ++slot) {
      int const position = row.position[static_cast<std::size_t>(slot)];
      if (position >= 0 && std::find(first, first + length, position) == first + length) evicted.push_back(slot);
    }
    return without(row.position, evicted);
  }
  void compare_choice(fkv::row_index at, choice const& found, choice const& right, rating const& scores) {
    if (found.evicted == right.evicted) return;
    ++near_ties;
    auto const free = candidates(engine_.config, engine_.row(at).position, engine_.pinned(arrays_, at),
                                 engine_.sequence(at.sequence).end);
    // Of a draw nobody can say more; that it may differ as rarely as any other is what `near_ties` shows.
    if ((engine_.setup.sampled || scores.uncertain) && among(found, right, free)) return;
    require(nearly(found, right, free, scores),
            text("row ", at.layer, ' ', at.sequence, ' ', at.kv_head, " evicts", print(found.evicted, scores),
                 "; expected", print(right.evicted, scores)));
  }
  static std::string print(std::vector<int> const& slots, rating const& scores) {
    std::string made;
    for (int const slot : slots)
      made +=
          text(' ', slot, '(',
               slot >= 0 && slot < static_cast<int>(scores.score.size()) ? scores.score[static_cast<std::size_t>(slot)]
                                                                         : 0.0,
               ')');
    return made;
  }

  // --- effects
  void over_budget(int sequence) {
    expected.flags[static_cast<std::size_t>(sequence)] |= flag(fkv::sequence_flag::over_budget);
  }
  void new_length(fkv::row_index at, int length) { expected.new_lengths[arrays_.length_place(at)] = length; }
  void settle(fkv::row_index at, int seen, int next, std::uint32_t step) {
    auto const row = row_number(engine_.shape, at);
    expected.seen_length[row] = seen;
    expected.next_position[row] = next;
    expected.step[row] = step;
  }
  void place(fkv::row_index at, int slot, int position) {
    // The positions of a pristine row are implicit: nobody reads its column.
    if (expected.step[row_number(engine_.shape, at)] > 0) expected.position[column(at, slot)] = position;
  }
  void clear_carried(fkv::row_index at, int slot) {
    for (int which = 0; which < state_.num_carried; ++which)
      for (int j = 0; j < state_.group; ++j) expected.carried[carried_place(at, slot, which, j)] = 0.0f;
  }
  /// To the bit; of a token that the state had not seen there were none.
  void take_carried(fkv::row_index at, int slot, int source, int seen) {
    auto const width = static_cast<std::ptrdiff_t>(state_.num_carried * state_.group);
    auto const to = expected.carried.begin() + static_cast<std::ptrdiff_t>(column(at, slot)) * width;
    if (source < seen)
      std::copy_n(before_.carried.begin() + static_cast<std::ptrdiff_t>(column(at, source)) * width, width, to);
    else
      std::fill_n(to, width, 0.0f);
  }
  /// Nobody reads the carried statistics of an empty slot.
  void forget_carried(fkv::row_index at, int slot) {
    auto const width = static_cast<std::ptrdiff_t>(state_.num_carried * state_.group);
    auto const first = static_cast<std::ptrdiff_t>(column(at, slot)) * width;
    std::copy_n(after_.carried.begin() + first, width, expected.carried.begin() + first);
  }
  /// What the columns of a changed row hold behind its last slot is nobody's business.
  void touch_columns(fkv::row_index at) {
    auto const from = static_cast<std::ptrdiff_t>(column(at, 0));
    auto const width = static_cast<std::ptrdiff_t>(state_.num_carried * state_.group);
    std::copy_n(after_.position.begin() + from, state_.capacity, expected.position.begin() + from);
    int const stored = std::min(after_.seen_length[row_number(engine_.shape, at)], state_.capacity);
    auto const behind = static_cast<std::ptrdiff_t>(std::max(stored, 0));
    std::copy(after_.carried.begin() + (from + behind) * width,
              after_.carried.begin() + (from + state_.capacity) * width,
              expected.carried.begin() + (from + behind) * width);
  }
  void adopt_carried(fkv::row_index at, int slot, statistics_table const& right, int from) {
    for (int which = 0; which < state_.num_carried; ++which)
      for (int j = 0; j < state_.group; ++j)
        adopt_close(expected.carried, after_.carried, carried_place(at, slot, which, j), right.at(from, which, j),
                    std::fabs(right.at(from, which, j)), "carried", at);
  }
  template <class Values>
  void adopt_close(Values& target, Values const& found, std::size_t place, double right, double size, char const* what,
                   fkv::row_index at) {
    double const got = found[place];
    if (!close(got, right, size))
      require(false, text(what, " of row ", at.layer, ' ', at.sequence, ' ', at.kv_head, " at ", place, " is ", got,
                          "; expected ", right));
    target[place] = found[place];
  }
  void write_lists(fkv::row_index at, choice const& right, wanted_lists wanted = wanted_lists::all) {
    if (wanted == wanted_lists::none) return;
    expected.evicted_count[row_number(engine_.shape, at)] = static_cast<int>(right.evicted.size());
    for (std::size_t i = 0; i < right.evicted.size(); ++i) expected.evicted[list_place(at, i)] = right.evicted[i];
    if (wanted == wanted_lists::evicted) return;
    for (std::size_t i = 0; i < right.kept.size(); ++i) expected.kept[list_place(at, i)] = right.kept[i];
    for (std::size_t i = 0; i < right.evicted.size(); ++i) {
      expected.evicted_positions[list_place(at, i)] =
          engine_.row(at).position[static_cast<std::size_t>(right.evicted[i])];
    }
  }
  /// Moves a row: keys, values and columns together.
  void cut(fkv::row_index at, choice const& choice, statistics_table const& right, bool goes = false) {
    row_model& row = engine_.row(at);
    auto const from = goes ? choice.kept : sources(engine_.setup.compaction, choice, row.length());
    touch_columns(at);
    settle(at, static_cast<int>(from.size()), engine_.sequence(at.sequence).end, row.step + 1);
    std::vector<int> position;
    for (int slot = 0; slot < static_cast<int>(from.size()); ++slot) {
      int const source = from[static_cast<std::size_t>(slot)];
      position.push_back(source < 0 ? -1 : row.position[static_cast<std::size_t>(source)]);
      place(at, slot, position.back());
      if (source < 0) {
        forget_carried(at, slot);
        continue;
      }
      adopt_carried(at, slot, right, source);
      if (goes) {
        copy_token(at, slot, source);
        continue;
      }
      move_bytes(arrays_.keys, before_.keys, expected.keys, at, slot, source);
      move_bytes(arrays_.values, before_.values, expected.values, at, slot, source);
    }
    if (engine_.setup.moves_tokens()) new_length(at, static_cast<int>(from.size()));
    for (int slot = static_cast<int>(from.size()); !goes && slot < row.length(); ++slot) {  // behind the row's new end
      move_bytes(arrays_.keys, after_.keys, expected.keys, at, slot, slot);
      move_bytes(arrays_.values, after_.values, expected.values, at, slot, slot);
    }
    row.position = position;
    row.seen = row.length();
    ++row.step;
  }
  static void move_bytes(token_array& array, std::vector<std::byte> const& source, std::vector<std::byte>& target,
                         fkv::row_index at, int slot, int from) {
    auto const* const first = old_bytes(array, source, at, from);
    std::copy_n(first, array.token_bytes(), target.begin() + (array.token(at, slot) - array.bytes.data()));
  }
  /// To the other cache.
  void copy_token(fkv::row_index at, int slot, int source) {
    auto const copy = [&](token_array& from, std::vector<std::byte> const& bytes, token_array& to,
                          std::vector<std::byte>& target) {
      std::copy_n(old_bytes(from, bytes, at, source), from.token_bytes(),
                  target.begin() + (to.token(at, slot) - to.bytes.data()));
    };
    copy(arrays_.keys, before_.keys, arrays_.target_keys, expected.target_keys);
    copy(arrays_.values, before_.values, arrays_.target_values, expected.target_values);
  }
  void copy_whole(fkv::row_index at) {
    for (int slot = 0; slot < engine_.row(at).length(); ++slot) copy_token(at, slot, slot);
  }
  /// Slots of an evicted slot_list row that were filled.
  [[nodiscard]] int filled(fkv::row_index at, int next) const {
    auto const& row = engine_.row(at);
    int count = 0;
    for (int slot = 0; slot < row.seen; ++slot) count += row.position[static_cast<std::size_t>(slot)] >= next;
    return count;
  }
  template <class Values>
  void same(Values const& right, Values const& found, char const* what) {
    if (!problem_.empty() || right.empty() ||
        std::memcmp(right.data(), found.data(), right.size() * sizeof(right[0])) == 0)
      return;
    std::size_t at = 0;
    while (std::memcmp(&right[at], &found[at], sizeof(right[at])) == 0) ++at;
    problem_ = text(what, " at ", at, ": ", number(found[at]), "; expected ", number(right[at]));
  }
  template <class Value>
  static auto number(Value value) {
    if constexpr (std::is_same_v<Value, std::byte>)
      return static_cast<int>(value);
    else
      return value;
  }

  image after_;
  std::string problem_;
};

}  // namespace driver
