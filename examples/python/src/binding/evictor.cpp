// SPDX-License-Identifier: Apache-2.0
#include "evictor.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

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
template <class Element>
auto rows_to_numpy(fkv::cache_shape const& shape, std::vector<Element>&& values, std::vector<std::size_t> const& rest) {
  auto extents = row_extents(shape);
  extents.insert(extents.end(), rest.begin(), rest.end());
  return to_numpy(std::move(values), extents);
}

/// values[row][slot][name][group] as one array for each name, all over the same memory.
template <class Names>
nb::dict by_name(fkv::cache_shape const& shape, std::vector<float>&& values, int capacity, Names const& names,
                 int count) {
  nb::dict made;
  auto const group = as_size(shape.group);
  auto const whole = nb::cast(rows_to_numpy(shape, std::move(values), {as_size(capacity), as_size(count), group}));
  for (int i = 0; i < count; ++i)
    made[names[i]] = whole[nb::make_tuple(nb::ellipsis(), i, nb::slice(nb::none(), nb::none(), nb::none()))];
  return made;
}

nb::object& function_of(evictor_object& evictor) { return evictor.function(); }

}  // namespace

std::int32_t slot_lists::count(int row) const {
  if (row < 0 || as_size(row) >= evicted_count.size())
    throw nb::index_error(("Lists: no row " + std::to_string(row)).c_str());
  return evicted_count[as_size(row)];
}

std::vector<std::int32_t> slot_lists::of_row(std::vector<std::int32_t> const& list, int row, int entries) const {
  auto const first = list.begin() + std::int64_t{row} * capacity;
  return {first, first + entries};
}

evictor_object::evictor_object(policy_object const& policy, cache_view const& cache, int max_queries,
                               int state_capacity, int threads, std::shared_ptr<shared_workspace> workspace)
    : settings_(policy.settings),
      verbs_(policy.verbs),
      shape_(cache.shape()),
      exec_(fkv::host.threads(threads)),
      workspace_(workspace ? std::move(workspace) : std::make_shared<shared_workspace>()) {
  if (settings_.judge)
    for (int layer = 0; layer < shape_.num_layers; ++layer)
      if (!std::ranges::binary_search(settings_.judged_layers, shape_.model_layer(layer)))
        refuse("Evictor: the judge has no weights for layer " + std::to_string(shape_.model_layer(layer)));
  if (max_queries < 0 || state_capacity < 0 || threads < 0) refuse("Evictor: counts must not be negative");
  if (shape_.layers != nullptr) {  // the numbers stay when the cache goes
    layers_.assign(shape_.layers, shape_.layers + shape_.num_layers);
    shape_.layers = layers_.data();
  }
  int const capacity = state_capacity > 0 ? state_capacity : std::max(shape_.capacity, settings_.config.budget);
  columns_.resize(verbs_.state_bytes(shape_, capacity));
  state_ = verbs_.make_state(shape_, capacity, columns_);
  (void)call(cache, {}, max_queries);
  reset({}, {}, {});
}

fkv::sequence_list evictor_object::visited::list(cache_view const& cache) const {
  int const longest = cache.shape().capacity;
  if (all) return {nullptr, nullptr, cache.shape().num_sequences, longest};
  return {slots.data(), nullptr, static_cast<int>(slots.size()), longest};
}

evictor_object::visited evictor_object::visit(slots const& sequences) const {
  visited made;
  if (!sequences) return made;
  auto const given = expect(describe(*sequences), "sequences", dtype_of<std::int32_t>, {-1});
  auto const* const first = given.elements<std::int32_t>();
  made.all = false;
  made.slots.assign(first, first + given.extents[0]);
  for (std::int32_t const slot : made.slots)
    if (slot < 0 || slot >= shape_.num_sequences) refuse("sequences: no sequence " + std::to_string(slot));
  return made;
}

policy_call evictor_object::call(cache_view const& cache, visited const& to, int max_queries) {
  visited const every{};
  auto const bytes = verbs_.evict_bytes(exec_, cache.shape(), every.list(cache), max_queries);
  auto& scratch = workspace_->bytes;
  if (scratch.size() < bytes) scratch = std::vector<std::byte>(bytes);
  return {settings_, cache.cache, to.list(cache), state_, scratch, exec_};
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
  window.check();
}

void evictor_object::check_flags(char const* verb) {
  std::string problem;
  for (int sequence = 0; sequence < shape_.num_sequences; ++sequence) {
    std::uint32_t& flags = state_.flags[sequence];
    if (problem.empty() && flags != 0)
      problem = std::string(verb) + ": sequence " + std::to_string(sequence) + ": " +
                fkv::message(fkv::sequence_flag{flags & (0u - flags)});
    flags = 0;
  }
  if (!problem.empty()) refuse(problem);
}

std::int32_t* evictor_object::begin_lengths(cache_view const& cache) {
  new_lengths_.assign(cache.lengths, cache.lengths + shape_.num_sequences);
  return new_lengths_.data();
}

std::int64_t evictor_object::take_lengths(cache_view const& cache, bool made) const {
  std::int64_t evicted = 0;
  for (int sequence = 0; sequence < shape_.num_sequences; ++sequence)
    evicted += cache.lengths[sequence] - new_lengths_[as_size(sequence)];
  if (made) std::copy(new_lengths_.begin(), new_lengths_.end(), cache.lengths);
  return evicted;
}

std::int64_t evictor_object::evict(cache_view const& cache, window_view const& window, slots const& sequences,
                                   bool dry_run) {
  expect_fit(cache, window);
  visited const to = visit(sequences);
  fkv::eviction_output const output{.new_lengths = begin_lengths(cache), .dry_run = dry_run};
  auto const with = call(cache, to, window.max_queries());
  call_library("evict", [&] { return verbs_.evict(with, window.window, output); });
  std::int64_t const evicted = take_lengths(cache, !dry_run);
  check_flags("evict");
  return evicted;
}

void evictor_object::carry(cache_view const& cache, window_view const& window, slots const& sequences) {
  expect_fit(cache, window);
  visited const to = visit(sequences);
  auto const* const lengths = cache.lengths;
  int const longest = *std::max_element(lengths, lengths + shape_.num_sequences);
  if (longest > state_.capacity && longest <= cache.shape().capacity) resize_state(longest);
  auto const with = call(cache, to, window.max_queries());
  call_library("carry", [&] { return verbs_.carry(with, window.window); });
  check_flags("carry");
}

std::vector<float> evictor_object::score(cache_view const& cache, window_view const& window, slots const& sequences) {
  if (verbs_.score == nullptr) refuse("score: the policy's scorer is a function; evict calls it");
  expect_fit(cache, window);
  visited const to = visit(sequences);
  int const capacity = cache.shape().capacity;
  std::vector<float> scores(as_size(shape_.num_rows()) * as_size(capacity));
  auto const with = call(cache, to, window.max_queries());
  call_library("score", [&] { return verbs_.score(with, window.window, {scores.data(), capacity}); });
  check_flags("score");
  return scores;
}

std::vector<float> evictor_object::observe(cache_view const& cache, window_view const& window, slots const& sequences) {
  expect_fit(cache, window);
  visited const to = visit(sequences);
  auto const& shape = cache.shape();
  auto const list = to.list(cache);
  std::vector<float> statistics(as_size(shape.num_rows()) * as_size(shape.capacity) *
                                as_size(window_list::size * shape.group));
  std::vector<std::byte> scratch(fkv::observe_bytes<window_list>(exec_, shape, list, window.max_queries()));
  fkv::statistics_view<window_list> const out{statistics.data(), shape.capacity};
  call_library("observe", [&] {
    return std::visit(
        [&](auto const& tokens) -> fkv::status {
          using element = typename std::remove_cvref_t<decltype(tokens)>::key_element;
          return fkv::observe(exec_, tokens, list, std::get<window_of<element>>(window.window), state_, out, scratch);
        },
        cache.cache);
  });
  check_flags("observe");
  return statistics;
}

slot_lists evictor_object::select(cache_view const& cache, input_array const& scores, slots const& sequences) {
  visited const to = visit(sequences);
  auto const& shape = cache.shape();
  auto const given = expect(describe(scores), "scores", dtype_of<float>,
                            {shape.num_layers, shape.num_sequences, shape.num_kv_heads, shape.capacity});
  auto const rows = as_size(shape.num_rows()), entries = rows * as_size(shape.capacity);
  slot_lists lists{.kept = std::vector<std::int32_t>(entries, -1),
                   .evicted = std::vector<std::int32_t>(entries, -1),
                   .evicted_count = std::vector<std::int32_t>(rows),
                   .evicted_positions = std::vector<std::int32_t>(entries, -1),
                   .capacity = shape.capacity};
  auto const with = call(cache, to, 0);
  call_library("select", [&] { return verbs_.select(with, {given.elements<float>(), shape.capacity}, lists.view()); });
  check_flags("select");
  return lists;
}

std::int64_t evictor_object::compact(cache_view const& cache, slot_lists& lists, slots const& sequences) {
  visited const to = visit(sequences);
  if (lists.evicted_count.size() != as_size(shape_.num_rows())) refuse("compact: lists of another cache");
  std::int32_t* const lengths = begin_lengths(cache);
  auto const with = call(cache, to, 0);
  call_library("compact", [&] { return verbs_.compact(with, lists.view(), lengths); });
  std::int64_t const evicted = take_lengths(cache, true);
  check_flags("compact");
  return evicted;
}

std::vector<std::int32_t> evictor_object::collect_due(cache_view const& cache) {
  std::vector<std::int32_t> due(as_size(shape_.num_sequences));
  std::int32_t count = 0;
  auto const with = call(cache, {}, 0);
  call_library("collect_due", [&] { return verbs_.collect_due(with, due.data(), &count); });
  check_flags("collect_due");
  due.resize(as_size(count));
  return due;
}

void evictor_object::append(cache_view const& cache, input_array const& counts) {
  auto const given = expect(describe(counts), "counts", dtype_of<std::int32_t>, {shape_.num_sequences});
  auto const with = call(cache, {}, 0);
  call_library("append", [&] { return verbs_.append(with, given.elements<std::int32_t>()); });
  check_flags("append");
}

std::int64_t evictor_object::take_back(cache_view const& cache, input_array const& counts, slots const& sequences) {
  expect_fit(cache);
  auto const given = expect(describe(counts), "counts", dtype_of<std::int32_t>, {shape_.num_sequences});
  visited const to = visit(sequences);
  std::int32_t* const lengths = begin_lengths(cache);
  auto const with = call(cache, to, 0);
  call_library("take_back", [&] { return verbs_.take_back(with, given.elements<std::int32_t>(), lengths); });
  std::int64_t const gone = take_lengths(cache, true);
  check_flags("take_back");
  return gone;
}

void evictor_object::reset(slots const& sequences, slots const& request_ids,
                           std::optional<std::vector<std::uint64_t>> const& seeds) {
  visited const to = visit(sequences);
  fkv::sequence_list const list{to.all ? nullptr : to.slots.data(), nullptr,
                                to.all ? shape_.num_sequences : static_cast<int>(to.slots.size()), 0};
  std::uint32_t const* ids = nullptr;
  if (request_ids)
    ids = reinterpret_cast<std::uint32_t const*>(
        expect(describe(*request_ids), "request_ids", dtype_of<std::int32_t>, {shape_.num_sequences})
            .elements<std::int32_t>());
  if (seeds && seeds->size() != as_size(shape_.num_sequences)) refuse("seeds: one for each sequence");
  call_library("reset", [&] { return fkv::reset(exec_, state_, list, ids, seeds ? seeds->data() : nullptr); });
}

void evictor_object::fork(std::vector<std::int32_t> const& sources, std::vector<std::int32_t> const& targets) {
  if (sources.size() != targets.size()) refuse("fork: as many sources as targets");
  for (auto const* const slots : {&sources, &targets})
    for (std::int32_t const slot : *slots)
      if (slot < 0 || slot >= shape_.num_sequences) refuse("fork: no sequence " + std::to_string(slot));
  int const count = static_cast<int>(sources.size());
  std::vector<std::byte> scratch(fkv::fork_bytes(state_, count));
  call_library("fork", [&] { return fkv::fork(exec_, state_, {sources.data(), targets.data(), count}, scratch); });
  check_flags("fork");
}

nb::bytes evictor_object::save(int sequence) const {
  std::vector<std::byte> buffer(fkv::save_bytes(state_));
  call_library("save", [&] { return fkv::save(exec_, state_, sequence, buffer); });
  return nb::bytes(buffer.data(), buffer.size());
}

void evictor_object::restore(int sequence, nb::bytes const& saved) {
  auto const* const first = static_cast<std::byte const*>(saved.data());
  std::vector<std::byte> buffer(first, first + saved.size());
  call_library("restore", [&] { return fkv::restore(exec_, state_, sequence, buffer); });
  check_flags("restore");
}

void evictor_object::resize_state(int tokens) {
  if (tokens < settings_.config.budget) refuse("resize_state: less than the budget");
  for_each_row(shape_, [&](fkv::row_index, int row) {
    bool const stored = state_.step[row] > 0 || state_.num_carried > 0;  // else slots are positions, nothing is carried
    if (stored && std::min(state_.seen_length[row], state_.capacity) > tokens)
      refuse("resize_state: a row of " + std::to_string(state_.seen_length[row]) + " tokens does not fit");
  });
  int const copied = std::min(tokens, state_.capacity);
  std::vector<std::byte> columns(verbs_.state_bytes(shape_, tokens));
  fkv::row_state const resized = verbs_.make_state(shape_, tokens, columns);
  auto const width = as_size(state_.num_carried * state_.group);
  for_each_row(shape_, [&](fkv::row_index, int row) {
    std::copy_n(state_.position + state_.column(row, 0), copied, resized.position + resized.column(row, 0));
    if (width > 0) std::copy_n(state_.carried_at(row, 0), as_size(copied) * width, resized.carried_at(row, 0));
    resized.seen_length[row] = state_.seen_length[row];
    resized.next_position[row] = state_.next_position[row];
    resized.step[row] = state_.step[row];
  });
  auto const sequences = as_size(shape_.num_sequences);
  std::copy_n(state_.request_id, sequences, resized.request_id);
  std::copy_n(state_.seed, sequences, resized.seed);
  std::copy_n(state_.flags, sequences, resized.flags);
  std::copy_n(state_.started, sequences, resized.started);
  columns_ = std::move(columns);
  state_ = resized;
}

std::vector<std::int32_t> evictor_object::positions(cache_view const& cache) const {
  expect_fit(cache);
  int const capacity = cache.shape().capacity;
  std::vector<std::int32_t> made(as_size(shape_.num_rows()) * as_size(capacity), -1);
  for_each_row(shape_, [&](fkv::row_index at, int row) {
    auto* const of_row = made.data() + as_size(row) * as_size(capacity);
    int const length = std::clamp<int>(cache.lengths[at.sequence], 0, capacity), seen = state_.seen_length[row];
    bool const implicit = state_.step[row] == 0;  // nothing was evicted yet: position = slot
    for (int slot = 0; slot < length; ++slot)
      of_row[slot] = implicit      ? slot
                     : slot < seen ? state_.position[state_.column(row, slot)]
                                   : state_.next_position[row] + slot - seen;
  });
  return made;
}

std::vector<std::int32_t> evictor_object::next_positions(cache_view const& cache) const {
  expect_fit(cache);
  std::vector<std::int32_t> made(as_size(shape_.num_rows()));
  for_each_row(shape_, [&](fkv::row_index at, int row) {
    made[as_size(row)] = state_.next_position[row] + cache.lengths[at.sequence] - state_.seen_length[row];
  });
  return made;
}

std::vector<float> evictor_object::carried(cache_view const& cache) const {
  expect_fit(cache);
  auto const width = as_size(state_.num_carried * state_.group);
  int const capacity = cache.shape().capacity;
  std::vector<float> made(as_size(shape_.num_rows()) * as_size(capacity) * width);
  for_each_row(shape_, [&](fkv::row_index, int row) {
    int const stored = std::min({state_.seen_length[row], state_.capacity, capacity});
    if (width > 0)
      std::copy_n(state_.carried_at(row, 0), as_size(stored) * width,
                  made.data() + as_size(row) * as_size(capacity) * width);
  });
  return made;
}

void bind_evictor(nb::module_& module) {
  nb::class_<shared_workspace>(module, "Workspace", "Scratch memory that several evictors share; one works at a time.")
      .def(nb::init<>())
      .def_prop_ro("nbytes", [](shared_workspace const& w) { return w.bytes.size(); });
  nb::class_<slot_lists>(module, "Lists", "Slots that select chose, for compact.")
      .def_prop_ro(
          "evicted_count", [](slot_lists const& l) { return std::vector<std::int32_t>(l.evicted_count); },
          "Evicted tokens of each row, rows in [layer][sequence][kv_head] order.")
      .def(
          "evicted", [](slot_lists const& l, int row) { return l.of_row(l.evicted, row, l.count(row)); }, "row"_a,
          "Evicted slots of a row, ascending.")
      .def(
          "evicted_positions",
          [](slot_lists const& l, int row) { return l.of_row(l.evicted_positions, row, l.count(row)); }, "row"_a,
          "Their positions in the sequence.")
      .def(
          "kept",
          [](slot_lists const& l, int row) {
            (void)l.count(row);
            auto kept = l.of_row(l.kept, row, l.capacity);
            kept.erase(std::find(kept.begin(), kept.end(), -1), kept.end());
            return kept;
          },
          "row"_a, "Kept slots of a row, ascending.");

  using evictor = evictor_object;
  nb::class_<evictor>(
      module, "Evictor", nb::type_slots(collected<evictor, function_of>::slots),
      "A policy with the memory that it needs for the caches of one model. Its verbs work on the arrays "
      "in place, allocate nothing but what they return, and raise ValueError with the library's text. "
      "One call at a time; rows run in parallel.")
      .def(nb::init<policy_object const&, cache_view const&, int, int, int, std::shared_ptr<shared_workspace>>(),
           "policy"_a, "cache"_a, "max_queries"_a, nb::kw_only(), "state_capacity"_a = 0, "threads"_a = 0,
           "workspace"_a = nb::none(),
           R"(cache: one of those that it will cut; of others the capacity alone may differ.
max_queries: of the largest window. state_capacity: tokens whose statistics are kept, the cache's capacity without.
threads: 0 for OpenMP's own default. workspace: scratch memory that several evictors share.)")
      .def(
          "evict",
          [](nb::object self, nb::object cache, nb::object window, nb::object sequences, bool dry_run) -> std::int64_t {
            auto& mine = nb::cast<evictor&>(self);
            evictor::slots visited;
            if (!nb::try_cast(sequences, visited)) refuse("sequences: must be an int32 array, or None for all");
            if (mine.verbs().evict == nullptr)
              return nb::cast<std::int64_t>(
                  nb::module_::import_("foresightkv._scored").attr("evict")(self, cache, window, sequences, dry_run));
            return mine.evict(nb::cast<cache_view const&>(cache), nb::cast<window_view const&>(window), visited,
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
            return by_name(cache.shape(), self.observe(cache, window, sequences), cache.shape().capacity, window_names,
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
            return rows_to_numpy(cache.shape(), self.score(cache, window, sequences),
                                 {as_size(cache.shape().capacity)});
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
            return by_name(cache.shape(), self.carried(cache), cache.shape().capacity, carried_names,
                           self.state().num_carried);
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
