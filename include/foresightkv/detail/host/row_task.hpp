// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/host/copy_tokens.hpp>
#include <foresightkv/detail/host/observe.hpp>
#include <foresightkv/detail/host/parallel.hpp>
#include <foresightkv/detail/host/select.hpp>
#include <foresightkv/detail/host/visit.hpp>
#include <foresightkv/detail/newest_tokens.hpp>
#include <foresightkv/policy.hpp>
#include <foresightkv/selection.hpp>

namespace foresightkv::inline v0::detail::host {

/// Scratch of one thread: a row at a time passes through all stages while its keys are in cache.
template <class Policy>
struct row_scratch {
  using reads = typename Policy::reads;

  observe_scratch observe{};
  float* observed = nullptr;  // [slots][window statistics][group]
  float* carried = nullptr;   // [slots][carried statistics][group]
  float* scores = nullptr;
  float* temporary = nullptr;  // rows that row scorers and combinators borrow, `stride` floats each
  std::uint32_t* keys = nullptr;
  std::uint32_t* digits = nullptr;
  std::int32_t* kept = nullptr;
  std::int32_t* evicted = nullptr;
  std::size_t stride = 0;

  /// A borrowed row holds a value per slot, or one per dimension of a head.
  static std::size_t padded_row(cache_shape const& shape, std::size_t slots) {
    auto const keys = static_cast<std::size_t>(shape.key_head_dim);
    auto const values = static_cast<std::size_t>(shape.value_head_dim);
    std::size_t const dims = keys > values ? keys : values;
    return slots > dims ? slots : dims;
  }

  static row_scratch take(arena& memory, cache_shape const& shape, int max_length) {
    std::size_t const slots = padded_bound(max_length);
    auto const group = static_cast<std::size_t>(shape.group);
    row_scratch scratch;
    scratch.stride = padded_row(shape, slots);
    scratch.observe = observe_scratch::take(memory, shape, max_length, window_statistics<reads>::size);
    scratch.observed = memory.take<float>(slots * group * window_statistics<reads>::size);
    scratch.carried = memory.take<float>(slots * group * carried_statistics<reads>::size);
    scratch.scores = memory.take<float>(slots);
    scratch.temporary =
        memory.take<float>(scratch.stride * static_cast<std::size_t>(scratch_rows<typename Policy::scorer_type>()));
    scratch.keys = memory.take<std::uint32_t>(slots);
    scratch.digits = memory.take<std::uint32_t>(slots);
    scratch.kept = memory.take<std::int32_t>(slots);
    scratch.evicted = memory.take<std::int32_t>(slots);
    return scratch;
  }
};

/// The arrays of one call: the visited sequences, and a row_scratch per thread.
template <class Policy>
struct call_scratch {
  std::int32_t* sequences = nullptr;
  int threads = 1;
  arena per_thread;
  cache_shape shape{};
  int max_length = 0;

  static call_scratch take(arena& memory, host_execution exec, cache_shape const& shape, sequence_list const& list) {
    call_scratch scratch;
    scratch.sequences = memory.take<std::int32_t>(static_cast<std::size_t>(list.max_count));
    auto const rows = std::int64_t{list.max_count} * shape.num_layers * shape.num_kv_heads;
    scratch.threads = num_threads(exec, rows < most_threads ? static_cast<int>(rows) : most_threads);
    scratch.per_thread = memory;
    scratch.shape = shape;
    scratch.max_length = list.max_length;
    for (int thread = 0; thread < scratch.threads; ++thread)
      (void)row_scratch<Policy>::take(memory, shape, list.max_length);
    return scratch;
  }
  [[nodiscard]] row_scratch<Policy> of(int thread) const {
    arena memory = per_thread;
    row_scratch<Policy> scratch = row_scratch<Policy>::take(memory, shape, max_length);
    for (int i = 0; i < thread; ++i) scratch = row_scratch<Policy>::take(memory, shape, max_length);
    return scratch;
  }
};

/// One row on its way through the stages.
template <class Policy, class Cache>
struct row_task {
  using reads = typename Policy::reads;
  using window_list = window_statistics<reads>;
  using carried_list = carried_statistics<reads>;

  Policy const& rule;
  Cache const& cache;
  row_state const& state;
  row_index at;
  int row;
  int length;
  row_positions positions;

  row_task(Policy const& policy, Cache const& tokens, row_state const& columns, row_index where)
      : rule(policy),
        cache(tokens),
        state(columns),
        at(where),
        row(tokens.shape().row(where)),
        length(tokens.length(where)),
        positions(positions_of(columns, row)) {}

  [[nodiscard]] eviction_config config() const { return rule.config; }
  [[nodiscard]] int end() const { return positions.end(length); }
  [[nodiscard]] int occupied() const {
    if (positions.column == nullptr) return length;
    int count = 0;
    for (int slot = 0; slot < length; ++slot) count += positions.at(slot) >= 0;
    return count;
  }
  [[nodiscard]] int excess(int tokens) const { return tokens - rule.budget(config(), cache.shape(), at); }

  /// Window statistics of the row: observed into scratch, or found where they were observed before.
  template <class Query, log_base Base>
  float const* window_of(observation<Query, Base> const& window, row_scratch<Policy> const& scratch) const {
    if constexpr (window_list::size > 0)
      if (!observe_row<window_list>(cache, at, length, positions, window, scratch.observe, scratch.observed))
        set_flag(state, at.sequence, sequence_flag::not_finite);
    return scratch.observed;
  }
  template <class List>
  float const* window_of(observed<List> const& window, row_scratch<Policy> const&) const {
    static_assert(std::same_as<List, window_list>,
                  "foresightkv: observed statistics must be those that the policy reads: window_statistics<reads>");
    return window.statistics.data +
           static_cast<std::ptrdiff_t>(row) * window.statistics.capacity * List::size * state.group;
  }

  float const* carry(float const* observed, row_scratch<Policy> const& scratch) const {
    if constexpr (carried_list::size > 0)
      carry_row<window_list>(carried_list{}, length, cache.shape().group, observed, carried_of(state, row),
                             scratch.carried);
    return scratch.carried;
  }

  /// The state's carried columns as they stand; zero for tokens that it has not seen.
  void fetch_carried(float* out) const {
    row_carried const old = carried_of(state, row);
    auto const width = static_cast<std::ptrdiff_t>(old.width);
    int const stored = old.stored < length ? old.stored : length;
    for (std::ptrdiff_t i = 0; i < stored * width; ++i) out[i] = old.values[i];
    for (std::ptrdiff_t i = stored * width; i < length * width; ++i) out[i] = 0.0f;
  }

  /// Stores the columns of every token, none of which moves; the row fits the state.
  void settle(float const* carried) const {
    auto const width = static_cast<std::ptrdiff_t>(state.num_carried * state.group);
    for (int slot = 0; slot < length; ++slot) state.position[state.column(row, slot)] = positions.at(slot);
    for (std::ptrdiff_t i = 0; i < length * width; ++i) state.carried_at(row, 0)[i] = carried[i];
    state.next_position[row] = end();
    state.seen_length[row] = length;
  }

  template <class Window>
  [[gnu::noinline]] void score(Window const& window, float const* observed, float const* carried,
                               row_scratch<Policy> const& scratch, float* scores) const {
    auto view = view_row<reads>(cache, window, config(), state, at, length, positions);
    view.observed = observed;
    view.carried = carried;
    view.scratch_base = scratch.temporary;
    view.scratch_stride = scratch.stride;
    with_best_isa([&](auto isa) __attribute__((always_inline)) {
      evaluate(rule.scorer, host_block<decltype(isa)>{}, view, scores);
    });
  }

  /// Number of evicted tokens; the lists stand in scratch.
  int select(float const* scores, int tokens, row_scratch<Policy> const& scratch) const {
    int const unpinned =
        make_keys(scores, length, positions, config().sink_tokens, end() - config().recent(), scratch.keys);
    int const candidates = unpinned - protect_pinned(pins_of(state, at.sequence), length, positions, scratch.keys);
    int const wanted = excess(tokens);
    int const count = wanted < candidates ? wanted : candidates;
    if (wanted > candidates) set_flag(state, at.sequence, sequence_flag::over_budget);
    cache_shape const& shape = cache.shape();
    draw_source const source{
        state.seed[at.sequence], state.request_id[at.sequence],
        model_row(shape.model_layer(at.layer), shape.model_kv_heads(), shape.model_kv_head(at.kv_head)),
        state.step[row]};
    selection_row<row_positions> choice(scores, scratch.keys, scratch.digits, length, count, candidates, positions,
                                        source);
    if (count > 0) rule.selector(choice);
    emit_lists(scratch.keys, length, choice.lowest(), scratch.kept, scratch.evicted);
    return choice.evicted();
  }

  /// Leaves empty slots out of the kept list; returns its length.
  int skip_empty(std::int32_t* kept, int num_kept) const {
    if (positions.column == nullptr) return num_kept;
    int left = 0;
    for (int i = 0; i < num_kept; ++i) {
      kept[left] = kept[i];
      left += positions.at(kept[i]) >= 0;
    }
    return left;
  }

  /// Selects, writes the lists that the caller wants, and hands the counts to `then` if anything goes.
  template <class Then>
  void choose(float const* scores, selection const& lists, row_scratch<Policy> const& scratch, Then const& then) const {
    int const tokens = occupied();
    if (excess(tokens) <= 0) return keep_all(lists, scratch);
    int const num_evicted = select(scores, tokens, scratch);
    int const num_kept = skip_empty(scratch.kept, length - num_evicted);
    if (!can_store(num_kept)) return set_flag(state, at.sequence, sequence_flag::state_overflow);
    store_selection(lists, scratch.kept, num_kept, scratch.evicted, num_evicted);
    then(num_kept, num_evicted);
  }

  void keep_all(selection const& lists, row_scratch<Policy> const& scratch) const {
    for (int slot = 0; slot < length; ++slot) scratch.kept[slot] = slot;
    store_selection(lists, scratch.kept, skip_empty(scratch.kept, length), scratch.evicted, 0);
  }

  /// Whether the columns hold what a compaction leaves: a selector may evict fewer tokens than it was asked for.
  bool can_store(int num_kept) const { return !Policy::compaction_type::moves_tokens || num_kept <= state.capacity; }

  /// Tokens that stay by lists that the caller hands over, or kept_whole; and the length that this leaves.
  int kept(selection const& lists) const {
    int const num_evicted = lists.evicted_count[row];
    return num_evicted == 0 ? kept_whole : occupied() - num_evicted;
  }
  int length_after(int num_kept) const { return num_kept < 0 ? length : num_kept; }

  /// Whether lists that the caller hands over name slots of this row.
  bool fits(selection const& lists) const {
    int const num_evicted = lists.evicted_count[row];
    if (num_evicted == 0) return true;
    int const num_kept = occupied() - num_evicted;
    auto const base = lists.at(row);
    return num_evicted > 0 && num_kept >= 0 && can_store(num_kept) && ascending(lists.kept + base, num_kept) &&
           ascending(lists.evicted + base, num_evicted);
  }
  bool ascending(std::int32_t const* slots, int count) const {
    int previous = -1;
    bool sound = true;
    for (int i = 0; i < count; ++i) {
      sound = sound && slots[i] > previous && slots[i] < length;
      previous = slots[i];
    }
    return sound;
  }

  void compact(std::int32_t const* kept, int num_kept, std::int32_t const* evicted, int num_evicted,
               float const* carried) const {
    using compaction_type = typename Policy::compaction_type;
    compact_row(compaction_type{}, moving(carried), kept, num_kept, evicted, num_evicted);
    advance(compaction_type::moves_tokens ? num_kept : length);
  }
  /// Copies what stays to another cache, which the columns then describe. `num_kept` may be kept_whole.
  template <class Target>
  void move_into(Target const& target, std::int32_t const* kept, int num_kept, float const* carried) const {
    if (num_kept == kept_whole) return copy_tokens(cache, target, at, nullptr, length);
    copy_tokens(cache, target, at, kept, num_kept);
    auto const columns = moving(carried);
    for (int i = 0; i < num_kept; ++i) columns.move_columns(i, kept[i]);
    advance(num_kept);
  }

  /// How the row gives its newest tokens back, how many slots lose theirs, and how long the row is afterwards.
  [[nodiscard]] newest_tokens newest(int count) const {
    return newest_of(state, row, count, length, !Policy::compaction_type::moves_tokens);
  }
  [[nodiscard]] int num_leaving(newest_tokens const& newest) const {
    int count = 0;
    for (int slot = 0; slot < newest.columns; ++slot) count += positions.at(slot) >= newest.limit;
    return count;
  }
  [[nodiscard]] int length_without(newest_tokens const& newest) const {
    return newest.length - (Policy::compaction_type::moves_tokens ? num_leaving(newest) : 0);
  }
  /// The first slot that takes another token; negative if none does.
  [[nodiscard]] int first_hole(newest_tokens const& newest) const {
    int const end = newest.columns == 0 ? 0 : length_without(newest);
    for (int slot = 0; slot < end; ++slot)
      if (positions.at(slot) >= newest.limit) return slot;
    return -1;
  }
  /// Takes them back. A row in time order loses its end, so that every compaction that moves tokens may fill holes.
  void take_back(newest_tokens const& newest, int new_length, row_scratch<Policy> const& scratch) const {
    if (!Policy::compaction_type::moves_tokens && newest.columns > 0) {
      empty_newest(one_lane{}, state, row, length, newest.limit);
    } else if (new_length < newest.columns) {
      int kept = 0;
      for (int slot = 0; slot < newest.columns; ++slot)
        if (positions.at(slot) < newest.limit) scratch.kept[kept++] = slot;
      fetch_carried(scratch.carried);
      compact_row(fill_holes{}, moving(scratch.carried), scratch.kept, kept, nullptr, 0);
    }
    settle_newest(state, row, newest, new_length);
  }

  void store_length(std::int32_t* new_lengths, int new_length, length_domain domain = Cache::domain) const {
    // Rows of one domain agree, so one of them writes.
    bool const first_layer = at.layer == 0 || domain != length_domain::sequence;
    bool const first_head = at.kv_head == 0 || domain == length_domain::row;
    if (new_lengths != nullptr && first_layer && first_head)
      new_lengths[length_index(domain, cache.shape(), at)] = new_length;
  }

  void store_selection(selection const& lists, std::int32_t const* kept, int num_kept, std::int32_t const* evicted,
                       int num_evicted) const {
    auto const base = lists.at(row);
    if (lists.kept != nullptr) std::memcpy(lists.kept + base, kept, sizeof(*kept) * static_cast<std::size_t>(num_kept));
    if (lists.evicted != nullptr)
      std::memcpy(lists.evicted + base, evicted, sizeof(*evicted) * static_cast<std::size_t>(num_evicted));
    if (lists.evicted_positions != nullptr)
      for (int i = 0; i < num_evicted; ++i)
        lists.evicted_positions[base + static_cast<std::size_t>(i)] = positions.at(evicted[i]);
    if (lists.evicted_count != nullptr) lists.evicted_count[row] = num_evicted;
  }

 private:
  [[nodiscard]] moving_row<Cache> moving(float const* carried) const {
    return {&cache,
            at,
            positions,
            carried,
            state.num_carried * state.group,
            state.position + state.column(row, 0),
            state.num_carried > 0 ? state.carried_at(row, 0) : nullptr};
  }
  void advance(int new_length) const {
    state.next_position[row] = end();
    state.seen_length[row] = new_length;
    ++state.step[row];
  }
};

}  // namespace foresightkv::inline v0::detail::host
