// SPDX-License-Identifier: Apache-2.0
#include "held_out.hpp"

#include <algorithm>
#include <foresightkv/scorers/foresight.hpp>
#include <foresightkv/scorers/window_sum.hpp>

#include "shared_work.hpp"

namespace train_judge {

held_out::held_out(options const& chosen, support::communicator const& world, corpus const& all)
    : chosen_(chosen), world_(world), all_(all) {
  for (auto const& from : all.sequences)
    for (std::size_t layer = 0; from.measure_to > 0 && layer < all.layers.size(); ++layer)
      places_.push_back({&from, layer});
  prepared_.resize(places_.size());
  share_work(
      world, places_.size(), 1,
      [&](std::size_t task) {
        auto const& [from, layer] = places_[task];
        auto recorded = from->trace->layer(all_.layers[layer]);
        auto const host = fkv::host.threads(threads_of(chosen_));
        evict_trace::golden_table golden(recorded, chosen_.interval, from->measure_to, host);
        evict_trace::setting const given{.budget = chosen_.budget,
                                         .interval = chosen_.interval,
                                         .recent = chosen_.recent.value_or(chosen_.interval),
                                         .start = std::max(from->measure_from, chosen_.budget + chosen_.interval),
                                         .end = from->measure_to,
                                         .where = {.host = fkv::host.threads(1)}};
        prepared_[task] = std::make_unique<prepared>(prepared{std::move(recorded), std::move(golden), given});
      },
      [](std::size_t, auto const&) {});
}

template <class Replay>
held_out_loss held_out::measure_with(Replay const& replay) const {
  std::vector<evict_trace::loss> losses(places_.size());
  share_work(
      world_, places_.size(), 1,
      [&](std::size_t task) {
        auto const& ready = *prepared_[task];
        evict_trace::record const what = replay(ready, places_[task].layer);
        losses[task] =
            evict_trace::measure(ready.layer, {{&ready.given, &what}}, ready.given.end, threads_of(chosen_)).front();
      },
      [&](std::size_t task, auto const& send) { send(std::span(&losses[task], 1)); });
  held_out_loss sums{std::vector<evict_trace::loss>(all_.layers.size())};
  for (std::size_t task = 0; task < places_.size(); ++task) sums.layers[places_[task].layer] += losses[task];
  return sums;
}

held_out_loss held_out::measure(std::span<float const> weights) const {
  auto shape = all_.shape;
  shape.num_layers = 1;
  auto const floats = as_size(shape.num_kv_heads) * shape.head_floats();
  return measure_with([&](prepared const& ready, std::size_t layer) {
    // Judges for every layer of the model up to this one, since a scorer looks its layer up.
    auto numbered = shape;
    numbered.num_layers = ready.layer.number + 1;
    std::vector<float> packed(fkv::packed_judge_floats(numbered));
    std::copy_n(weights.begin() + static_cast<std::ptrdiff_t>(layer * floats), floats,
                packed.end() - static_cast<std::ptrdiff_t>(floats));
    fkv::judge_weights const judges{packed.data(), numbered};
    auto const config = ready.given.config();
    if (chosen_.features == feature_set::paper)
      return evict_trace::replay_with(ready.layer, ready.golden, ready.given, config,
                                      fkv::foresight<fkv::paper>{judges});
    return evict_trace::replay_with(ready.layer, ready.golden, ready.given, config,
                                    fkv::foresight<fkv::reference_checkpoint>{judges});
  });
}

held_out_loss held_out::measure_window_sum() const {
  return measure_with([](prepared const& ready, std::size_t) {
    return evict_trace::replay_with(ready.layer, ready.golden, ready.given, ready.given.config(), fkv::window_sum{});
  });
}

held_out_loss held_out::measure_golden() const {
  return measure_with([](prepared const& ready, std::size_t) {
    return evict_trace::replay_with(ready.layer, ready.golden, ready.given, ready.given.config(),
                                    evict_trace::oracle{});
  });
}

}  // namespace train_judge
