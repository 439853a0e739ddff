// SPDX-License-Identifier: Apache-2.0
#pragma once

// The one place where the driver calls the library.

#include <vector>

#include "driver/memory.hpp"

namespace driver {

using testing::exec;

/// What `restore` says of bytes that do not fit: a device flags what the host refuses.
inline constexpr bool refuses_by_flag = !testing::reads_device_data;

/// The verbs of some policy on some cache. A window that is null stands for the statistics that were observed
/// before.
class library {
 public:
  virtual ~library() = default;

  [[nodiscard]] virtual fkv::row_state const& state() const = 0;
  [[nodiscard]] virtual bool intact() const = 0;
  /// Another state of another capacity, with every sequence saved from the old one and restored to it.
  virtual fkv::status move_state(int capacity) = 0;

  virtual fkv::status observe(list_memory const& list, window_memory const& window, bool stateless) = 0;
  virtual fkv::status carry(list_memory const& list, window_memory const* window) = 0;
  virtual fkv::status score(list_memory const& list, window_memory const* window) = 0;
  virtual fkv::status select(list_memory const& list) = 0;
  virtual fkv::status compact(list_memory const& list) = 0;
  virtual fkv::status evict(list_memory const& list, window_memory const* window, wanted_lists wanted,
                            bool dry_run) = 0;
  virtual fkv::status evict_into(list_memory const& list, window_memory const* window, wanted_lists wanted,
                                 bool dry_run) = 0;
  virtual fkv::status collect_due(list_memory const& list) = 0;
  virtual fkv::status append(list_memory const& list, guarded<std::int32_t> const& counts) = 0;
  virtual fkv::status take_back(list_memory const& list, guarded<std::int32_t> const& counts) = 0;
  virtual fkv::status fork(guarded<std::int32_t> const& sources, guarded<std::int32_t> const& targets,
                           bool scratch) = 0;
  virtual fkv::status reset(list_memory const& list, std::uint32_t const* request_ids, std::uint64_t const* seeds) = 0;
  virtual fkv::status save(int sequence, guarded<std::byte>& bytes) = 0;
  virtual fkv::status restore(int sequence, guarded<std::byte>& bytes, std::size_t size) = 0;
};

/// Setup: policy_type, cache_type, query_type, base, and whether its scorer needs_queries.
template <class Setup>
class library_of final : public library {
 public:
  using policy_type = typename Setup::policy_type;
  using cache_type = typename Setup::cache_type;
  using element_type = typename cache_type::key_element;
  using window_list = fkv::window_statistics<typename policy_type::reads>;

  library_of(memory& arrays, policy_type const& policy)
      : arrays_(arrays), policy_(policy), state_(arrays.shape, arrays.room.state) {}

  [[nodiscard]] fkv::row_state const& state() const override { return state_.view; }
  [[nodiscard]] bool intact() const override { return state_.intact(); }

  fkv::status move_state(int capacity) override {
    testing::owned_state<policy_type> moved(arrays_.shape, capacity);
    guarded<std::byte> bytes(fkv::save_bytes(state_.view));
    fkv::status done;
    for (int sequence = 0; sequence < arrays_.shape.num_sequences && done.ok(); ++sequence) {
      done = fkv::save(exec, state_.view, sequence, {bytes.data(), bytes.size()});
      if (done.ok()) done = fkv::restore(exec, moved.view, sequence, {bytes.data(), bytes.size()});
    }
    arrays_.room.state = capacity;
    state_ = std::move(moved);
    return done;
  }

  fkv::status observe(list_memory const& list, window_memory const& window, bool stateless) override {
    auto const bytes = fkv::observe_bytes<window_list>(exec, arrays_.shape, list.view(), window.max_queries);
    testing::owned_workspace work(bytes);
    fkv::row_state const known = stateless ? fkv::row_state{} : state_.view;
    auto const done = fkv::observe(exec, cache(), list.view(), view(window), known, statistics(), work.view());
    return finish(done, work);
  }
  fkv::status carry(list_memory const& list, window_memory const* window) override {
    return with(window, list, [&](auto const& seen, auto scratch) {
      return fkv::carry(exec, fkv::batch{policy_, cache(), list.view(), pinned_state(), scratch}, seen);
    });
  }
  fkv::status score(list_memory const& list, window_memory const* window) override {
    return with(window, list, [&](auto const& seen, auto scratch) {
      return fkv::score(exec, fkv::batch{policy_, cache(), list.view(), pinned_state(), scratch}, seen, scores());
    });
  }
  fkv::status select(list_memory const& list) override {
    auto work = work_for(list, 0);
    return finish(
        fkv::select(exec, fkv::batch{policy_, cache(), list.view(), pinned_state(), work.view()}, scores(), lists()),
        work);
  }
  fkv::status compact(list_memory const& list) override {
    auto work = work_for(list, 0);
    auto const done = fkv::compact(exec, fkv::batch{policy_, cache(), list.view(), pinned_state(), work.view()},
                                   lists(), arrays_.new_lengths.data());
    return finish(done, work);
  }
  fkv::status evict(list_memory const& list, window_memory const* window, wanted_lists wanted, bool dry_run) override {
    return with(window, list, [&](auto const& seen, auto scratch) {
      return fkv::evict(exec, fkv::batch{policy_, cache(), list.view(), pinned_state(), scratch}, seen,
                        output(wanted, dry_run));
    });
  }
  fkv::status evict_into(list_memory const& list, window_memory const* window, wanted_lists wanted,
                         bool dry_run) override {
    if constexpr (Setup::has_target)
      return with(window, list, [&](auto const& seen, auto) {
        testing::owned_workspace work(fkv::evict_into_bytes(exec, policy_type{}, arrays_.shape, list.view(),
                                                            window == nullptr ? 0 : window->max_queries));
        fkv::batch const rows{policy_, cache(), list.view(), pinned_state(), work.view()};
        return finish(fkv::evict(exec, rows.into(target()), seen, output(wanted, dry_run)), work);
      });
    return {fkv::errc::unsupported};
  }
  fkv::status collect_due(list_memory const& list) override {
    return fkv::collect_due(exec, fkv::batch{policy_, cache(), list.view(), pinned_state()}, arrays_.due_slots.data(),
                            arrays_.due_count.data());
  }
  fkv::status append(list_memory const& list, guarded<std::int32_t> const& counts) override {
    return fkv::append(exec, fkv::batch{policy_, cache(), list.view(), pinned_state()}, counts.data());
  }
  fkv::status take_back(list_memory const& list, guarded<std::int32_t> const& counts) override {
    auto work = work_for(list, 0);
    fkv::batch const rows{policy_, cache(), list.view(), pinned_state(), work.view()};
    return finish(fkv::take_back(exec, rows, counts.data(), arrays_.new_lengths.data()), work);
  }
  fkv::status fork(guarded<std::int32_t> const& sources, guarded<std::int32_t> const& targets, bool scratch) override {
    int const count = static_cast<int>(sources.size());
    testing::owned_workspace work(scratch ? fkv::fork_bytes(state_.view, count) : 0);
    fkv::fork_list const pairs{sources.data(), targets.data(), count};
    return finish(scratch ? fkv::fork(exec, state_.view, pairs, work.view()) : fkv::fork(exec, state_.view, pairs),
                  work);
  }
  fkv::status reset(list_memory const& list, std::uint32_t const* request_ids, std::uint64_t const* seeds) override {
    return fkv::reset(exec, state_.view, list.view(), request_ids, seeds);
  }
  fkv::status save(int sequence, guarded<std::byte>& bytes) override {
    bytes = guarded<std::byte>(fkv::save_bytes(state_.view),
                               1);  // one byte off: the format asks for no alignment
    return fkv::save(exec, state_.view, sequence, {bytes.data(), bytes.size()});
  }
  fkv::status restore(int sequence, guarded<std::byte>& bytes, std::size_t size) override {
    return fkv::restore(exec, state_.view, sequence, {bytes.data(), size});
  }

 private:
  static element_type* elements(std::byte* bytes) { return reinterpret_cast<element_type*>(bytes); }

  [[nodiscard]] fkv::eviction_state<policy_type> pinned_state() {
    return arrays_.pinned_words == 0 ? state_.view
                                     : state_.view.with_pinned(arrays_.pinned.data(), arrays_.pinned_words);
  }
  [[nodiscard]] cache_type cache() {
    return cache_of(arrays_.keys, arrays_.values, arrays_.table, arrays_.lengths, parts_);
  }
  [[nodiscard]] cache_type target() {
    return cache_of(arrays_.target_keys, arrays_.target_values, arrays_.target_table, arrays_.rooms, target_parts_);
  }
  /// What a view of a cache has beside its arrays.
  struct cache_parts {
    std::vector<element_type*> keys, values;               // layer by layer
    guarded<std::int32_t> indices, indptr, last_page_len;  // FlashInfer's
  };
  [[nodiscard]] cache_type cache_of(token_array& key_array, token_array& value_array, guarded<std::int32_t>& table,
                                    guarded<std::int32_t>& of_rows, cache_parts& parts) {
    auto* const keys = elements(key_array.bytes.data());
    auto* const values = elements(value_array.bytes.data());
    auto* const lengths = of_rows.data();
    auto const laid_out = [&](auto const& by_token, auto const& by_head) {
      auto const& order = key_array.order == layout::nhd ? by_token : by_head;
      if constexpr (Setup::paged) {
        page_map const& map = key_array.map;
        return order(keys, values, {map.num_pages, map.page_size},
                     fkv::page_table::per_sequence(table.data(), map.row_pages, map.num_pages), lengths, arrays_.shape);
      } else {
        return order(keys, values, lengths, arrays_.shape);
      }
    };
    auto made = laid_out(cache_type::nhd, cache_type::hnd);
    if constexpr (Setup::paged) made = joint(made, key_array, values, table, of_rows, parts);
    if (key_array.order == layout::layer_pointers) {
      parts.keys.clear();
      parts.values.clear();
      for (int layer = 0; layer < arrays_.shape.num_layers; ++layer) {
        parts.keys.push_back(elements(key_array.layer(layer)));
        parts.values.push_back(elements(value_array.layer(layer)));
      }
      made = made.with_layers(parts.keys.data(), parts.values.data());
    }
    if constexpr (Setup::scaled) made = made.with_scales(arrays_.key_scales.data(), arrays_.value_scales.data());
    return made;
  }

  /// Where pages stand as an engine has them. Values stand in such a tensor too, but one of their own.
  [[nodiscard]] cache_type joint(cache_type made, token_array& array, element_type* values,
                                 guarded<std::int32_t> const& table, guarded<std::int32_t> const& lengths,
                                 cache_parts& parts) const {
    page_map const& map = array.map;
    fkv::page_pool const pool{map.num_pages, map.page_size};
    auto* const keys = elements(array.bytes.data());
    if (map.kind == convention::vllm)
      made = cache_type::vllm(keys, pool, table.data(), map.row_pages, lengths.data(), arrays_.shape);
    if (map.kind == convention::tensorrt_llm)
      made = cache_type::tensorrt_llm(keys, pool, table.data(), map.row_pages, lengths.data(), arrays_.shape);
    if (map.kind == convention::flashinfer) {
      make_ragged(map, table, lengths, parts);
      auto const& order = array.order == layout::nhd ? cache_type::flashinfer_nhd : cache_type::flashinfer_hnd;
      made = order(keys, pool, parts.indices.data(), parts.indptr.data(), parts.last_page_len.data(), arrays_.shape);
    }
    if (map.kind != convention::pools) made.value_data = values + (made.value_data - keys);
    return made;
  }
  /// Tables one behind the other, which say how long sequences are. Of a length that none can have, a last page that is
  /// too full.
  void make_ragged(page_map const& map, guarded<std::int32_t> const& table, guarded<std::int32_t> const& lengths,
                   cache_parts& parts) const {
    std::vector<std::int32_t> indices, indptr{0}, last;
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      bool const sound = lengths[s] >= 0 && lengths[s] <= arrays_.shape.capacity;
      int const pages = sound ? (lengths[s] + map.page_size - 1) / map.page_size : 1;
      for (int i = 0; i < pages; ++i)
        indices.push_back(table[s * static_cast<std::size_t>(map.row_pages) + static_cast<std::size_t>(i)]);
      indptr.push_back(static_cast<std::int32_t>(indices.size()));
      last.push_back(sound ? lengths[s] - (pages - 1) * map.page_size : map.page_size + 1);
    }
    if (indices.empty()) indices.push_back(-1);
    parts.indices = guarded<std::int32_t>(indices);
    parts.indptr = guarded<std::int32_t>(indptr);
    parts.last_page_len = guarded<std::int32_t>(last);
  }

  [[nodiscard]] auto view(window_memory const& window) const {
    using query_type = typename Setup::query_type;
    using view_type = fkv::observation<query_type, Setup::base>;
    auto const* const queries = reinterpret_cast<query_type const*>(window.queries.data());
    auto made = window.packed       ? view_type::packed(queries, window.query_starts.data(), arrays_.shape,
                                                        window.total_queries, window.max_queries)
                : window.head_first ? view_type::hnd(queries, arrays_.shape, window.max_queries)
                                    : view_type::nhd(queries, arrays_.shape, window.max_queries);
    if (window.has_lse) made = made.with_lse(window.lse.data());
    if (window.has_sinks) made.sink_logits = window.sinks.data();
    if (window.has_count) made.query_count = window.query_count.data();
    if (window.has_end) made.window_end = window.window_end.data();
    if (window.has_first) made.first_position = window.first_position.data();
    made.softmax_scale = window.scale;
    made.soft_cap = window.soft_cap;
    made.continues = window.continues;
    return made;
  }
  [[nodiscard]] fkv::statistics_view<window_list> statistics() {
    return {arrays_.statistics.data(), arrays_.room.statistics};
  }
  [[nodiscard]] fkv::score_view scores() { return {arrays_.scores.data(), arrays_.room.scores}; }
  [[nodiscard]] fkv::selection lists() {
    return {arrays_.kept.data(), arrays_.evicted.data(), arrays_.evicted_count.data(), arrays_.evicted_positions.data(),
            arrays_.room.lists};
  }
  [[nodiscard]] fkv::eviction_output output(wanted_lists wanted, bool dry_run) {
    fkv::selection shown = wanted == wanted_lists::none ? fkv::selection{} : lists();
    if (wanted == wanted_lists::evicted) shown.kept = shown.evicted_positions = nullptr;
    return {arrays_.new_lengths.data(), shown, dry_run};
  }
  [[nodiscard]] testing::owned_workspace work_for(list_memory const& list, int max_queries) const {
    return testing::owned_workspace(fkv::evict_bytes(exec, policy_type{}, arrays_.shape, list.view(), max_queries));
  }

  /// A verb on queries, or on the statistics that were observed before.
  template <class Verb>
  fkv::status with(window_memory const* window, list_memory const& list, Verb const& verb) {
    auto work = work_for(list, window == nullptr ? 0 : window->max_queries);
    if constexpr (!Setup::needs_queries)
      if (window == nullptr) return finish(verb(fkv::observed<window_list>{statistics()}, work.view()), work);
    return finish(verb(view(*window), work.view()), work);
  }
  /// A workspace of exactly the bytes that were asked for: writing beyond it is an error too.
  static fkv::status finish(fkv::status done, testing::owned_workspace const& work) {
    return work.memory.intact() ? done : fkv::status{fkv::errc::overlap};
  }

  memory& arrays_;
  policy_type policy_;
  testing::owned_state<policy_type> state_;
  cache_parts parts_, target_parts_;
};

}  // namespace driver
