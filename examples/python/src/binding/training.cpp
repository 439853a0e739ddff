// SPDX-License-Identifier: Apache-2.0
#include "training.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <foresightkv/training/adam.hpp>
#include <foresightkv/training/batch_sampler.hpp>
#include <foresightkv/training/clip.hpp>
#include <foresightkv/training/ranking_hinge.hpp>
#include <foresightkv/training/schedule.hpp>
#include <foresightkv/training/standardisation.hpp>

#include "recorded.hpp"
#include "views.hpp"

namespace binding {
namespace {

namespace training = fkv::training;

constexpr std::string_view output_bias_names[] = {"frozen", "trained"};
constexpr std::string_view scope_names[] = {"layer", "joint"};
constexpr std::string_view schedule_names[] = {"warm_up_cosine", "constant", "published_supervised", "published_rl"};

/// An array of the same type and extents as another.
tensor expect_like(tensor const& given, char const* name, tensor const& like) {
  return expect(given, name, like.dtype, like.extents);
}

std::vector<std::int64_t> signed_extents(std::vector<std::size_t> const& extents) {
  return {extents.begin(), extents.end()};
}

// --- the judges of one layer

std::pair<real_array, real_array> forward(input_array const& weights, rows_view const& rows, int threads) {
  auto const exec = on_threads(threads);
  tensor const given = describe(weights);
  return with_real(given, "weights", [&]<class Real>(Real) {
    auto const* const own = packed_weights<Real>(given, "weights", rows.shape);
    fresh_array<Real> scores(rows.extents()), hidden(rows.extents({as_size(fkv::judge_shape::hidden)}));
    call_library("judge_forward", [&] {
      return std::visit(
          [&](auto const& view) {
            return training::judge_forward(exec, rows.shape, own, view, hidden.data, scores.data);
          },
          rows.rows);
    });
    return std::pair(real_array(scores.array), real_array(hidden.array));
  });
}

void backward(input_array const& weights, rows_view const& rows, input_array const& hidden,
              input_array const& score_gradient, nb::handle gradient, std::string const& output_bias, int threads) {
  auto const exec = on_threads(threads);
  auto const bias = enumerator<training::output_bias>("output_bias", output_bias, output_bias_names);
  tensor const given = describe(weights);
  held_arrays held;
  tensor const summed = held.hold(gradient);
  with_real(given, "weights", [&]<class Real>(Real) {
    auto const type = nb::dtype<Real>();
    auto const* const own = packed_weights<Real>(given, "weights", rows.shape);
    auto* const sum = packed_weights<Real>(summed, "gradient", rows.shape);
    auto const units =
        expect(describe(hidden), "hidden", type, signed_extents(rows.extents({as_size(fkv::judge_shape::hidden)})));
    auto const slopes = expect(describe(score_gradient), "score_gradient", type, signed_extents(rows.extents()));
    call_library("judge_backward", [&] {
      return std::visit(
          [&](auto const& view) {
            std::vector<std::byte> scratch(training::judge_backward_bytes<Real>(exec, rows.shape, view));
            return training::judge_backward(
                exec, rows.shape, own, view, static_cast<Real const*>(units.template elements<Real>()),
                static_cast<Real const*>(slopes.template elements<Real>()), bias, sum, scratch);
          },
          rows.rows);
    });
  });
}

// --- the ranking loss

/// Python's HingeResult.
struct hinge_found {
  training::hinge_result result;
  std::optional<real_array> gradient;
};

hinge_found ranking_hinge(input_array const& scores, input_array const& labels, double margin, int num_shifts,
                          std::uint64_t seed, std::uint32_t step, std::uint32_t first_row, bool gradient, int threads) {
  auto const exec = on_threads(threads);
  training::hinge_config const config{margin, num_shifts, seed, step, first_row};
  tensor const given = describe(scores);
  return with_real(given, "scores", [&]<class Real>(Real) {
    expect_last(given, "scores", nb::dtype<Real>(), {-1});
    tensor const worth = expect(describe(labels), "labels", dtype_of<float>, given.extents);
    training::ranking_rows<Real> const rows{given.elements<Real>(), worth.elements<float>(), rows_before(given, 1),
                                            given.extent(given.dims() - 1)};
    std::optional<fresh_array<Real>> slopes;
    if (gradient) slopes.emplace(extents_before(given, 0));
    hinge_found found;
    call_library("ranking_hinge", [&] {
      std::vector<std::byte> scratch(training::ranking_hinge_bytes(exec, rows));
      return training::ranking_hinge(exec, config, rows, slopes ? slopes->data : nullptr, &found.result, scratch);
    });
    if (slopes) found.gradient = real_array(slopes->array);
    return found;
  });
}

// --- standardised inputs

/// Mean and deviation of a judge's inputs: Python's Standardisation.
class standardisation_object {
 public:
  standardisation_object(nb::object given_mean, nb::object given_deviation)
      : mean(std::move(given_mean)), deviation(std::move(given_deviation)) {
    held_ = {input_of(mean, "mean"), input_of(deviation, "deviation")};
    means_ = expect_last(describe(held_[0]), "mean", dtype_of<float>, {-1, -1});
    deviations_ = expect_like(describe(held_[1]), "deviation", means_);
  }

  nb::object mean, deviation;

  /// What is folded has these extents: [...][inputs + 3][16] for [...][inputs].
  [[nodiscard]] tensor fitting(tensor const& weights, char const* name) const {
    std::vector<std::int64_t> extents = means_.extents;
    extents.back() += 3;
    extents.push_back(fkv::judge_shape::hidden);
    return expect(weights, name, weights.dtype, extents);
  }
  [[nodiscard]] training::standardisation view() const {
    return {means_.elements<float>(), deviations_.elements<float>()};
  }

 private:
  std::vector<input_array> held_;
  tensor means_, deviations_;
};

/// verb(shape, inputs, from, to), into new memory or into what is given.
template <class Verb>
nb::object fold_into(char const* name, standardisation_object const& inputs, input_array const& weights,
                     nb::object const& out, Verb const& verb) {
  tensor const given = inputs.fitting(describe(weights), "weights");
  fkv::judge_shape const shape = training_shape(given);
  return with_real(given, "weights", [&]<class Real>(Real) -> nb::object {
    auto const* const from = given.elements<Real>();
    if (out.is_none()) {
      fresh_array<Real> made(extents_before(given, 0));
      call_library(name, [&] { return verb(shape, inputs.view(), from, made.data); });
      return nb::cast(made.array);
    }
    held_arrays held;
    auto* const to = expect_like(held.hold(out), "out", given).elements<Real>();
    call_library(name, [&] { return verb(shape, inputs.view(), from, to); });
    return out;
  });
}

nb::object fold(standardisation_object const& inputs, input_array const& weights, nb::object const& out) {
  return fold_into("fold", inputs, weights, out, [](auto const& shape, auto const& view, auto const* from, auto* to) {
    return training::fold_standardisation(fkv::host, shape, view, from, to);
  });
}

nb::object unfold(standardisation_object const& inputs, input_array const& weights, nb::object const& out) {
  return fold_into("unfold", inputs, weights, out, [](auto const& shape, auto const& view, auto const* from, auto* to) {
    return training::unfold_standardisation(fkv::host, shape, view, from, to);
  });
}

void standardise_gradient(standardisation_object const& inputs, nb::handle gradient) {
  held_arrays held;
  tensor const given = inputs.fitting(held.hold(gradient), "gradient");
  fkv::judge_shape const shape = training_shape(given);
  with_real(given, "gradient", [&]<class Real>(Real) {
    auto* const own = given.elements<Real>();
    call_library("standardise_gradient",
                 [&] { return training::standardise_gradient(fkv::host, shape, inputs.view(), own); });
  });
}

/// Sums over the inputs of all candidates that were seen: Python's Moments.
struct moments_object {
  moments_object(int kv_heads, int inputs) : extents{as_size(kv_heads), as_size(inputs)} {
    if (kv_heads < 1 || inputs < 1) refuse("Moments: counts must be positive");
    sums.resize(extents[0] * extents[1]);
    squares.resize(sums.size());
  }

  std::size_t extents[2];
  std::vector<double> sums, squares;
  std::int64_t count = 0;  ///< candidates of each head

  void add(rows_view const& rows, int threads) {
    auto const exec = on_threads(threads);
    if (as_size(rows.shape.num_kv_heads) != extents[0] || as_size(rows.shape.inputs()) != extents[1])
      refuse("Moments: of " + std::to_string(extents[0]) + " KV heads and " + std::to_string(extents[1]) + " inputs");
    call_library("add_moments", [&] {
      return std::visit(
          [&](auto const& view) {
            return training::add_moments(exec, rows.shape, view, {sums.data(), squares.data()});
          },
          rows.rows);
    });
    count += std::int64_t{rows.steps()} * rows.candidates();
  }

  [[nodiscard]] standardisation_object finish(double least_deviation) {
    tensor packed{nullptr, dtype_of<float>, {}, {}};
    packed.extents = {static_cast<std::int64_t>(extents[0]), static_cast<std::int64_t>(extents[1]) + 3,
                      fkv::judge_shape::hidden};
    fkv::judge_shape const shape = training_shape(packed);
    fresh_array<float> mean({extents[0], extents[1]}), deviation({extents[0], extents[1]});
    call_library("finish_moments", [&] {
      return training::finish_moments(fkv::host, shape, {sums.data(), squares.data()}, count, mean.data, deviation.data,
                                      least_deviation);
    });
    return {nb::cast(mean.array), nb::cast(deviation.array)};
  }
};

auto moments_array(nb::handle self, std::vector<double> moments_object::*which) {
  auto& moments = nb::cast<moments_object&>(self);
  return nb::ndarray<nb::numpy, double>((moments.*which).data(), 2, moments.extents, self);
}

// --- the optimiser

/// Python's ClipResult.
struct clip_found {
  training::clip_result result;
  std::vector<double> layer_norms;
};

clip_found clip_gradient(nb::handle gradient, double max_norm, std::string const& scope, int threads) {
  auto const exec = on_threads(threads);
  training::clip_config const config{max_norm, enumerator<training::clip_scope>("scope", scope, scope_names)};
  held_arrays held;
  tensor const given = held.hold(gradient);
  expect(given, "gradient", given.dtype, {-1, -1, -1, fkv::judge_shape::hidden});
  fkv::judge_shape shape = training_shape(given);
  shape.num_layers = given.extent(0);
  shape.num_kv_heads = given.extent(1);
  clip_found found;
  found.layer_norms.resize(as_size(shape.num_layers));
  with_real(given, "gradient", [&]<class Real>(Real) {
    auto* const own = given.elements<Real>();
    call_library("clip_gradient", [&] {
      return training::clip_gradient(exec, config, shape, own, found.layer_norms.data(), &found.result);
    });
  });
  return found;
}

template <class Real>
struct adam_memory {
  Real* weights;
  std::vector<Real> mean, square;
};

/// Weights and what Adam remembers of their gradients: Python's Adam.
class adam_object {
 public:
  adam_object(nb::object given, double beta1, double beta2, double epsilon, int threads)
      : weights(std::move(given)), config_{beta1, beta2, epsilon}, exec_(on_threads(threads)) {
    if (!config_.valid()) refuse("Adam: 0 <= beta1, beta2 < 1 and epsilon above 0");
    tensor const held = held_.hold(weights);
    extents_ = expect(held, "weights", held.dtype, std::vector<std::int64_t>(as_size(held.dims()), -1)).extents;
    with_real(held, "weights", [&]<class Real>(Real) {
      std::size_t count = 1;
      for (std::int64_t const extent : extents_) count *= as_size(extent);
      memory_ = adam_memory<Real>{held.elements<Real>(), std::vector<Real>(count), std::vector<Real>(count)};
    });
  }

  nb::object weights;
  std::int64_t steps = 0;

  void update(input_array const& gradient, double rate) {
    std::visit(
        [&]<class Real>(adam_memory<Real>& memory) {
          auto const given = expect(describe(gradient), "gradient", nb::dtype<Real>(), extents_);
          training::adam_state<Real> const state{memory.weights, memory.mean.data(), memory.square.data(),
                                                 memory.mean.size()};
          auto const* const slopes = given.template elements<Real>();
          call_library("adam_step",
                       [&] { return training::adam_step(exec_, config_, rate, steps + 1, slopes, state); });
        },
        memory_);
    ++steps;
  }

  /// Mean (or square) as an array with the extents of the weights.
  [[nodiscard]] real_array remembered(nb::handle self, bool squares) {
    std::vector<std::size_t> const extents(extents_.begin(), extents_.end());
    return std::visit(
        [&]<class Real>(adam_memory<Real>& memory) {
          auto& values = squares ? memory.square : memory.mean;
          return real_array(nb::ndarray<nb::numpy, Real>(values.data(), extents.size(), extents.data(), self));
        },
        memory_);
  }

 private:
  training::adam_config config_;
  fkv::host_execution exec_;
  held_arrays held_;
  std::vector<std::int64_t> extents_;
  std::variant<adam_memory<float>, adam_memory<double>> memory_;
};

training::schedule_config schedule_of(std::string const& kind, double learning_rate, int warm_up_steps, int total_steps,
                                      double final_fraction) {
  training::schedule_config const config{enumerator<training::schedule_kind>("kind", kind, schedule_names),
                                         learning_rate, warm_up_steps, total_steps, final_fraction};
  if (!config.valid())
    refuse("Schedule: rate and steps must not be negative, and the final fraction is between 0 and 1");
  return config;
}

training::batch_sampler sampler_of(std::uint32_t size, std::uint64_t seed, std::uint32_t stream) {
  if (size == 0) refuse("BatchSampler: a set of at least one");
  return {size, seed, stream};
}

nb::ndarray<nb::numpy, std::int64_t> draw(training::batch_sampler const& from, std::uint64_t first,
                                          std::uint32_t count) {
  fresh_array<std::int64_t> made({std::size_t{count}});
  for (std::uint32_t i = 0; i < count; ++i) made.data[i] = from.at(first + i);
  return made.array;
}

void bind_losses(nb::module_& module) {
  module.def("judge_forward", &forward, "weights"_a, "rows"_a, nb::kw_only(), "threads"_a = 0,
             R"(Scores of all candidates of Rows, and what judge_backward needs again.

weights: one layer's, [kv_head][inputs + 3][16]: Judge.weights[layer]. float32, or float64 for checks.
Returns (scores [...][kv_head][candidate], higher is kept; hidden [...][kv_head][candidate][16]).)");
  module.def("judge_backward", &backward, "weights"_a, "rows"_a, "hidden"_a, "score_gradient"_a, "gradient"_a,
             nb::kw_only(), "output_bias"_a = "frozen", "threads"_a = 0,
             R"(Adds the derivative of a loss by one layer's weights to `gradient`, [kv_head][inputs + 3][16], in place.

weights, rows, hidden: of judge_forward. score_gradient: dloss / dscore, shaped as the scores.
output_bias: "frozen", as no loss here depends on it, or "trained". The same bits whatever the number of threads.)");
  nb::class_<hinge_found>(module, "HingeResult")
      .def_prop_ro(
          "loss", [](hinge_found const& f) { return f.result.loss; }, "Mean over the rows that count; 0 without any.")
      .def_prop_ro(
          "rows", [](hinge_found const& f) { return f.result.rows; },
          "Rows that count: finite scores, and two different labels.")
      .def_prop_ro(
          "not_finite_rows", [](hinge_found const& f) { return f.result.not_finite_rows; },
          "Left out for a score that is infinite or NaN.")
      .def_prop_ro(
          "pairs", [](hinge_found const& f) { return f.result.pairs; }, "Of different labels.")
      .def_prop_ro(
          "active", [](hinge_found const& f) { return f.result.active; },
          "Of the pairs that were compared, those inside the margin.")
      .def_prop_ro(
          "gradient", [](hinge_found const& f) { return f.gradient; }, as_owned,
          "By the scores, shaped as they are, or None.");
  module.def("ranking_hinge", &ranking_hinge, "scores"_a, "labels"_a, nb::kw_only(), "margin"_a = 0.01,
             "num_shifts"_a = 0, "seed"_a = 0, "step"_a = 0, "first_row"_a = 0, "gradient"_a = true, "threads"_a = 0,
             R"(The pairwise ranking loss and its derivative by the scores. Returns HingeResult.

scores: [...][candidate], float32 or float64; labels: float32 of the same shape and orientation, NaN takes part in no
    pair. The extents in front are rows, and the loss is the mean over those that have pairs.
num_shifts: 0 compares every pair; above it only those of so many distances, drawn by seed, step and row: the same in
    expectation. first_row: number of this call's first row, where the rows of a step are spread over calls.)");
}

void bind_standardisation(nb::module_& module) {
  nb::class_<standardisation_object>(module, "Standardisation",
                                     "Mean and deviation of a judge's inputs, folded into its weights and out of them "
                                     "again. Training keeps weights of "
                                     "standardised inputs, folds them before each step, and turns the gradient.")
      .def(nb::init<nb::object, nb::object>(), "mean"_a, "deviation"_a,
           "float32 [...][kv_head][inputs]: of one layer, or of all.")
      .def_ro("mean", &standardisation_object::mean, nb::sig("def mean(self) -> numpy.typing.NDArray[numpy.float32]"))
      .def_ro("deviation", &standardisation_object::deviation,
              nb::sig("def deviation(self) -> numpy.typing.NDArray[numpy.float32]"))
      .def("fold", &fold, "weights"_a, "out"_a = nb::none(),
           nb::sig("def fold(self, weights: numpy.typing.NDArray, out: numpy.typing.NDArray | None = None) -> "
                   "numpy.typing.NDArray"),
           "Weights that give on raw inputs what `weights`, [...][kv_head][inputs + 3][16], give on standardised ones; "
           "into `out`, which may be the same array, or new.")
      .def("unfold", &unfold, "weights"_a, "out"_a = nb::none(),
           nb::sig("def unfold(self, weights: numpy.typing.NDArray, out: numpy.typing.NDArray | None = None) -> "
                   "numpy.typing.NDArray"),
           "The inverse: where a training begins with weights that exist.")
      .def("standardise_gradient", &standardise_gradient, "gradient"_a,
           "Turns the gradient by folded weights into that by the trained ones, in place.");
  nb::class_<moments_object>(module, "Moments", "Sums over the inputs of all candidates of one layer that were seen.")
      .def(nb::init<int, int>(), "num_kv_heads"_a, "inputs"_a)
      .def("add", &moments_object::add, "rows"_a, nb::kw_only(), "threads"_a = 0,
           "Adds the candidates of Rows. The same bits whatever the number of threads.")
      .def("finish", &moments_object::finish, nb::kw_only(), "least_deviation"_a = training::least_deviation,
           "Mean and population deviation, at least so much; an input that never varies, or is not finite, gets 1.")
      .def_prop_ro(
          "sums", [](nb::handle self) { return moments_array(self, &moments_object::sums); }, as_owned,
          "float64 [kv_head][inputs], the memory itself: shares of several processes may be added.")
      .def_prop_ro(
          "squares", [](nb::handle self) { return moments_array(self, &moments_object::squares); }, as_owned)
      .def_rw("count", &moments_object::count, "Candidates of each head.");
}

void bind_optimiser(nb::module_& module) {
  nb::class_<clip_found>(module, "ClipResult")
      .def_prop_ro(
          "norm", [](clip_found const& f) { return f.result.norm; }, "Of all layers together, before clipping.")
      .def_prop_ro("clipped_layers", [](clip_found const& f) { return f.result.clipped_layers; })
      .def_prop_ro(
          "not_finite_layers", [](clip_found const& f) { return f.result.not_finite_layers; },
          "With an infinite or NaN gradient: above 0, skip the optimiser's step.")
      .def_ro("layer_norms", &clip_found::layer_norms);
  module.def(
      "clip_gradient", &clip_gradient, "gradient"_a, nb::kw_only(), "max_norm"_a = 1.0, "scope"_a = "layer",
      "threads"_a = 0,
      R"(Scales the gradient of all judges, [layer][kv_head][inputs + 3][16], so that norms stay below max_norm, in
place. scope: "layer", each by its own norm, or "joint", all together, as published. Returns ClipResult.)");
  nb::class_<adam_object>(module, "Adam",
                          "Adam without weight decay, bound to the weights that it moves. A weight whose gradient was "
                          "always 0 stays where it is.")
      .def(nb::init<nb::object, double, double, double, int>(), "weights"_a, nb::kw_only(), "beta1"_a = 0.9,
           "beta2"_a = 0.999, "epsilon"_a = 1e-8, "threads"_a = 0,
           "weights: a writable contiguous array, float32 or float64, such as Judge.weights.")
      .def("update", &adam_object::update, "gradient"_a, "rate"_a,
           "One step: moves the weights in place. The same bits whatever the number of threads.")
      .def_ro("weights", &adam_object::weights, "As they were handed over.")
      .def_prop_ro(
          "mean", [](nb::handle self) { return nb::cast<adam_object&>(self).remembered(self, false); }, as_owned,
          "Running mean of the gradient, the memory itself: save it with `square` and `steps`, write it to resume.")
      .def_prop_ro(
          "square", [](nb::handle self) { return nb::cast<adam_object&>(self).remembered(self, true); }, as_owned,
          "Running mean of its square.")
      .def_rw("steps", &adam_object::steps, "Taken so far.");
  nb::class_<training::schedule_config>(module, "Schedule", "The learning rate over the steps of a training.")
      .def(
          "__init__",
          [](training::schedule_config* self, std::string const& kind, double learning_rate, int warm_up_steps,
             int total_steps, double final_fraction) {
            new (self)
                training::schedule_config(schedule_of(kind, learning_rate, warm_up_steps, total_steps, final_fraction));
          },
          nb::kw_only(), "kind"_a = "warm_up_cosine", "learning_rate"_a = 1e-2, "warm_up_steps"_a = 10,
          "total_steps"_a = 1000, "final_fraction"_a = 0.0,
          R"(kind: "warm_up_cosine" rises over the warm-up, then falls by half a cosine to final_fraction; "constant";
"published_supervised" and "published_rl" are those of the paper's code.)")
      .def(
          "__call__", [](training::schedule_config const& s, int step) { return training::learning_rate(s, step); },
          "step"_a, "The rate of a step counted from 0.")
      .def_static("published_supervised", [] { return training::published_supervised_schedule; })
      .def_static("published_rl", [] { return training::published_rl_schedule; });
  module.def("published_kl_weight", &training::published_kl_weight, "step"_a, "weight"_a = 0.05,
             "KL weight of the published reinforcement learning: `weight` up to step 100, then 0.");
  nb::class_<training::batch_sampler>(module, "BatchSampler",
                                      "Samples in random order without a memory: draw n is a function of n, so that a "
                                      "training that resumes draws what it would have drawn.")
      .def(
          "__init__",
          [](training::batch_sampler* self, std::uint32_t size, std::uint64_t seed, std::uint32_t stream) {
            new (self) training::batch_sampler(sampler_of(size, seed, stream));
          },
          "size"_a, nb::kw_only(), "seed"_a = 0, "stream"_a = 0,
          "Draws 0 ... size - 1 meet every sample once, the next `size` draws again, in another order. stream: another "
          "number draws in other orders.")
      .def_ro("size", &training::batch_sampler::size)
      .def("at", &training::batch_sampler::at, "draw"_a, "The sample that a draw meets, in [0, size).")
      .def("draw", &draw, "first"_a, "count"_a, "Those of `count` draws from `first` on: int64.");
}

}  // namespace

void bind_training(nb::module_& module) {
  bind_losses(module);
  bind_standardisation(module);
  bind_optimiser(module);
  bind_policy_gradient(module);
}

}  // namespace binding
