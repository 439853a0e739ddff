// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "policy.hpp"

namespace binding {

inline namespace FORESIGHTKV_PYTHON_BACKEND {

/// Lists of slots: what `select` gives and `compact` takes.
class slot_lists {
 public:
  /// Without a token as yet.
  slot_lists(backend::execution const& exec, fkv::cache_shape const& shape);

  /// Evicted tokens of each row.
  [[nodiscard]] std::vector<std::int32_t> counts() const;
  /// The list of a row; IndexError where there is none.
  [[nodiscard]] std::vector<std::int32_t> kept(int row) const;
  [[nodiscard]] std::vector<std::int32_t> evicted(int row) const;
  [[nodiscard]] std::vector<std::int32_t> evicted_positions(int row) const;

  [[nodiscard]] int rows() const { return rows_; }
  [[nodiscard]] fkv::selection view() const {
    auto const of = [](memory const& list) { return list.elements<std::int32_t>(); };
    return {of(kept_), of(evicted_), of(evicted_count_), of(evicted_positions_), capacity_};
  }

 private:
  friend class evictor_object;

  void expect_row(int row) const;
  [[nodiscard]] int count(int row) const;
  [[nodiscard]] std::vector<std::int32_t> of_row(memory const& list, int row, int entries) const;

  backend::execution exec_;
  int rows_, capacity_;
  memory kept_, evicted_, evicted_count_, evicted_positions_;
  std::vector<std::uint64_t> chosen_at_;  // [sequence] the evictor's change_ then; 0 where nothing was chosen
};

/// Scratch memory that evictors may share, as one of them works at a time.
struct shared_workspace {
  memory bytes;
};

/// A policy with the memory that it needs for caches of one model: what Python calls an Evictor.
class evictor_object {
 public:
  evictor_object(policy_object const& policy, cache_view const& cache, int max_queries, int state_capacity,
                 backend::schedule schedule, std::shared_ptr<shared_workspace> workspace);

  using slots = std::optional<host_array>;

  std::int64_t evict(cache_view const& cache, window_view const& window, slots const& sequences, bool dry_run);
  void carry(cache_view const& cache, window_view const& window, slots const& sequences);
  memory score(cache_view const& cache, window_view const& window, slots const& sequences);
  /// [row][slot][statistic][group], of the window statistics that a judge reads
  memory observe(cache_view const& cache, window_view const& window, slots const& sequences);
  slot_lists select(cache_view const& cache, input_array const& scores, slots const& sequences);
  std::int64_t compact(cache_view const& cache, slot_lists const& lists, slots const& sequences);
  std::vector<std::int32_t> collect_due(cache_view const& cache);
  void append(cache_view const& cache, input_array const& counts);
  std::int64_t take_back(cache_view const& cache, input_array const& counts, slots const& sequences);

  void reset(slots const& sequences, slots const& request_ids, std::optional<std::vector<std::uint64_t>> const& seeds);
  void fork(std::vector<std::int32_t> const& sources, std::vector<std::int32_t> const& targets);
  [[nodiscard]] nb::bytes save(int sequence) const;
  void restore(int sequence, nb::bytes const& saved);
  /// Room for the statistics of rows of so many tokens; what the state holds stays, and has to fit.
  void resize_state(int tokens);

  /// [row][cache capacity], -1 behind a row's end
  [[nodiscard]] std::vector<std::int32_t> positions(cache_view const& cache) const;
  /// [row][cache capacity][carried statistic][group]
  [[nodiscard]] std::vector<float> carried(cache_view const& cache) const;
  [[nodiscard]] std::vector<std::int32_t> next_positions(cache_view const& cache) const;

  [[nodiscard]] policy_settings const& settings() const { return settings_; }
  [[nodiscard]] nb::object& function() { return settings_.scorer; }
  [[nodiscard]] policy_verbs const& verbs() const { return verbs_; }
  [[nodiscard]] fkv::row_state const& state() const { return state_; }

 private:
  /// Sequences of one call.
  struct visited {
    std::vector<std::int32_t> slots;
    std::int32_t const* list = nullptr;  // the same where verbs read them
    bool all = true;

    /// Of rows with so many tokens at most.
    [[nodiscard]] fkv::sequence_list of(fkv::cache_shape const& shape, int longest) const;
    template <class Body>
    void each(int sequences, Body const& body) const {
      for (int i = 0; i < (all ? sequences : static_cast<int>(slots.size())); ++i) body(all ? i : slots[as_size(i)]);
    }
  };

  [[nodiscard]] visited visit(slots const& sequences);
  [[nodiscard]] fkv::workspace scratch(std::size_t bytes);
  [[nodiscard]] policy_call call(cache_view const& cache, visited const& to, int max_queries);
  /// A library call, and what it has put on a stream; Python's other threads run meanwhile.
  template <class Call>
  void run(char const* verb, Call const& call) const;
  void expect_fit(cache_view const& cache) const;
  void expect_fit(cache_view const& cache, window_view const& window) const;
  /// What was selected before does not fit those sequences any more.
  void note_change(visited const& of);
  void expect_current(slot_lists const& lists, visited const& of) const;
  /// ValueError if the call flagged a sequence, whose flags are cleared then.
  void check_flags(char const* verb);
  /// The cache's lengths are what a call begins with: those of sequences that it does not cut stay.
  std::int32_t* begin_lengths(cache_view const& cache);
  /// How many tokens went by the lengths after a call; a cut that was made is written to the cache's own array.
  std::int64_t take_lengths(cache_view const& cache, bool made) const;
  /// The state as the host reads it: where it stands, or a copy in `buffer`.
  [[nodiscard]] fkv::row_state state_on_host(std::vector<std::byte>& buffer) const;
  /// A state that the host has made becomes the evictor's, in `columns`: there it is on the host already.
  void take_state(memory columns, fkv::row_state const& from);

  policy_settings settings_;
  policy_verbs verbs_;
  fkv::cache_shape shape_;
  backend::execution exec_;
  memory columns_;
  std::shared_ptr<shared_workspace> workspace_;
  fkv::row_state state_;
  memory new_lengths_, due_, slots_;
  std::vector<std::uint64_t> change_;  // [sequence] a number that no other change of any evictor has
};

}  // namespace FORESIGHTKV_PYTHON_BACKEND

void bind_evictor(nb::module_& into);

}  // namespace binding
