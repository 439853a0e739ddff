// SPDX-License-Identifier: Apache-2.0
#include "trainer.hpp"

#include <algorithm>
#include <foresightkv/training/adam.hpp>
#include <foresightkv/training/clip.hpp>
#include <foresightkv/training/ranking_hinge.hpp>
#include <foresightkv/training/schedule.hpp>
#include <foresightkv/training/standardisation.hpp>
#include <utility>

#include "shared_work.hpp"

namespace train_judge {
namespace {

namespace training = fkv::training;

/// Samples whose gradients one task sums up. Part of the result: these sums are added in order.
constexpr std::size_t samples_together = 4;

}  // namespace

trainer::trainer(options const& chosen, support::communicator const& world, corpus const& all,
                 std::vector<replay> const& teacher, std::vector<float> const& first)
    : chosen_(chosen), world_(world), all_(all), memory_{first, {}, {}}, folded_(first) {
  memory_.mean.resize(first.size());
  memory_.square.resize(first.size());
  for (std::size_t layer = 0; chosen.statistics_only && layer < all_.layers.size(); ++layer)
    silence_tokens(memory_.trained.data() + layer * layer_floats());
  fold();
  if (!chosen.standardise) return;
  measure_inputs(teacher);
  for (std::size_t layer = 0; layer < all_.layers.size(); ++layer) {
    auto const at = layer * as_size(all_.shape.num_kv_heads) * as_size(all_.shape.inputs());
    float* const own = memory_.trained.data() + layer * layer_floats();
    require(training::unfold_standardisation(fkv::host, all_.shape,
                                             {input_mean_.data() + at, input_deviation_.data() + at}, own, own),
            "unfold_standardisation");
  }
  fold();
}

/// Nothing from keys and values, in weights or in a gradient of one layer.
void trainer::silence_tokens(float* weights) const {
  auto const tokens = as_size(all_.shape.key_head_dim + all_.shape.value_head_dim) * as_size(fkv::judge_shape::hidden);
  for (int head = 0; head < all_.shape.num_kv_heads; ++head)
    std::fill_n(weights + as_size(head) * all_.shape.head_floats(), tokens, 0.0f);
}

void trainer::restore(memory state) {
  memory_ = std::move(state);
  fold();
}

std::size_t trainer::layer_floats() const { return as_size(all_.shape.num_kv_heads) * all_.shape.head_floats(); }

void trainer::measure_inputs(std::vector<replay> const& teacher) {
  auto const inputs = as_size(all_.shape.num_kv_heads) * as_size(all_.shape.inputs());
  input_mean_.resize(all_.layers.size() * inputs);
  input_deviation_.resize(input_mean_.size());
  on_threads(threads_of(chosen_), all_.layers.size(), [&](std::size_t layer) {
    std::vector<double> sums(inputs), squares(inputs);
    std::int64_t count = 0;
    for (auto const& from : teacher)
      for (int step = 0; step < from.steps; ++step)
        visit_rows(all_, from, step, layer, [&](auto const& rows, float const*) {
          require(training::add_moments(fkv::host.threads(1), all_.shape, rows, {sums.data(), squares.data()}),
                  "add_moments");
          count += rows.candidates;
        });
    require(training::finish_moments(fkv::host, all_.shape, {sums.data(), squares.data()}, count,
                                     input_mean_.data() + layer * inputs, input_deviation_.data() + layer * inputs),
            "finish_moments");
  });
}

void trainer::fold() {
  folded_ = memory_.trained;
  if (input_mean_.empty()) return;
  for (std::size_t layer = 0; layer < all_.layers.size(); ++layer) {
    auto const at = layer * as_size(all_.shape.num_kv_heads) * as_size(all_.shape.inputs());
    float* const own = folded_.data() + layer * layer_floats();
    require(training::fold_standardisation(fkv::host, all_.shape,
                                           {input_mean_.data() + at, input_deviation_.data() + at}, own, own),
            "fold_standardisation");
  }
}

trainer::part_report trainer::run_part(int number, std::vector<replay> const& replays, std::span<sample const> batch,
                                       std::size_t layer, std::size_t first, std::size_t last, float* gradient) const {
  auto const host = fkv::host.threads(1);  // parts run beside each other
  float const* const weights = folded_.data() + layer * layer_floats();
  std::vector<float> hidden, scores, slopes;
  std::vector<std::byte> scratch;
  part_report report;
  for (std::size_t i = first; i < last; ++i) {
    auto const& from = replays[batch[i].replay];
    visit_rows(all_, from, static_cast<int>(batch[i].step), layer, [&](auto const& rows, float const* labels) {
      auto const count = training::num_scores(all_.shape, rows);
      hidden.resize(count * fkv::judge_shape::hidden);
      scores.resize(count);
      slopes.resize(count);
      require(training::judge_forward(host, all_.shape, weights, rows, hidden.data(), scores.data()), "judge_forward");
      training::ranking_rows<float> const ranking{scores.data(), labels, all_.shape.num_kv_heads, rows.candidates};
      training::hinge_config const config{
          .margin = chosen_.margin,
          .num_shifts = chosen_.shifts,
          .seed = chosen_.seed,
          .step = static_cast<std::uint32_t>(number),
          .first_row = static_cast<std::uint32_t>((layer * batch.size() + i) * as_size(all_.shape.num_kv_heads))};
      scratch.resize(std::max(training::ranking_hinge_bytes(host, ranking),
                              training::judge_backward_bytes<float>(host, all_.shape, rows)));
      training::hinge_result found;
      require(training::ranking_hinge(host, config, ranking, slopes.data(), &found, scratch), "ranking_hinge");
      require(
          training::judge_backward(host, all_.shape, weights, rows, hidden.data(), slopes.data(), gradient, scratch),
          "judge_backward");
      report.loss += found.loss;
    });
  }
  return report;
}

step_report trainer::step(int number, std::vector<replay> const& replays, std::span<sample const> batch) {
  auto const parts = (batch.size() + samples_together - 1) / samples_together;
  auto const tasks = parts * all_.layers.size();
  auto const rank = as_size(world_.rank()), size = as_size(world_.size());
  auto const each = (tasks + size - 1) / size;
  std::vector<float> own(each * layer_floats());
  std::vector<part_report> own_reports(each);
  support::together(world_, [&] {
    on_threads(threads_of(chosen_), each, [&](std::size_t i) {
      auto const task = rank * each + i;  // neighbours: what process 0 gathers then stands in order
      if (task >= tasks) return;
      auto const first = task % parts * samples_together;
      own_reports[i] = run_part(number, replays, batch, task / parts, first,
                                std::min(batch.size(), first + samples_together), own.data() + i * layer_floats());
    });
  });
  std::vector<float> gradients(world_.first() ? own.size() * size : 0);
  std::vector<part_report> reports(world_.first() ? each * size : 0);
  world_.gather(std::span<float const>(own), std::span(gradients));
  world_.gather(std::span<part_report const>(own_reports), std::span(reports));
  step_report report;
  support::together(world_, [&] {
    if (world_.first()) report = finish(number, batch.size(), parts, gradients, reports);
  });
  world_.broadcast(std::span(&report, 1));
  world_.broadcast(std::span(memory_.trained));
  fold();
  return report;
}

/// Sums up in order, clips, and lets Adam move the weights.
step_report trainer::finish(int number, std::size_t batch, std::size_t parts, std::span<float const> gradients,
                            std::span<part_report const> reports) {
  auto const layers = all_.layers.size();
  auto const floats = layer_floats();
  std::vector<float> gradient(layers * floats);
  std::vector<double> norms(layers);
  auto const share = 1.0f / static_cast<float>(batch);
  auto const host = fkv::host.threads(threads_of(chosen_));
  on_threads(threads_of(chosen_), layers, [&](std::size_t layer) {
    float* const sum = gradient.data() + layer * floats;
    for (std::size_t part = 0; part < parts; ++part) {
      float const* const own = gradients.data() + (layer * parts + part) * floats;
      for (std::size_t i = 0; i < floats; ++i) sum[i] += own[i];
    }
    for (std::size_t i = 0; i < floats; ++i) sum[i] *= share;
    if (!input_mean_.empty()) {
      auto const at = layer * as_size(all_.shape.num_kv_heads) * as_size(all_.shape.inputs());
      require(training::standardise_gradient(fkv::host, all_.shape,
                                             {input_mean_.data() + at, input_deviation_.data() + at}, sum),
              "standardise_gradient");
    }
    if (chosen_.statistics_only) silence_tokens(sum);
  });
  step_report report;
  for (auto const& part : reports) report.loss += part.loss;
  report.loss /= static_cast<double>(batch * layers);
  report.rate = training::learning_rate(chosen_.schedule_config(), number);
  training::clip_result clipped;
  require(training::clip_gradient(host, {.max_norm = chosen_.clip, .scope = chosen_.clip_scope}, all_.shape,
                                  gradient.data(), norms.data(), &clipped),
          "clip_gradient");
  report.gradient_norm = clipped.norm;
  report.clip_rate = static_cast<double>(clipped.clipped_layers) / static_cast<double>(layers);
  report.skipped = clipped.not_finite_layers > 0 ? 1 : 0;
  if (report.skipped != 0) return report;
  require(training::adam_step(host, {}, report.rate, number + 1, gradient.data(),
                              training::adam_state<float>{memory_.trained.data(), memory_.mean.data(),
                                                          memory_.square.data(), gradient.size()}),
          "adam_step");
  return report;
}

}  // namespace train_judge
