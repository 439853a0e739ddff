// SPDX-License-Identifier: Apache-2.0
#include "replay.hpp"

#include <foresightkv/training/feature_replay.hpp>

namespace binding {
namespace {

namespace training = fkv::training;

constexpr std::string_view feature_names[] = {"paper", "reference_checkpoint"};

/// Neighbouring steps with as many candidates and evictions each: Python's ReplaySteps.
struct replay_part {
  nb::ndarray<nb::numpy, std::int32_t> positions, evicted, evicted_positions;
  nb::ndarray<nb::numpy, float> statistics, labels;
  nb::object rows;
};

template <class Features>
fkv::status run_replay(fkv::host_execution exec, training::replay_config const& config, layer_view const& from,
                       training::future_scores const& future, training::replay_guide const& guide,
                       training::replay_output const& output) {
  return std::visit(
      [&](auto const& recorded) {
        std::vector<std::byte> scratch(training::feature_replay_bytes<Features>(exec, config, recorded));
        return training::feature_replay<Features>(exec, config, recorded, future, guide, output, scratch);
      },
      from.layer);
}

/// The steps from `first` up to, not including, `last`, as arrays over the replay's own memory.
replay_part part_of(nb::handle self, int first, int last) {
  auto& replay = nb::cast<replay_object&>(self);
  auto const& config = replay.config();
  int const alike = first == 0 ? 0 : 1;  // steps after the first have the extents of step 1
  if (first == 0 && last > 1 && config.candidates(0) != config.candidates(1))
    refuse("the first step, a prompt's, has other extents than those that follow: see parts");
  auto const shape = replay.layer().shape();
  std::size_t const lead[] = {as_size(last - first), as_size(shape.num_kv_heads)};
  auto const view = [&]<class Element>(Element* data, std::initializer_list<std::size_t> rest) {
    std::vector<std::size_t> extents(std::begin(lead), std::end(lead));
    extents.insert(extents.end(), rest);
    return nb::ndarray<nb::numpy, Element>(data, extents.size(), extents.data(), self);
  };
  auto const candidates = as_size(config.candidates(alike)), evictions = as_size(config.evictions(alike));
  auto const width = as_size(fkv::judge_shape::features * shape.group);
  replay_part made{
      view(replay.positions(first), {candidates}),        view(replay.evicted(first), {evictions}),
      view(replay.evicted_positions(first), {evictions}), view(replay.statistics(first), {candidates, width}),
      view(replay.labels(first), {candidates}),           nb::none()};
  made.rows = nb::cast(
      rows_view(replay.layer().keys, replay.layer().values, nb::cast(made.statistics), nb::cast(made.positions)));
  return made;
}

replay_part part_of(nb::handle self, nb::object const& which) {
  int const steps = nb::cast<replay_object&>(self).steps();
  if (nb::isinstance<nb::slice>(which)) {
    auto const [first, last, stride, count] = nb::cast<nb::slice>(which).compute(as_size(steps));
    if (stride != 1) refuse("steps: neighbouring ones, in order");
    return part_of(self, static_cast<int>(first), static_cast<int>(first + static_cast<Py_ssize_t>(count)));
  }
  int step = 0;
  if (!nb::try_cast<int>(which, step)) refuse("steps: a number or a slice");
  int const at = step < 0 ? step + steps : step;
  if (at < 0 || at >= steps)
    throw nb::index_error(("no step " + std::to_string(step) + " of " + std::to_string(steps)).c_str());
  return part_of(self, at, at + 1);
}

std::vector<replay_part> parts_of(nb::handle self) {
  auto const& replay = nb::cast<replay_object&>(self);
  int const steps = replay.steps();
  std::vector<replay_part> made;
  bool const alike = replay.config().candidates(0) == replay.config().candidates(1);
  int const own = alike ? 0 : std::min(steps, 1);  // steps whose extents are those of a prompt
  if (own > 0) made.push_back(part_of(self, 0, own));
  if (steps > own) made.push_back(part_of(self, own, steps));
  return made;
}

}  // namespace

replay_object::replay_object(nb::object from, replay_settings const& settings, input_array const& future,
                             std::optional<input_array> const& weights, int threads)
    : layer_(std::move(from)), settings_(settings) {
  auto const exec = on_threads(threads);
  auto const shape = layer().shape();
  if (!config().valid())
    refuse("feature_replay: sinks + recent must fit the budget, counts must be positive, and the start must be a " +
           std::string("multiple of the interval, of at least budget + interval"));
  tensor const given = expect(describe(future), "future", dtype_of<float>, {shape.num_kv_heads, -1, layer().tokens()});
  training::future_scores const scores{given.elements<float>(), given.extent(1), given.extent(2), settings.first_block};
  training::replay_guide guide{.sampled = settings.sampled, .seed = settings.seed, .rollout = settings.rollout};
  if (weights) guide.weights = packed_weights<float>(describe(*weights), "weights", shape);
  bool const paper = enumerator<int>("features", settings.features, feature_names) == 0;

  steps_ = config().steps(layer().tokens());
  heads_ = as_size(shape.num_kv_heads);
  width_ = as_size(fkv::judge_shape::features * shape.group);
  positions_.resize(candidates_before(steps_));
  labels_.resize(positions_.size());
  statistics_.resize(positions_.size() * width_);
  evicted_.resize(evictions_before(steps_));
  evicted_positions_.resize(evicted_.size());
  training::replay_output const output{positions_.data(), statistics_.data(), labels_.data(), evicted_.data(),
                                       evicted_positions_.data()};
  layer_view const& read = layer();
  call_library("feature_replay", [&] {
    return paper ? run_replay<fkv::paper>(exec, config(), read, scores, guide, output)
                 : run_replay<fkv::reference_checkpoint>(exec, config(), read, scores, guide, output);
  });
}

void bind_replay(nb::module_& module) {
  nb::class_<replay_part>(module, "ReplaySteps",
                          "Neighbouring steps of a Replay with as many candidates each, in the replay's own memory.")
      .def_prop_ro(
          "positions", [](replay_part const& p) { return p.positions; }, as_owned,
          "int32 [step][kv_head][candidate], their tokens, ascending.")
      .def_prop_ro(
          "statistics", [](replay_part const& p) { return p.statistics; }, as_owned,
          "float32 [step][kv_head][candidate][8 * group], statistic after statistic.")
      .def_prop_ro(
          "labels", [](replay_part const& p) { return p.labels; }, as_owned,
          "float32 [step][kv_head][candidate], golden's future scores: higher is kept.")
      .def_prop_ro(
          "evicted", [](replay_part const& p) { return p.evicted; }, as_owned,
          "int32 [step][kv_head][evicted], indices among the candidates, ascending.")
      .def_prop_ro(
          "evicted_positions", [](replay_part const& p) { return p.evicted_positions; }, as_owned,
          "The same as positions in the sequence.")
      .def_ro("rows", &replay_part::rows, nb::sig("def rows(self) -> Rows"), "For judge_forward and what follows.");

  nb::class_<replay_object>(
      module, "Replay", "The caches that a recorded layer passed through: len() of it steps, replay[3], replay[1:].")
      .def("__len__", &replay_object::steps)
      .def(
          "__getitem__", [](nb::handle self, nb::object const& steps) { return part_of(self, steps); }, "steps"_a,
          nb::sig("def __getitem__(self, steps: int | slice) -> ReplaySteps"),
          "One step, or neighbouring steps. The first step of a prompt has extents of its own.")
      .def_prop_ro(
          "parts", [](nb::handle self) { return parts_of(self); }, nb::sig("def parts(self) -> list[ReplaySteps]"),
          "All steps: one ReplaySteps, or two where the first step is a prompt's.")
      .def_prop_ro(
          "layer", [](replay_object const& r) { return r.layer_object(); }, nb::sig("def layer(self) -> Layer"));

  module.def(
      "feature_replay",
      [](nb::object layer, input_array const& future, int budget, int interval, std::optional<int> recent, int sinks,
         int start, std::optional<input_array> const& weights, bool sampled, std::uint64_t seed, std::uint32_t rollout,
         int first_block, std::string const& features, int threads) {
        if (!nb::isinstance<layer_view>(layer)) refuse("layer: must be a Layer");
        if (recent.value_or(0) < 0) refuse("recent: must not be negative");
        replay_settings const settings{.config = {{.budget = budget,
                                                   .interval = interval,
                                                   .recent_tokens = recent.value_or(-1),
                                                   .sink_tokens = sinks},
                                                  start},
                                       .first_block = first_block,
                                       .sampled = sampled,
                                       .seed = seed,
                                       .rollout = rollout,
                                       .features = features};
        return replay_object(std::move(layer), settings, future, weights, threads);
      },
      "layer"_a, "future"_a, nb::kw_only(), "budget"_a, "interval"_a, "recent"_a = nb::none(), "sinks"_a = 0,
      "start"_a = 0, "weights"_a = nb::none(), "sampled"_a = false, "seed"_a = 0, "rollout"_a = 0, "first_block"_a = 2,
      "features"_a = "paper", "threads"_a = 0,
      nb::sig("def feature_replay(layer: Layer, future: numpy.typing.NDArray[numpy.float32], *, budget: int, interval: "
              "int, recent: int | None = None, sinks: int = 0, start: int = 0, weights: "
              "numpy.typing.NDArray[numpy.float32] | None = None, sampled: bool = False, seed: int = 0, rollout: int = "
              "0, first_block: int = 2, features: str = 'paper', threads: int = 0) -> Replay"),
      R"(Replays a Layer's evictions and writes what a judge is trained on: statistics and labels of every candidate.

future: float32 [kv_head][row][token], as future_scores gives them; row 0 is that of block first_block. Or Labels.future
    of the same budget, with its first_block.
budget, interval, recent, sinks: as in Policy. start: tokens cached when the first eviction comes (a prompt), a multiple
    of the interval; 0 for budget + interval.
weights: one layer's, float32 [kv_head][inputs + 3][16]: its judges evict, and meet their own caches. Without, golden
    does (teacher forcing, as published).
sampled: evictions by lot among the lowest, by seed, rollout, layer and step: a rollout.
features: "paper" or "reference_checkpoint". Results do not depend on threads.)");
}

}  // namespace binding
