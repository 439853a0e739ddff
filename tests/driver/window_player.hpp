// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "driver/random_window.hpp"
#include "driver/token_player.hpp"

namespace driver {

/// Windows, whole and in chunks, and what is evicted by them.
class window_player : public token_player {
 protected:
  using token_player::token_player;

  [[nodiscard]] window_memory some_window() {
    return make_window(engine_, arrays_, random_, [&](fkv::row_index at) { return tokens_now(at); });
  }
  [[nodiscard]] row_tokens tokens_now(fkv::row_index at) {
    return engine_.tokens(arrays_, at, arrays_.keys.bytes.data(), arrays_.values.bytes.data());
  }
  [[nodiscard]] bool use_observed() { return !engine_.setup.needs_queries && random_.chance(0.3); }
  /// Statistics from somewhere else: an engine's own attention kernel.
  void fill_statistics() {
    for (int s = 0; s < sequences(); ++s) {
      if (fresh_[static_cast<std::size_t>(s)] != 0) continue;
      engine_.each_row(s, [&](fkv::row_index at) {
        std::size_t const first = row_number(engine_.shape, at) * arrays_.row_statistics();
        for (std::size_t i = 0; i < arrays_.row_statistics(); ++i)
          arrays_.statistics[first + i] = static_cast<float>(random_.uniform());
      });
      fresh_[static_cast<std::size_t>(s)] = 1;
      pending_ = {};
    }
  }
  [[nodiscard]] questions about(window_memory const* window, int longest) const {
    questions asked;
    asked.longest = longest;
    asked.window = window;
    asked.observed = window == nullptr;
    return asked;
  }
  [[nodiscard]] static window_source source_of(window_memory const* window) { return {window, window == nullptr}; }

  /// Extreme logits leave one token per query, unless two are as large up to rounding: such a window is not
  /// played.
  [[nodiscard]] bool is_decided(window_memory const& window) {
    return !engine_.extreme || window_is_decided(window, engine_, [&](fkv::row_index at) { return tokens_now(at); });
  }
  /// One call with a window of queries, or with the statistics that are there.
  template <class Body>
  void with_window(Body const& body) {
    if (use_observed()) {
      fill_statistics();
      body(nullptr);
      return;
    }
    window_memory const window = some_window();
    if (is_decided(window)) body(&window);
  }

  void carry() {
    with_window([&](window_memory const* window) { carry_by(some_list(), window); });
  }
  std::vector<int> carry_by(list_memory const& list, window_memory const* window) {
    break_length();
    questions asked = about(window, engine_.shape.capacity);
    asked.storable = arrays_.room.state;
    return call(
        window == nullptr ? "carry of observed statistics" : "carry", list, asked,
        [&] { return verbs_.carry(list, window); },
        [&](fkv::row_index at) { check_.carried_row(at, source_of(window)); });
  }
  std::vector<int> score_by(list_memory const& list, window_memory const* window) {
    break_length();
    questions asked = about(window, arrays_.room.scores);
    if (engine_.setup.num_carried() > 0) asked.storable = arrays_.room.state;
    return call(
        "score", list, asked, [&] { return verbs_.score(list, window); },
        [&](fkv::row_index at) { check_.scored_row_of(at, source_of(window)); });
  }
  std::vector<int> select_by(list_memory const& list) {
    break_length();
    questions asked;
    asked.longest = std::min(arrays_.room.scores, arrays_.room.lists);
    asked.budget = true;
    return call(
        "select", list, asked, [&] { return verbs_.select(list); },
        [&](fkv::row_index at) { check_.selected_row(at); });
  }
  void compact_by(list_memory const& list) {
    break_length();
    questions asked;
    asked.longest = arrays_.room.lists;
    asked.storable = engine_.setup.moves_tokens() ? 0x7fffffff : arrays_.room.state;
    asked.budget = true;
    asked.lists = true;
    forget_statistics(call(
        "compact", list, asked, [&] { return verbs_.compact(list); },
        [&](fkv::row_index at) { check_.compacted_row(at); }));
  }
  void evict_by(list_memory const& list, window_memory const* window) {
    break_length();
    auto const wanted = static_cast<wanted_lists>(random_.integer(0, 2));
    bool const with_lists = wanted != wanted_lists::none;
    bool const dry_run = random_.chance(0.1);
    questions asked = about(window, with_lists ? arrays_.room.lists : engine_.shape.capacity);
    asked.storable = engine_.setup.moves_tokens() ? 0x7fffffff : arrays_.room.state;
    asked.budget = true;
    auto const name = verifier::text("evict", window == nullptr ? " by observed statistics" : "",
                                     window != nullptr && window->has_lse ? " with log-sum-exps" : "",
                                     with_lists ? " with lists" : "", dry_run ? " dry" : "");
    auto const accepted = call(
        name, list, asked, [&] { return verbs_.evict(list, window, wanted, dry_run); },
        [&](fkv::row_index at) { check_.evicted_row(at, source_of(window), wanted, dry_run); });
    if (!dry_run) forget_statistics(accepted);
  }
  void evict() {
    bool const into = engine_.setup.has_target && random_.chance(0.3);
    with_window([&](window_memory const* window) {
      into ? evict_into_by(some_list(), window) : evict_by(some_list(), window);
    });
  }
  /// Into the other cache, from where the engine takes its tokens back.
  void evict_into_by(list_memory const& list, window_memory const* window) {
    break_length();
    make_rooms();
    auto const wanted = static_cast<wanted_lists>(random_.integer(0, 2));
    bool const dry_run = random_.chance(0.1);
    questions asked = about(window, wanted != wanted_lists::none ? arrays_.room.lists : engine_.shape.capacity);
    asked.budget = true;
    listing const listed = read(list);
    auto faults = no_faults();
    std::vector<int> chosen, gone;  // sequences that pass every question; those of them that have room
    for (int const s : listed.visited) {
      std::uint32_t& fault = faults[static_cast<std::size_t>(s)];
      fault = engine_.faults(arrays_, list, s, asked);
      if (fault == 0) fault = engine_.target_faults(arrays_, s);
      if (fault != 0) continue;
      chosen.push_back(s);
      bool fits = true;
      engine_.each_row(s, [&](fkv::row_index at) {
        fits = fits && engine_.kept(arrays_, at) <= arrays_.rooms[arrays_.length_place(at)];
      });
      if (fits)
        gone.push_back(s);
      else
        fault = flag(fkv::sequence_flag::bad_length);
    }
    begin(verifier::text("evict into another cache", dry_run ? ", dry" : ""));
    auto const done = verbs_.evict_into(list, window, wanted, dry_run);
    end(done, listed, faults, [&] {
      for (int const s : chosen) {
        bool const goes = std::find(gone.begin(), gone.end(), s) != gone.end();
        engine_.each_row(s, [&](fkv::row_index at) {
          check_.evicted_row(at, source_of(window), wanted, dry_run, goes ? destination::target : destination::no_room);
        });
      }
    });
    if (dry_run) return;
    for (int const s : gone) engine_.each_row(s, [&](fkv::row_index at) { take_back_tokens(at); });
    forget_statistics(gone);
  }
  void take_back_tokens(fkv::row_index at) {
    for (int slot = 0; slot < engine_.row(at).length(); ++slot) {
      std::copy_n(arrays_.target_keys.token(at, slot), arrays_.keys.token_bytes(), arrays_.keys.token(at, slot));
      std::copy_n(arrays_.target_values.token(at, slot), arrays_.values.token_bytes(), arrays_.values.token(at, slot));
    }
  }
  void evict_due() {
    list_memory const list = some_list();
    break_length();
    questions asked;
    asked.longest = engine_.shape.capacity;
    asked.budget = true;
    std::vector<std::int32_t> due;
    auto const accepted = call(
        "collect_due", list, asked, [&] { return verbs_.collect_due(list); }, [](fkv::row_index) {});
    for (int const s : accepted)
      if (is_due(s)) due.push_back(s);
    int const count = arrays_.due_count[0];
    check_.require(std::vector<std::int32_t>(arrays_.due_slots.data(),
                                             arrays_.due_slots.data() + std::clamp(count, 0, sequences())) == due,
                   "the list of due sequences is another one");
    list_memory next = list;
    next.has_slots = next.has_count = true;
    next.slots = guarded<std::int32_t>(copy_of(arrays_.due_slots));
    next.count = guarded<std::int32_t>(1, count);
    next.max_count = std::min(list.max_count, sequences());
    if (problem().empty()) with_window([&](window_memory const* window) { evict_by(next, window); });
  }
  [[nodiscard]] bool is_due(int sequence) {
    bool any = false;
    engine_.each_row(sequence, [&](fkv::row_index at) {
      any = any || occupied(engine_.row(at).position) >= engine_.budget(arrays_, at) + engine_.config.interval;
    });
    return any;
  }

  /// Stage by stage.
  void run_stages() {
    std::vector<int> left;
    with_window([&](window_memory const* window) {
      left = carry_by(some_list(), window);
      if (problem().empty()) left = score_by(exactly({left.begin(), left.end()}), window);
    });
    if (problem().empty()) left = select_by(exactly({left.begin(), left.end()}));
    if (problem().empty()) compact_by(exactly({left.begin(), left.end()}));
  }
  /// Scores and lists that the library did not make.
  void select_and_compact() {
    float const levels[] = {0.0f, -0.0f, 1.0f, -1.0f, std::nanf(""), HUGE_VALF, -HUGE_VALF, 1e-42f};
    for (float& score : arrays_.scores) score = random_.chance(0.5) ? levels[random_.integer(0, 7)] : random_.normal();
    auto left = select_by(some_list());
    if (!problem().empty() || left.empty()) return;
    if (random_.chance(0.3)) break_lists(left[0]);
    compact_by(exactly({left.begin(), left.end()}));
  }
  void break_lists(int sequence) {
    fkv::row_index const at{random_.integer(0, engine_.shape.num_layers - 1), sequence,
                            random_.integer(0, engine_.shape.num_kv_heads - 1)};
    auto const row = row_number(engine_.shape, at);
    auto const first = row * static_cast<std::size_t>(arrays_.room.lists);
    std::int32_t& count = arrays_.evicted_count[row];
    if (count <= 0 || random_.chance(0.3))
      count = -1;
    else if (random_.chance(0.5))
      arrays_.evicted[first] = -1;
    else
      arrays_.evicted[first + static_cast<std::size_t>(count - 1)] = engine_.row(at).length();
  }

  // --- chunks
  void observe_chunk() {
    bool const continues = !pending_.began.empty() && random_.chance(0.8);
    if (!continues) begin_chunks();
    window_memory window = some_window();
    window.continues = continues;
    place_chunk(window);
    if (!is_decided(window)) return;
    list_memory list = every_sequence();
    if (continues) {
      std::vector<std::int32_t> begun;
      for (int s = 0; s < sequences(); ++s)
        if (pending_.began[static_cast<std::size_t>(s)] != 0) begun.push_back(s);
      list = exactly(begun);
    }
    questions asked = about(&window, arrays_.room.statistics);
    asked.stateless = random_.chance(0.3) && all_pristine();
    if (!asked.stateless) break_length();  // without a state nobody knows that a row is too short
    auto const accepted = call(
        continues ? "observe a later chunk" : "observe a first chunk", list, asked,
        [&] { return verbs_.observe(list, window, asked.stateless); },
        [&](fkv::row_index at) { observed_chunk(window, at); });
    for (int const s : accepted) {
      fresh_[static_cast<std::size_t>(s)] = 1;
      pending_.began[static_cast<std::size_t>(s)] = 1;
      pending_.next[static_cast<std::size_t>(s)] += window.count(s);
    }
  }
  void begin_chunks() {
    pending_ = {};
    pending_.began.assign(static_cast<std::size_t>(sequences()), 0);
    pending_.rows.resize(static_cast<std::size_t>(engine_.shape.num_rows()));
    std::fill(fresh_.begin(), fresh_.end(), 0);
    for (int s = 0; s < sequences(); ++s) {
      pending_.next.push_back(std::max(0, engine_.sequence(s).end - random_.integer(0, random_.chance(0.1) ? 60 : 10)));
      pending_.end.push_back(engine_.sequence(s).end + random_.integer(0, random_.chance(0.1) ? 40 : 10));
    }
  }
  /// The queries of tokens that are there, from where the chunk before ended.
  void place_chunk(window_memory& window) {
    window.has_count = window.has_end = window.has_first = true;
    for (int s = 0; s < sequences(); ++s) {
      auto const i = static_cast<std::size_t>(s);
      int const most = std::min(
          {window.max_queries, engine_.sequence(s).end - pending_.next[i], pending_.end[i] - pending_.next[i]});
      window.query_count[i] = most < 0 ? 0 : random_.integer(0, most);
      window.window_end[i] = pending_.end[i];
      window.first_position[i] = pending_.next[i];
    }
    fill_log_sum_exps(window, engine_, random_, [&](fkv::row_index at) { return tokens_now(at); });
  }
  [[nodiscard]] bool all_pristine() {
    bool all = true;
    for (int s = 0; s < sequences(); ++s) all = all && !evicted_before(s);
    return all;
  }
  void observed_chunk(window_memory const& window, fkv::row_index at) {
    seen_window& seen = pending_.rows[row_number(engine_.shape, at)];
    seen.add(window, check_.tokens_of(at), at);
    check_.observed_row(at, evaluate_all(engine_.setup.window, seen, engine_.row(at).length(), engine_.shape.group));
  }
};

}  // namespace driver
