// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "policy.hpp"

namespace binding {

/// Lists of slots: what `select` gives and `compact` takes.
struct slot_lists {
  std::vector<std::int32_t> kept, evicted, evicted_count, evicted_positions;
  int capacity = 0;

  /// Evicted tokens of a row; IndexError where there is none.
  [[nodiscard]] std::int32_t count(int row) const;
  [[nodiscard]] std::vector<std::int32_t> of_row(std::vector<std::int32_t> const& list, int row, int entries) const;
  [[nodiscard]] fkv::selection view() {
    return {kept.data(), evicted.data(), evicted_count.data(), evicted_positions.data(), capacity};
  }
};

/// Scratch memory that evictors may share, as one of them works at a time.
struct shared_workspace {
  std::vector<std::byte> bytes;
};

/// A policy with the memory that it needs for caches of one model: what Python calls an Evictor.
class evictor_object {
 public:
  evictor_object(policy_object const& policy, cache_view const& cache, int max_queries, int state_capacity, int threads,
                 std::shared_ptr<shared_workspace> workspace);

  using slots = std::optional<input_array>;

  std::int64_t evict(cache_view const& cache, window_view const& window, slots const& sequences, bool dry_run);
  void carry(cache_view const& cache, window_view const& window, slots const& sequences);
  std::vector<float> score(cache_view const& cache, window_view const& window, slots const& sequences);
  /// [row][slot][statistic][group], of the window statistics that a judge reads
  std::vector<float> observe(cache_view const& cache, window_view const& window, slots const& sequences);
  slot_lists select(cache_view const& cache, input_array const& scores, slots const& sequences);
  std::int64_t compact(cache_view const& cache, slot_lists& lists, slots const& sequences);
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
    bool all = true;

    [[nodiscard]] fkv::sequence_list list(cache_view const& cache) const;
  };

  [[nodiscard]] visited visit(slots const& sequences) const;
  [[nodiscard]] policy_call call(cache_view const& cache, visited const& to, int max_queries);
  void expect_fit(cache_view const& cache) const;
  void expect_fit(cache_view const& cache, window_view const& window) const;
  /// ValueError if the call flagged a sequence, whose flags are cleared then.
  void check_flags(char const* verb);
  /// The cache's lengths are what a call begins with: those of sequences that it does not cut stay.
  std::int32_t* begin_lengths(cache_view const& cache);
  /// How many tokens went by the lengths after a call; a cut that was made is written to the cache's own array.
  std::int64_t take_lengths(cache_view const& cache, bool made) const;

  policy_settings settings_;
  policy_verbs verbs_;
  fkv::cache_shape shape_;
  std::vector<int> layers_;
  fkv::host_execution exec_;
  std::vector<std::byte> columns_;
  std::shared_ptr<shared_workspace> workspace_;
  fkv::row_state state_;
  std::vector<std::int32_t> new_lengths_;
};

void bind_evictor(nb::module_& module);

}  // namespace binding
