// SPDX-License-Identifier: Apache-2.0
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <foresightkv/training/reward.hpp>
#include <foresightkv/training/rollout_gradient.hpp>

#include "recorded.hpp"
#include "training.hpp"
#include "views.hpp"

namespace binding {
namespace {

namespace training = fkv::training;

/// Python's GrpoResult.
struct grpo_found {
  training::grpo_result result;
  std::optional<real_array> gradient;
};

std::pair<real_array, real_array> pick_log_probs(input_array const& scores, input_array const& picked, int threads) {
  auto const exec = on_threads(threads);
  tensor const given = describe(scores);
  return with_real(given, "scores", [&]<class Real>(Real) {
    expect_last(given, "scores", nb::dtype<Real>(), {-1});
    auto extents = given.extents;
    extents.back() = -1;
    tensor const picks = expect(describe(picked), "picked", dtype_of<std::int32_t>, extents);
    training::grpo_shape const shape{rows_before(given, 1), 1, 1, given.extent(given.dims() - 1),
                                     picks.extent(picks.dims() - 1)};
    fresh_array<Real> log_probs(extents_before(picks, 0)), entropies(extents_before(picks, 1));
    call_library("pick_log_probs", [&] {
      return training::pick_log_probs(exec, shape, static_cast<Real const*>(given.elements<Real>()),
                                      picks.elements<std::int32_t>(), log_probs.data, entropies.data);
    });
    return std::pair(real_array(log_probs.array), real_array(entropies.array));
  });
}

/// An array shaped as the picks, of the scores' type; null where none is given.
template <class Real>
Real const* like_picks(std::optional<input_array> const& given, char const* name, tensor const& picks) {
  if (!given) return nullptr;
  return expect(describe(*given), name, nb::dtype<Real>(), picks.extents).template elements<Real>();
}

grpo_found grpo(input_array const& scores, input_array const& picked, input_array const& old_log_probs,
                std::vector<double> const& advantages, std::optional<input_array> const& reference_log_probs,
                double clip, double kl_weight, double log_ratio_limit, double scale, bool gradient, int threads) {
  auto const exec = on_threads(threads);
  training::grpo_config const config{clip, kl_weight, log_ratio_limit, scale};
  tensor const given = describe(scores);
  return with_real(given, "scores", [&]<class Real>(Real) {
    expect(given, "scores", nb::dtype<Real>(), {-1, -1, -1, -1});
    tensor const picks = expect(describe(picked), "picked", dtype_of<std::int32_t>,
                                {given.extents[0], given.extents[1], given.extents[2], -1});
    if (static_cast<std::int64_t>(advantages.size()) != given.extents[1]) refuse("advantages: one for each rollout");
    training::grpo_shape const shape{given.extent(0), given.extent(1), given.extent(2), given.extent(3),
                                     picks.extent(3)};
    training::grpo_input<Real> const input{
        given.elements<Real>(), picks.elements<std::int32_t>(), like_picks<Real>(old_log_probs, "old_log_probs", picks),
        like_picks<Real>(reference_log_probs, "reference_log_probs", picks), advantages.data()};
    std::optional<fresh_array<Real>> slopes;
    if (gradient) slopes.emplace(extents_before(given, 0));
    grpo_found found;
    call_library("grpo", [&] {
      std::vector<std::byte> scratch(training::grpo_bytes(exec, shape));
      return training::grpo(exec, config, shape, input, slopes ? slopes->data : nullptr, &found.result, scratch);
    });
    if (slopes) found.gradient = real_array(slopes->array);
    return found;
  });
}

/// call(recorded rollout), of the rows' element type.
template <class Real, class Call>
auto with_rollout(rows_view const& rows, tensor const& picks, Real const* old_log_probs, Real const* reference,
                  Call const& call) {
  return std::visit(
      [&]<class Element>(rows_of<Element> const& view) {
        training::recorded_rollout<Real, Element> const rollout{view, picks.elements<std::int32_t>(), old_log_probs,
                                                                reference, picks.extent(picks.dims() - 1)};
        return call(rollout);
      },
      rows.rows);
}

tensor expect_picks(input_array const& picked, rows_view const& rows) {
  std::vector<std::int64_t> extents(rows.steps_extents().begin(), rows.steps_extents().end());
  extents.push_back(rows.shape.num_kv_heads);
  extents.push_back(-1);
  return expect(describe(picked), "picked", dtype_of<std::int32_t>, extents);
}

real_array rollout_log_probs(input_array const& weights, rows_view const& rows, input_array const& picked,
                             int threads) {
  auto const exec = on_threads(threads);
  tensor const given = describe(weights), picks = expect_picks(picked, rows);
  return with_real(given, "weights", [&]<class Real>(Real) {
    Real const* const own = packed_weights<Real>(given, "weights", rows.shape);
    fresh_array<Real> log_probs(extents_before(picks, 0));
    call_library("rollout_log_probs", [&] {
      return with_rollout<Real>(rows, picks, nullptr, nullptr, [&](auto const& rollout) {
        std::vector<std::byte> scratch(training::rollout_bytes(exec, rows.shape, rollout));
        return training::rollout_log_probs(exec, rows.shape, own, rollout, log_probs.data, scratch);
      });
    });
    return real_array(log_probs.array);
  });
}

grpo_found rollout_gradient(input_array const& weights, rows_view const& rows, input_array const& picked,
                            input_array const& old_log_probs, double advantage, nb::handle gradient,
                            std::optional<input_array> const& reference_log_probs, double clip, double kl_weight,
                            double log_ratio_limit, double scale, int threads) {
  auto const exec = on_threads(threads);
  training::grpo_config const config{clip, kl_weight, log_ratio_limit, scale};
  tensor const given = describe(weights), picks = expect_picks(picked, rows);
  held_arrays held;
  tensor const summed = held.hold(gradient);
  return with_real(given, "weights", [&]<class Real>(Real) {
    Real const* const own = packed_weights<Real>(given, "weights", rows.shape);
    Real* const sum = packed_weights<Real>(summed, "gradient", rows.shape);
    Real const* const before = like_picks<Real>(old_log_probs, "old_log_probs", picks);
    Real const* const reference = like_picks<Real>(reference_log_probs, "reference_log_probs", picks);
    grpo_found found;
    call_library("rollout_gradient", [&] {
      return with_rollout<Real>(rows, picks, before, reference, [&](auto const& rollout) {
        std::vector<std::byte> scratch(training::rollout_bytes(exec, rows.shape, rollout));
        return training::rollout_gradient(exec, config, rows.shape, own, rollout, advantage, sum, &found.result,
                                          scratch);
      });
    });
    return found;
  });
}

/// Python's Rewards: of a group of rollouts.
struct rewards_found {
  nb::ndarray<nb::numpy, double> rewards;
  nb::ndarray<nb::numpy, std::int32_t> worse, not_finite, kept;
};

rewards_found rewards(input_array const& loss_full, input_array const& loss_evicted, input_array const& entropy,
                      int first_token, double entropy_fraction_dropped, double threshold) {
  training::reward_config const config{first_token, entropy_fraction_dropped, threshold};
  tensor const evicted = expect(describe(loss_evicted), "loss_evicted", dtype_of<float>, {-1, -1});
  int const rollouts = evicted.extent(0), tokens = evicted.extent(1);
  training::reward_input const input{
      expect(describe(loss_full), "loss_full", dtype_of<float>, {tokens}).elements<float>(), evicted.elements<float>(),
      expect(describe(entropy), "entropy", dtype_of<float>, {tokens}).elements<float>(), rollouts, tokens};
  std::vector<training::reward_result> found(as_size(rollouts));
  std::vector<std::int32_t> kept(as_size(tokens));
  call_library("rewards", [&] {
    std::vector<std::byte> scratch(training::rewards_bytes(fkv::host, config, input));
    return training::rewards(fkv::host, config, input, found.data(), kept.data(), scratch);
  });
  fresh_array<double> earned({found.size()});
  fresh_array<std::int32_t> worse({found.size()}), not_finite({found.size()});
  for (std::size_t i = 0; i < found.size(); ++i) {
    earned.data[i] = found[i].reward;
    worse.data[i] = found[i].worse;
    not_finite.data[i] = found[i].not_finite;
  }
  kept.resize(found.empty() ? 0 : as_size(found.front().tokens));
  auto const count = kept.size();
  return {earned.array, worse.array, not_finite.array, to_numpy(std::move(kept), {count})};
}

nb::ndarray<nb::numpy, double> group_advantages(std::vector<double> const& rewards, double epsilon) {
  fresh_array<double> made({rewards.size()});
  require(training::group_advantages(fkv::host, static_cast<int>(rewards.size()), rewards.data(), made.data, epsilon),
          "group_advantages");
  return made.array;
}

}  // namespace

void bind_policy_gradient(nb::module_& module) {
  nb::class_<grpo_found>(module, "GrpoResult")
      .def_prop_ro(
          "loss", [](grpo_found const& f) { return f.result.loss; }, "scale * (policy + kl_weight * kl).")
      .def_prop_ro(
          "policy", [](grpo_found const& f) { return f.result.policy; }, "Mean of the clipped term.")
      .def_prop_ro(
          "kl", [](grpo_found const& f) { return f.result.kl; }, "Mean KL term; 0 without a reference.")
      .def_prop_ro(
          "clipped", [](grpo_found const& f) { return f.result.clipped; },
          "Share of the picks whose ratio the clip or the limit stopped.")
      .def_prop_ro(
          "not_finite_rows", [](grpo_found const& f) { return f.result.not_finite_rows; },
          "Rows without a part in loss and gradient, because something in them is infinite or NaN.")
      .def_prop_ro(
          "gradient", [](grpo_found const& f) { return f.gradient; }, as_owned,
          "Of grpo: by the scores, shaped as they are, or None.");
  module.def("pick_log_probs", &pick_log_probs, "scores"_a, "picked"_a, nb::kw_only(), "threads"_a = 0,
             R"(Log-probabilities of picks, log softmax(-score) over all candidates of a row, and each row's entropy.

scores: [...][candidate], higher is kept; picked: int32 [...][pick], indices of candidates.
Returns (log_probs [...][pick], entropies [...]). A row with a score that is infinite or NaN gets NaN.)");
  module.def("grpo", &grpo, "scores"_a, "picked"_a, "old_log_probs"_a, "advantages"_a, nb::kw_only(),
             "reference_log_probs"_a = nb::none(), "clip"_a = 0.2, "kl_weight"_a = 0.05, "log_ratio_limit"_a = 10.0,
             "scale"_a = 1.0, "gradient"_a = true, "threads"_a = 0,
             R"(The clipped policy loss with its KL term, and its derivative by the scores. Returns GrpoResult.

scores: [step][rollout][kv_head][candidate] of the judge in training, float32 or float64; picked: int32
    [step][rollout][kv_head][pick]. old_log_probs, reference_log_probs: shaped as picked, of the judge that drew and of
    the judge to stay close to (None: no KL term). advantages: one for each rollout.
scale: of loss and gradient, such as 1 / rollouts.)");
  module.def("rollout_log_probs", &rollout_log_probs, "weights"_a, "rows"_a, "picked"_a, nb::kw_only(), "threads"_a = 0,
             R"(Log-probabilities of a rollout's picks under one layer's judges: what a rollout is recorded with.

weights: [kv_head][inputs + 3][16]; rows and picked: ReplaySteps.rows and .evicted of a sampled replay.)");
  module.def(
      "rollout_gradient", &rollout_gradient, "weights"_a, "rows"_a, "picked"_a, "old_log_probs"_a, "advantage"_a,
      "gradient"_a, nb::kw_only(), "reference_log_probs"_a = nb::none(), "clip"_a = 0.2, "kl_weight"_a = 0.05,
      "log_ratio_limit"_a = 10.0, "scale"_a = 1.0, "threads"_a = 0,
      R"(Adds the derivative of one rollout's policy loss by one layer's weights to `gradient`, in place: judge_forward,
grpo and judge_backward in one. Returns GrpoResult, whose own gradient is None.

advantage: of the rollout, from group_advantages. scale: 1 / rollouts. The rest as in grpo and rollout_log_probs.)");
  nb::class_<rewards_found>(module, "Rewards", "What the rollouts of a group earned.")
      .def_prop_ro(
          "rewards", [](rewards_found const& f) { return f.rewards; }, as_owned,
          "float64 [rollout]; NaN where a loss or entropy that counts is not finite, or no token is left.")
      .def_prop_ro(
          "worse", [](rewards_found const& f) { return f.worse; }, as_owned,
          "int32 [rollout], tokens whose loss rose beyond the threshold.")
      .def_prop_ro(
          "not_finite", [](rewards_found const& f) { return f.not_finite; }, as_owned,
          "int32 [rollout], tokens from first_token on with a loss or entropy that is infinite or NaN.")
      .def_prop_ro(
          "kept", [](rewards_found const& f) { return f.kept; }, as_owned,
          "int32, the tokens of the mean, counted from first_token, ascending.");
  module.def("rewards", &rewards, "loss_full"_a, "loss_evicted"_a, "entropy"_a, nb::kw_only(), "first_token"_a,
             "entropy_fraction_dropped"_a = 0.2, "threshold"_a = 1.5,
             R"(Rewards of rollouts of one sequence from the language model's losses. Returns Rewards.

loss_full, entropy: float32 [token], of the full cache; loss_evicted: float32 [rollout][token].
first_token: budget + interval; what lies before it sees no eviction. entropy_fraction_dropped: of the tokens that are
    left, those of highest entropy do not count. threshold: nats by which a loss has to rise.)");
  module.def(
      "group_advantages", &group_advantages, "rewards"_a, nb::kw_only(), "epsilon"_a = 1e-8,
      R"(Rewards minus their mean, over their population deviation + epsilon: float64 [rollout]. Rewards that are not
finite take no part and get 0. ValueError for fewer than two.)");
}

}  // namespace binding
