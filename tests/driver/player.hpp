// SPDX-License-Identifier: Apache-2.0
#pragma once

// An engine that does at random what engines do, and compares every call with the model.

#include <memory>

#include "driver/window_player.hpp"

namespace driver {

/// A sequence that waits outside, with its keys and values.
struct saved_sequence {
  guarded<std::byte> bytes;
  sequence_model tokens;
  image whole;  // at that time
  int from = 0;
  int capacity = 0;
};

class player : public window_player {
 public:
  player(model& engine, memory& arrays, library& verbs, random_source& random)
      : window_player(engine, arrays, verbs, random) {
    start_over(every_sequence());
  }

  /// Something that an engine does: some verb calls.
  void act() {
    if (random_.chance(0.8)) std::fill_n(verbs_.state().flags, sequences(), 0u);
    change_budgets();
    change_pins();
    int const what = random_.integer(0, 99);
    if (what < 32) return arrive();
    if (what < 36) return random_.chance(0.25) ? invent_tokens() : reject();
    if (what < 40) return take_newest_back();
    if (what < 47) return carry();
    if (what < 62) return evict();
    if (what < 71) return evict_due();
    if (what < 79) return run_stages();
    if (what < 84) return select_and_compact();
    if (what < 92) return observe_chunk();
    if (what < 95) return fork();
    if (what < 98) return save_or_restore();
    if (what < 99) return move_state();
    start_over(some_list());
  }

 private:
  void start_over(list_memory const& list) {
    listing const listed = read(list);
    std::vector<std::uint32_t> ids;
    std::vector<std::uint64_t> seeds;
    for (int s = 0; s < sequences(); ++s) {
      ids.push_back(static_cast<std::uint32_t>(random_.bits()));
      seeds.push_back(random_.bits());
    }
    bool const given = random_.chance(0.5);
    begin("reset");
    auto const done = verbs_.reset(list, given ? ids.data() : nullptr, given ? seeds.data() : nullptr);
    end(done, listed, no_faults(), [&] {
      for (int const s : listed.visited) {
        auto const i = static_cast<std::size_t>(s);
        check_.expected.request_id[i] = given ? ids[i] : static_cast<std::uint32_t>(s);
        check_.expected.seed[i] = given ? seeds[i] : 0;
        check_.expected.flags[i] = 0;
        engine_.sequence(s) = {0, std::vector<row_model>(engine_.sequence(s).rows.size())};
        engine_.each_row(s, [&](fkv::row_index at) { check_.reset_row(at); });
      }
    });
    forget_statistics(listed.visited);
  }

  void fork() {
    bool const scratch = random_.chance(0.5);  // then sources may be targets
    guarded<std::int32_t> sources(static_cast<std::size_t>(random_.integer(0, 3))), targets(sources.size());
    for (std::size_t i = 0; i < sources.size(); ++i) {
      sources[i] = random_.integer(random_.chance(0.1) ? -1 : 0, sequences() - 1);
      targets[i] = random_.integer(0, random_.chance(0.1) ? sequences() : sequences() - 1);
      if (sources[i] == targets[i]) targets[i] = sequences();  // a copy onto itself is nothing, or a clash
    }
    begin("fork");
    auto const done = verbs_.fork(sources, targets, scratch);
    end(done, {}, no_faults(), [&] {
      std::vector<sequence_model> const old = engine_.sequences;
      for (std::size_t i = 0; i < sources.size(); ++i)
        if (exists(sources[i]) && exists(targets[i]) && !clashes(sources, targets, i, scratch))
          forked(sources[i], targets[i], old);
      for (std::size_t i = 0; i < sources.size(); ++i)
        if (exists(sources[i]) && exists(targets[i]) && clashes(sources, targets, i, scratch))
          check_.expected.flags[static_cast<std::size_t>(targets[i])] |= flag(fkv::sequence_flag::duplicate);
    });
    for (std::size_t i = 0; i < sources.size(); ++i)
      if (exists(sources[i]) && exists(targets[i]) && !clashes(sources, targets, i, scratch))
        copy_tokens(check_.before(), sources[i], targets[i]);
    write_lengths();
  }
  [[nodiscard]] bool exists(int sequence) const { return sequence >= 0 && sequence < sequences(); }
  static bool clashes(guarded<std::int32_t> const& sources, guarded<std::int32_t> const& targets, std::size_t pair,
                      bool scratch) {
    for (std::size_t other = 0; other < sources.size(); ++other)
      if ((!scratch && sources[other] == targets[pair]) || (other != pair && targets[other] == targets[pair]))
        return true;
    return false;
  }
  void forked(int source, int target, std::vector<sequence_model> const& old) {
    check_.expected.flags[static_cast<std::size_t>(target)] = check_.before().flags[static_cast<std::size_t>(source)];
    engine_.sequence(target) = old[static_cast<std::size_t>(source)];
    engine_.each_row(target, [&](fkv::row_index at) {
      check_.copied_row(at, check_.before(), {at.layer, source, at.kv_head});
    });
    forget_statistics(target);
  }
  /// The engine's part of a copy.
  void copy_tokens(image const& from, int source, int target) {
    engine_.each_row(target, [&](fkv::row_index at) {
      for (int slot = 0; slot < engine_.shape.capacity; ++slot) {
        copy_token(arrays_.keys, from.keys, {at.layer, source, at.kv_head}, at, slot);
        copy_token(arrays_.values, from.values, {at.layer, source, at.kv_head}, at, slot);
      }
    });
  }
  static void copy_token(token_array& array, std::vector<std::byte> const& bytes, fkv::row_index from,
                         fkv::row_index to, int slot) {
    std::copy_n(bytes.begin() + (array.token(from, slot) - array.bytes.data()), array.token_bytes(),
                array.token(to, slot));
  }

  void save_or_restore() {
    int const s = random_.integer(0, sequences() - 1);
    if (saved_ == nullptr || saved_->capacity != arrays_.room.state || random_.chance(0.4)) return save(s);
    restore(s);
  }
  void save(int sequence) {
    saved_ = std::make_unique<saved_sequence>();
    begin("save");
    auto const done = verbs_.save(sequence, saved_->bytes);
    end(done, {}, no_faults(), [] {});
    check_.require(saved_->bytes.intact(), "save wrote outside its buffer");
    saved_->tokens = engine_.sequence(sequence);
    saved_->whole = check_.before();
    saved_->from = sequence;
    saved_->capacity = arrays_.room.state;
  }
  void restore(int sequence) {
    bool const cut_short = random_.chance(0.1);
    auto faults = no_faults();
    begin("restore");
    auto done = verbs_.restore(sequence, saved_->bytes, saved_->bytes.size() - (cut_short ? 1 : 0));
    if (cut_short && refuses_by_flag) faults[static_cast<std::size_t>(sequence)] = flag(fkv::sequence_flag::bad_length);
    if (cut_short && !refuses_by_flag)
      done = done.code == fkv::errc::workspace_too_small ? fkv::status{} : fkv::status{fkv::errc::unsupported};
    end(done, {{sequence}, 0, false}, faults, [&] {
      if (!cut_short) restored(sequence);
    });
    if (!cut_short) copy_tokens(saved_->whole, saved_->from, sequence);
  }
  void restored(int sequence) {
    auto const to = static_cast<std::size_t>(sequence);
    auto const from = static_cast<std::size_t>(saved_->from);
    check_.expected.flags[to] = saved_->whole.flags[from];
    check_.expected.request_id[to] = saved_->whole.request_id[from];
    check_.expected.seed[to] = saved_->whole.seed[from];
    engine_.sequence(sequence) = saved_->tokens;
    engine_.each_row(sequence, [&](fkv::row_index at) {
      check_.copied_row(at, saved_->whole, {at.layer, saved_->from, at.kv_head});
    });
    forget_statistics(sequence);
  }
  /// Every sequence moves to a state with more columns.
  void move_state() {
    begin("save and restore in another state");
    auto const done = verbs_.move_state(arrays_.room.state + random_.integer(0, 5));
    check_.finish(verbs_.state(), done);
    check_.moved_state();
  }

  std::unique_ptr<saved_sequence> saved_;
};

}  // namespace driver
