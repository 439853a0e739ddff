// SPDX-License-Identifier: Apache-2.0
#include "evictor.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "calls.hpp"

namespace binding {
namespace {

using window_list = fkv::window_statistics<python_reads>;
constexpr char const* window_names[] = {"maximum", "minimum", "sum", "last_16", "last_8", "last_32"};
static_assert(
    std::is_same_v<window_list,
                   fkv::statistics<fkv::maximum, fkv::minimum, fkv::sum, fkv::last<16>, fkv::last<8>, fkv::last<32>>>);
constexpr char const* carried_names[] = {"accumulated", "decayed"};

template <class Visit>
void for_each_row(fkv::cache_shape const& shape, Visit const& visit) {
  fkv::row_index at;
  for (at.layer = 0; at.layer < shape.num_layers; ++at.layer)
    for (at.sequence = 0; at.sequence < shape.num_sequences; ++at.sequence)
      for (at.kv_head = 0; at.kv_head < shape.num_kv_heads; ++at.kv_head) visit(at, shape.row(at));
}

std::vector<std::size_t> row_extents(fkv::cache_shape const& shape) {
  return {as_size(shape.num_layers), as_size(shape.num_sequences), as_size(shape.num_kv_heads)};
}

/// [layer][sequence][kv_head] and what follows.
std::vector<std::size_t> row_extents(fkv::cache_shape const& shape, std::vector<std::size_t> const& rest) {
  auto extents = row_extents(shape);
  extents.insert(extents.end(), rest.begin(), rest.end());
  return extents;
}

template <class Element>
auto rows_to_numpy(fkv::cache_shape const& shape, std::vector<Element>&& values, std::vector<std::size_t> const& rest) {
  return to_numpy(std::move(values), row_extents(shape, rest));
}

/// Parts of whole[row][slot][name][group] as one array for each name, all over the same memory.
template <class Array, class Names>
nb::dict by_name(Array const& whole, Names const& names, int count) {
  nb::dict made;
  std::vector<std::size_t> extents;
  std::vector<std::int64_t> strides;
  for (std::size_t dim = 0; dim < whole.ndim(); ++dim) {
    if (dim + 2 == whole.ndim()) continue;
    extents.push_back(whole.shape(dim));
    strides.push_back(whole.stride(dim));
  }
  auto const owner = nb::cast(whole);
  for (int i = 0; i < count; ++i)
    made[names[i]] = Array(whole.data() + i * whole.stride(whole.ndim() - 2), extents.size(), extents.data(), owner,
                           strides.data(), whole.dtype(), whole.device_type(), whole.device_id());
  return made;
}

/// Of a state's buffer what its columns fill: they begin with the positions, wherever the buffer does.
std::size_t bytes_of_columns(std::size_t buffer) { return buffer - (fkv::detail::arena::alignment - 1); }

/// What Python bound; TypeError for anything else, also for what the module of another backend has bound.
template <class View>
View const& bound(nb::handle given, char const* name) {
  View const* found = nullptr;
  if (nb::try_cast(given, found) && found != nullptr) return *found;
  std::string const text = std::string(name) + ": must be over " + backend::memory_name + ", is " +
                           nb::cast<std::string>(nb::str(nb::type_name(given.type())));
  throw nb::type_error(text.c_str());
}

nb::object& function_of(evictor_object& evictor) { return evictor.function(); }

}  // namespace

slot_lists::slot_lists(backend::execution const& exec, fkv::cache_shape const& shape)
    : exec_(exec), rows_(shape.num_rows()), capacity_(shape.capacity) {
  auto const entries = as_size(rows_) * as_size(capacity_);
  for (memory* const list : {&kept_, &evicted_, &evicted_positions_}) {
    *list = memory_of<std::int32_t>(entries);
    backend::fill(exec_, list->view().data, 0xff, list->size());  // -1
  }
  evicted_count_ = memory_of<std::int32_t>(as_size(rows_));
}

void slot_lists::expect_row(int row) const {
  if (row < 0 || row >= rows_) throw nb::index_error(("Lists: no row " + std::to_string(row)).c_str());
}

int slot_lists::count(int row) const {
  expect_row(row);
  return host_values(exec_, evicted_count_.elements<std::int32_t const>() + row, 1)[0];
}

std::vector<std::int32_t> slot_lists::of_row(memory const& list, int row, int entries) const {
  host_values const values(exec_, list.elements<std::int32_t const>() + std::int64_t{row} * capacity_,
                           as_size(entries));
  return {values.begin(), values.end()};
}

std::vector<std::int32_t> slot_lists::counts() const {
  host_values const values(exec_, evicted_count_.elements<std::int32_t const>(), as_size(rows_));
  return {values.begin(), values.end()};
}

std::vector<std::int32_t> slot_lists::kept(int row) const {
  expect_row(row);
  auto kept = of_row(kept_, row, capacity_);
  kept.erase(std::find(kept.begin(), kept.end(), -1), kept.end());
  return kept;
}

std::vector<std::int32_t> slot_lists::evicted(int row) const { return of_row(evicted_, row, count(row)); }

std::vector<std::int32_t> slot_lists::evicted_positions(int row) const {
  return of_row(evicted_positions_, row, count(row));
}

evictor_object::evictor_object(policy_object const& policy, cache_view const& cache, int max_queries,
                               int state_capacity, backend::schedule schedule,
                               std::shared_ptr<shared_workspace> workspace)
    : settings_(policy.settings),
      verbs_(policy.verbs),
      shape_(cache.shape()),
      exec_(backend::on(schedule)),
      workspace_(workspace ? std::move(workspace) : std::make_shared<shared_workspace>()),
      change_(as_size(shape_.num_sequences)) {
  shape_.layers = nullptr;  // the cache may go
  if (settings_.judge)
    for (int layer = 0; layer < shape_.num_layers; ++layer)
      if (!std::ranges::binary_search(settings_.judged_layers, cache.model_layer(layer)))
        refuse("Evictor: the judge has no weights for layer " + std::to_string(cache.model_layer(layer)));
  if (max_queries < 0 || state_capacity < 0) refuse("Evictor: counts must not be negative");
  if (settings_.judge && !backend::is_host) {
    memory copy;
    (void)given<float>(exec_, settings_.judge->floats(), copy);
    settings_.judge_copy = std::make_shared<memory const>(std::move(copy));
  }
  int const capacity = state_capacity > 0 ? state_capacity : std::max(shape_.capacity, settings_.config.budget);
  columns_ = memory(verbs_.state_bytes(shape_, capacity));
  state_ = verbs_.make_state(shape_, capacity, columns_.view());
  new_lengths_ = memory_of<std::int32_t>(as_size(shape_.num_sequences));
  due_ = memory_of<std::int32_t>(as_size(shape_.num_sequences) + 1);
  (void)call(cache, {}, max_queries);
  reset({}, {}, {});
}

fkv::sequence_list evictor_object::visited::of(fkv::cache_shape const& shape, int longest) const {
  if (all) return {nullptr, nullptr, shape.num_sequences, longest};
  return {list, nullptr, static_cast<int>(slots.size()), longest};
}

evictor_object::visited evictor_object::visit(slots const& sequences) {
  visited made;
  if (!sequences) return made;
  auto const values = expect(describe(*sequences), "sequences", dtype_of<std::int32_t>, {-1});
  auto const* const first = values.elements<std::int32_t>();
  made.all = false;
  made.slots.assign(first, first + values.extents[0]);
  for (std::int32_t const slot : made.slots)
    if (slot < 0 || slot >= shape_.num_sequences) refuse("sequences: no sequence " + std::to_string(slot));
  made.list = given<std::int32_t>(exec_, made.slots, slots_);
  return made;
}

void evictor_object::note_change(visited const& of) {
  static std::atomic<std::uint64_t> changes{0};
  of.each(shape_.num_sequences, [&](int sequence) { change_[as_size(sequence)] = ++changes; });
}

void evictor_object::expect_current(slot_lists const& lists, visited const& of) const {
  of.each(shape_.num_sequences, [&](int sequence) {
    std::uint64_t const then = lists.chosen_at_[as_size(sequence)];
    if (then != 0 && then != change_[as_size(sequence)])
      refuse("compact: sequence " + std::to_string(sequence) + " has changed since its tokens were selected");
  });
}

fkv::workspace evictor_object::scratch(std::size_t bytes) {
  auto& memory_of_all = workspace_->bytes;
  if (memory_of_all.size() < bytes) memory_of_all = memory(bytes);
  return memory_of_all.view();
}

template <class Call>
void evictor_object::run(char const* verb, Call const& call) const {
  call_library(verb, [&] {
    fkv::status const done = call();
    if (done.ok()) backend::wait(exec_);
    return done;
  });
}

policy_call evictor_object::call(cache_view const& cache, visited const& to, int max_queries) {
  auto const& shape = cache.shape();
  auto const bytes = verbs_.evict_bytes(exec_, shape, visited{}.of(shape, shape.capacity), max_queries);
  return {settings_, cache.cache, to.of(shape, shape.capacity), state_, scratch(bytes), exec_};
}

void evictor_object::expect_fit(cache_view const& cache) const {
  auto const& shape = cache.shape();
  if (shape.num_layers != shape_.num_layers || shape.num_sequences != shape_.num_sequences ||
      shape.num_kv_heads != shape_.num_kv_heads || shape.group != shape_.group)
    refuse("cache: layers, sequences, heads and group must be those that the Evictor was made for");
}

void evictor_object::expect_fit(cache_view const& cache, window_view const& window) const {
  expect_fit(cache);
  auto const &tokens = cache.shape(), &queries = window.shape;
  bool const same_type = window.window.index() == cache.cache.index() % std::variant_size_v<any_window>;
  if (!same_type) refuse("window: its queries must be of the cache's element type");
  if (tokens.num_layers != queries.num_layers || tokens.num_sequences != queries.num_sequences ||
      tokens.num_kv_heads != queries.num_kv_heads || tokens.group != queries.group ||
      tokens.key_head_dim != queries.key_head_dim)
    refuse("window: layers, sequences, heads, group and head_dim must be the cache's");
  window.check(exec_);
}

void evictor_object::check_flags(char const* verb) {
  auto const sequences = as_size(shape_.num_sequences);
  host_values const flags(exec_, state_.flags, sequences);
  auto const* const found = std::find_if(flags.data(), flags.data() + sequences, [](auto bits) { return bits != 0; });
  if (found == flags.data() + sequences) return;
  std::string const problem = std::string(verb) + ": sequence " + std::to_string(found - flags.data()) + ": " +
                              fkv::message(fkv::sequence_flag{*found & (0u - *found)});
  backend::fill(exec_, state_.flags, 0, sequences * sizeof(std::uint32_t));
  refuse(problem);
}

std::int32_t* evictor_object::begin_lengths(cache_view const& cache) {
  auto* const lengths = new_lengths_.elements<std::int32_t>();
  backend::copy(exec_, lengths, cache.lengths, new_lengths_.size());
  return lengths;
}

std::int64_t evictor_object::take_lengths(cache_view const& cache, bool made) const {
  auto const sequences = as_size(shape_.num_sequences);
  host_values const before(exec_, cache.lengths, sequences);
  host_values const after(exec_, new_lengths_.elements<std::int32_t const>(), sequences);
  std::int64_t evicted = 0;
  for (std::size_t sequence = 0; sequence < sequences; ++sequence) evicted += before[sequence] - after[sequence];
  if (made) backend::copy(exec_, cache.lengths, new_lengths_.elements<std::int32_t>(), new_lengths_.size());
  return evicted;
}

std::int64_t evictor_object::evict(cache_view const& cache, window_view const& window, slots const& sequences,
                                   bool dry_run) {
  expect_fit(cache, window);
  visited const to = visit(sequences);
  fkv::eviction_output const output{.new_lengths = begin_lengths(cache), .dry_run = dry_run};
  auto const with = call(cache, to, window.max_queries());
  run("evict", [&] { return verbs_.evict(with, window.window, output); });
  std::int64_t const evicted = take_lengths(cache, !dry_run);
  if (!dry_run) note_change(to);
  check_flags("evict");
  return evicted;
}

void evictor_object::carry(cache_view const& cache, window_view const& window, slots const& sequences) {
  expect_fit(cache, window);
  visited const to = visit(sequences);
  host_values const lengths(exec_, cache.lengths, as_size(shape_.num_sequences));
  int const longest = *std::max_element(lengths.begin(), lengths.end());
  if (longest > state_.capacity && longest <= cache.shape().capacity) resize_state(longest);
  auto const with = call(cache, to, window.max_queries());
  run("carry", [&] { return verbs_.carry(with, window.window); });
  check_flags("carry");
}

memory evictor_object::score(cache_view const& cache, window_view const& window, slots const& sequences) {
  if (verbs_.score == nullptr) refuse("score: the policy's scorer is a function; evict calls it");
  expect_fit(cache, window);
  visited const to = visit(sequences);
  int const capacity = cache.shape().capacity;
  auto scores = memory_of<float>(as_size(shape_.num_rows()) * as_size(capacity));
  auto const with = call(cache, to, window.max_queries());
  run("score", [&] { return verbs_.score(with, window.window, {scores.elements<float>(), capacity}); });
  check_flags("score");
  return scores;
}

memory evictor_object::observe(cache_view const& cache, window_view const& window, slots const& sequences) {
  expect_fit(cache, window);
  visited const to = visit(sequences);
  auto const& shape = cache.shape();
  auto const list = to.of(shape, shape.capacity);
  auto statistics =
      memory_of<float>(as_size(shape.num_rows()) * as_size(shape.capacity) * as_size(window_list::size * shape.group));
  auto const memory_of_call = scratch(fkv::observe_bytes<window_list>(exec_, shape, list, window.max_queries()));
  fkv::statistics_view<window_list> const out{statistics.elements<float>(), shape.capacity};
  run("observe", [&] {
    return std::visit(
        [&](auto const& tokens) -> fkv::status {
          using element = typename std::remove_cvref_t<decltype(tokens)>::key_element;
          return fkv::observe(exec_, tokens, list, std::get<window_of<element>>(window.window), state_, out,
                              memory_of_call);
        },
        cache.cache);
  });
  check_flags("observe");
  return statistics;
}

slot_lists evictor_object::select(cache_view const& cache, input_array const& scores, slots const& sequences) {
  visited const to = visit(sequences);
  auto const& shape = cache.shape();
  auto const values = expect(describe(scores), "scores", dtype_of<float>,
                             {shape.num_layers, shape.num_sequences, shape.num_kv_heads, shape.capacity});
  slot_lists lists(exec_, shape);
  auto const with = call(cache, to, 0);
  run("select", [&] { return verbs_.select(with, {values.elements<float>(), shape.capacity}, lists.view()); });
  lists.chosen_at_.resize(as_size(shape.num_sequences));
  to.each(shape.num_sequences, [&](int s) { lists.chosen_at_[as_size(s)] = change_[as_size(s)]; });
  check_flags("select");
  return lists;
}

std::int64_t evictor_object::compact(cache_view const& cache, slot_lists const& lists, slots const& sequences) {
  expect_fit(cache);
  visited const to = visit(sequences);
  if (lists.rows() != shape_.num_rows()) refuse("compact: lists of another cache");
  expect_current(lists, to);
  std::int32_t* const lengths = begin_lengths(cache);
  auto const with = call(cache, to, 0);
  run("compact", [&] { return verbs_.compact(with, lists.view(), lengths); });
  std::int64_t const evicted = take_lengths(cache, true);
  note_change(to);
  check_flags("compact");
  return evicted;
}

std::vector<std::int32_t> evictor_object::collect_due(cache_view const& cache) {
  auto const sequences = as_size(shape_.num_sequences);
  auto* const due = due_.elements<std::int32_t>();
  auto const with = call(cache, {}, 0);
  run("collect_due", [&] { return verbs_.collect_due(with, due, due + sequences); });
  check_flags("collect_due");
  host_values const found(exec_, due, sequences + 1);
  return {found.begin(), found.begin() + found[sequences]};
}

void evictor_object::append(cache_view const& cache, input_array const& counts) {
  auto const values = expect(describe(counts), "counts", dtype_of<std::int32_t>, {shape_.num_sequences});
  auto const with = call(cache, {}, 0);
  run("append", [&] { return verbs_.append(with, values.elements<std::int32_t>()); });
  check_flags("append");
}

std::int64_t evictor_object::take_back(cache_view const& cache, input_array const& counts, slots const& sequences) {
  expect_fit(cache);
  auto const values = expect(describe(counts), "counts", dtype_of<std::int32_t>, {shape_.num_sequences});
  visited const to = visit(sequences);
  std::int32_t* const lengths = begin_lengths(cache);
  auto const with = call(cache, to, 0);
  run("take_back", [&] { return verbs_.take_back(with, values.elements<std::int32_t>(), lengths); });
  std::int64_t const gone = take_lengths(cache, true);
  note_change(to);
  check_flags("take_back");
  return gone;
}

void evictor_object::reset(slots const& sequences, slots const& request_ids,
                           std::optional<std::vector<std::uint64_t>> const& seeds) {
  visited const to = visit(sequences);
  auto const count = as_size(shape_.num_sequences);
  memory id_buffer, seed_buffer;
  std::uint32_t const* ids = nullptr;
  std::uint64_t const* draws = nullptr;
  if (request_ids) {
    auto const values = expect(describe(*request_ids), "request_ids", dtype_of<std::int32_t>, {shape_.num_sequences});
    ids = given<std::uint32_t>(exec_, {values.elements<std::uint32_t const>(), count}, id_buffer);
  }
  if (seeds && seeds->size() != count) refuse("seeds: one for each sequence");
  if (seeds) draws = given<std::uint64_t>(exec_, *seeds, seed_buffer);
  run("reset", [&] { return fkv::reset(exec_, state_, to.of(shape_, 0), ids, draws); });
  note_change(to);
}

void evictor_object::fork(std::vector<std::int32_t> const& sources, std::vector<std::int32_t> const& targets) {
  if (sources.size() != targets.size()) refuse("fork: as many sources as targets");
  for (auto const* const slots : {&sources, &targets})
    for (std::int32_t const slot : *slots)
      if (slot < 0 || slot >= shape_.num_sequences) refuse("fork: no sequence " + std::to_string(slot));
  int const count = static_cast<int>(sources.size());
  memory target_buffer;
  auto const* const from = given<std::int32_t>(exec_, sources, slots_);
  auto const* const to = given<std::int32_t>(exec_, targets, target_buffer);
  auto const saved = scratch(fkv::fork_bytes(state_, count));
  run("fork", [&] { return fkv::fork(exec_, state_, {from, to, count}, saved); });
  note_change({.slots = targets, .all = false});
  check_flags("fork");
}

nb::bytes evictor_object::save(int sequence) const {
  memory const buffer(fkv::save_bytes(state_));
  run("save", [&] { return fkv::save(exec_, state_, sequence, buffer.view()); });
  host_values const saved(exec_, buffer.elements<std::byte const>(), buffer.size());
  return nb::bytes(saved.data(), buffer.size());
}

void evictor_object::restore(int sequence, nb::bytes const& saved) {
  memory const buffer(saved.size());
  backend::to_backend(exec_, buffer.view().data, saved.data(), saved.size());
  run("restore", [&] { return fkv::restore(exec_, state_, sequence, buffer.view()); });
  note_change({.slots = {sequence}, .all = false});
  check_flags("restore");
}

fkv::row_state evictor_object::state_on_host(std::vector<std::byte>& buffer) const {
  if (backend::is_host) return state_;
  buffer.resize(columns_.size());
  fkv::row_state const copied = verbs_.make_state(shape_, state_.capacity, buffer);
  backend::from_backend(exec_, copied.position, state_.position, bytes_of_columns(columns_.size()));
  return copied;
}

void evictor_object::take_state(memory columns, fkv::row_state const& from) {
  fkv::row_state taken = from;
  if (!backend::is_host) {
    taken = verbs_.make_state(shape_, from.capacity, columns.view());
    backend::to_backend(exec_, taken.position, from.position, bytes_of_columns(columns.size()));
  }
  columns_ = std::move(columns);
  state_ = taken;
}

void evictor_object::resize_state(int tokens) {
  if (tokens < settings_.config.budget) refuse("resize_state: less than the budget");
  std::vector<std::byte> buffer, resized_buffer;
  fkv::row_state const before = state_on_host(buffer);
  for_each_row(shape_, [&](fkv::row_index, int row) {
    bool const stored = before.step[row] > 0 || before.num_carried > 0;  // else slots are positions, nothing is carried
    if (stored && std::min(before.seen_length[row], before.capacity) > tokens)
      refuse("resize_state: a row of " + std::to_string(before.seen_length[row]) + " tokens does not fit");
  });
  int const copied = std::min(tokens, before.capacity);
  memory columns(verbs_.state_bytes(shape_, tokens));
  if (!backend::is_host) resized_buffer.resize(columns.size());
  fkv::row_state const resized =
      verbs_.make_state(shape_, tokens, backend::is_host ? columns.view() : fkv::workspace(resized_buffer));
  auto const width = as_size(before.num_carried * before.group);
  for_each_row(shape_, [&](fkv::row_index, int row) {
    std::copy_n(before.position + before.column(row, 0), copied, resized.position + resized.column(row, 0));
    if (width > 0) std::copy_n(before.carried_at(row, 0), as_size(copied) * width, resized.carried_at(row, 0));
    resized.seen_length[row] = before.seen_length[row];
    resized.next_position[row] = before.next_position[row];
    resized.step[row] = before.step[row];
  });
  auto const sequences = as_size(shape_.num_sequences);
  std::copy_n(before.request_id, sequences, resized.request_id);
  std::copy_n(before.seed, sequences, resized.seed);
  std::copy_n(before.flags, sequences, resized.flags);
  std::copy_n(before.started, sequences, resized.started);
  take_state(std::move(columns), resized);
}

std::vector<std::int32_t> evictor_object::positions(cache_view const& cache) const {
  expect_fit(cache);
  int const capacity = cache.shape().capacity;
  std::vector<std::byte> buffer;
  fkv::row_state const state = state_on_host(buffer);
  host_values const lengths(exec_, cache.lengths, as_size(shape_.num_sequences));
  std::vector<std::int32_t> made(as_size(shape_.num_rows()) * as_size(capacity), -1);
  for_each_row(shape_, [&](fkv::row_index at, int row) {
    auto* const of_row = made.data() + as_size(row) * as_size(capacity);
    int const length = std::clamp<int>(lengths[as_size(at.sequence)], 0, capacity), seen = state.seen_length[row];
    bool const implicit = state.step[row] == 0;  // nothing was evicted yet: position = slot
    for (int slot = 0; slot < length; ++slot)
      of_row[slot] = implicit      ? slot
                     : slot < seen ? state.position[state.column(row, slot)]
                                   : state.next_position[row] + slot - seen;
  });
  return made;
}

std::vector<std::int32_t> evictor_object::next_positions(cache_view const& cache) const {
  expect_fit(cache);
  std::vector<std::byte> buffer;
  fkv::row_state const state = state_on_host(buffer);
  host_values const lengths(exec_, cache.lengths, as_size(shape_.num_sequences));
  std::vector<std::int32_t> made(as_size(shape_.num_rows()));
  for_each_row(shape_, [&](fkv::row_index at, int row) {
    made[as_size(row)] = state.next_position[row] + lengths[as_size(at.sequence)] - state.seen_length[row];
  });
  return made;
}

std::vector<float> evictor_object::carried(cache_view const& cache) const {
  expect_fit(cache);
  std::vector<std::byte> buffer;
  fkv::row_state const state = state_on_host(buffer);
  auto const width = as_size(state.num_carried * state.group);
  int const capacity = cache.shape().capacity;
  std::vector<float> made(as_size(shape_.num_rows()) * as_size(capacity) * width);
  for_each_row(shape_, [&](fkv::row_index, int row) {
    int const stored = std::min({state.seen_length[row], state.capacity, capacity});
    if (width > 0)
      std::copy_n(state.carried_at(row, 0), as_size(stored) * width,
                  made.data() + as_size(row) * as_size(capacity) * width);
  });
  return made;
}

void bind_evictor(nb::module_& into) {
  nb::class_<shared_workspace>(into, "Workspace", "Scratch memory that several evictors share; one works at a time.")
      .def(nb::init<>())
      .def_prop_ro("nbytes", [](shared_workspace const& w) { return w.bytes.size(); });
  nb::class_<slot_lists>(into, "Lists", "Slots that select chose, for compact.")
      .def_prop_ro("evicted_count", &slot_lists::counts,
                   "Evicted tokens of each row, rows in [layer][sequence][kv_head] order.")
      .def("evicted", &slot_lists::evicted, "row"_a, "Evicted slots of a row, ascending.")
      .def("evicted_positions", &slot_lists::evicted_positions, "row"_a, "Their positions in the sequence.")
      .def("kept", &slot_lists::kept, "row"_a, "Kept slots of a row, ascending.");

  using evictor = evictor_object;
  std::string const about_evictor =
      std::string(R"(cache: one of those that it will cut; of others the capacity alone may differ.
max_queries: of the largest window. state_capacity: tokens whose statistics are kept, the cache's capacity without.
)") + backend::schedule_text +
      " workspace: scratch memory that several evictors share.";
  nb::class_<evictor>(
      into, "Evictor", nb::type_slots(collected<evictor, function_of>::slots),
      "A policy with the memory that it needs for the caches of one model. Its verbs work on the arrays "
      "in place, allocate nothing but what they return, and raise ValueError with the library's text. "
      "One call at a time; rows run in parallel.")
      .def(nb::init<policy_object const&, cache_view const&, int, int, backend::schedule,
                    std::shared_ptr<shared_workspace>>(),
           "policy"_a, "cache"_a, "max_queries"_a, nb::kw_only(), "state_capacity"_a = 0,
           nb::arg(backend::schedule_name) = 0, "workspace"_a = nb::none(), about_evictor.c_str())
      .def(
          "evict",
          [](nb::object self, nb::object cache, nb::object window, nb::object sequences, bool dry_run) -> std::int64_t {
            auto& mine = nb::cast<evictor&>(self);
            evictor::slots visited;
            if (!nb::try_cast(sequences, visited)) refuse("sequences: must be an int32 array, or None for all");
            if (mine.verbs().evict == nullptr)
              return nb::cast<std::int64_t>(
                  nb::module_::import_("foresightkv._scored").attr("evict")(self, cache, window, sequences, dry_run));
            return mine.evict(bound<cache_view>(cache, "cache"), bound<window_view>(window, "window"), visited,
                              dry_run);
          },
          "cache"_a, "window"_a, nb::kw_only(), "sequences"_a = nb::none(), "dry_run"_a = false,
          R"(Cuts every sequence that is longer than the budget, by however little: observe, carry, score, select, compact.

The cache's lengths become the new ones; slots behind them are free. sequences: int32, those to visit; without, all.
dry_run: nothing is written. Returns the tokens that went, of each row, summed over sequences.
Ties: the lowest slot goes first. A sequence whose data breaks a rule is left alone, and ValueError names it.)")
      .def(
          "observe",
          [](evictor& self, cache_view const& cache, window_view const& window, evictor::slots const& sequences) {
            auto const& shape = cache.shape();
            auto const extents =
                row_extents(shape, {as_size(shape.capacity), as_size(window_list::size), as_size(shape.group)});
            return by_name(to_result<float>(self.observe(cache, window, sequences), extents), window_names,
                           window_list::size);
          },
          "cache"_a, "window"_a, nb::kw_only(), "sequences"_a = nb::none(),
          R"(Statistics of the window's attention to every token: float32 [layer][sequence][kv_head][slot][group], by name
(maximum, minimum, sum, last_8, last_16, last_32).)")
      .def("carry", &evictor::carry, "cache"_a, "window"_a, nb::kw_only(), "sequences"_a = nb::none(),
           "Folds a window into the statistics that the policy carries, and evicts nothing: for a prompt's queries.")
      .def(
          "score",
          [](evictor& self, cache_view const& cache, window_view const& window, evictor::slots const& sequences) {
            return to_result<float>(self.score(cache, window, sequences),
                                    row_extents(cache.shape(), {as_size(cache.shape().capacity)}));
          },
          "cache"_a, "window"_a, nb::kw_only(), "sequences"_a = nb::none(),
          "Scores float32 [layer][sequence][kv_head][slot]; higher is kept. Carried statistics as they stand: see "
          "carry.")
      .def("select", &evictor::select, "cache"_a, "scores"_a, nb::kw_only(), "sequences"_a = nb::none(),
           "Chooses which tokens go, by float32 scores [layer][sequence][kv_head][slot]. Returns Lists.")
      .def("compact", &evictor::compact, "cache"_a, "lists"_a, nb::kw_only(), "sequences"_a = nb::none(),
           "Moves the kept tokens together, and what follows them. Returns what evict returns.")
      .def(
          "collect_due",
          [](evictor& self, cache_view const& cache) {
            auto due = self.collect_due(cache);
            auto const count = due.size();
            return to_numpy(std::move(due), {count});
          },
          "cache"_a, "Sequences that have grown to budget + interval tokens: int32, to be handed to evict.")
      .def("append", &evictor::append, "cache"_a, "counts"_a,
           "Tells how many tokens joined each sequence (int32); negative: how many at a row's end are taken back.")
      .def(
          "take_back", &evictor::take_back, "cache"_a, "counts"_a, nb::kw_only(), "sequences"_a = nb::none(),
          R"(Takes the newest tokens of sequences back, wherever an eviction has put them: rejected drafts. counts: int32
[sequence]; the cache's lengths still include them, and become the new ones. The next token gets the first position that
was taken back; what stays keeps its carried statistics, and no step is counted. Returns how many went, of each row,
summed over sequences: fewer than counts where some were evicted already.)")
      .def("reset", &evictor::reset, "sequences"_a = nb::none(), nb::kw_only(), "request_ids"_a = nb::none(),
           "seeds"_a = nb::none(), "Starts sequences anew. request_ids, seeds: of the draws of a sampled policy.")
      .def(
          "fork", &evictor::fork, "sources"_a, "targets"_a,
          "State of sequence sources[i] becomes that of targets[i], all at once; a target may be a source too (beams).")
      .def("save", &evictor::save, "sequence"_a, "The state of a sequence as bytes.")
      .def("restore", &evictor::restore, "sequence"_a, "saved"_a,
           "A saved state into a sequence, also of another Evictor.")
      .def("resize_state", &evictor::resize_state, "tokens"_a,
           "Room for the statistics of rows of so many tokens; what is stored stays, and has to fit. carry makes room "
           "itself.")
      .def(
          "positions",
          [](evictor const& self, cache_view const& cache) {
            return rows_to_numpy(cache.shape(), self.positions(cache), {as_size(cache.shape().capacity)});
          },
          "cache"_a, "Original position of the token in each slot, int32 [layer][sequence][kv_head][slot]; -1: none.")
      .def(
          "next_positions",
          [](evictor const& self, cache_view const& cache) {
            return rows_to_numpy(cache.shape(), self.next_positions(cache), {});
          },
          "cache"_a, "Position of the token that comes next, int32 [layer][sequence][kv_head].")
      .def(
          "carried",
          [](evictor const& self, cache_view const& cache) {
            auto const& shape = cache.shape();
            int const count = self.state().num_carried;
            return by_name(rows_to_numpy(shape, self.carried(cache),
                                         {as_size(shape.capacity), as_size(count), as_size(shape.group)}),
                           carried_names, count);
          },
          "cache"_a, "Carried statistics as they stand, by name: float32 [layer][sequence][kv_head][slot][group].")
      .def_prop_ro(
          "scorer",
          [](evictor const& self) -> nb::object {
            return self.settings().scorer.is_valid() ? self.settings().scorer : nb::none();
          },
          "The policy's scorer where it is a function.")
      .def_prop_ro("budget", [](evictor const& self) { return self.settings().config.budget; });
}

}  // namespace binding
