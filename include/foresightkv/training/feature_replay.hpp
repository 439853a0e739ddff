// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a judge is trained on, from one recorded layer alone: the caches that a sequence of evictions passes
// through, with the statistics of every candidate as an engine would have them, and as labels what Golden
// Eviction says each candidate is still worth.
//
//   the first `start` tokens are cached, all their queries observed
//   step s:   window = the newest `interval` queries; the candidates' statistics and labels are written;
//             the cache is cut to the budget; the next `interval` tokens arrive
//
// Who cuts decides which caches are met. Golden itself (teacher forcing, as published) meets caches that only
// an oracle leaves behind; the judge in training (on-policy) meets its own, which is where it will be used.
// The labels are golden's future scores of the survivors either way. Keys and values are read in place.

#include <cstddef>
#include <foresightkv/detail/buffer.hpp>
#include <foresightkv/execution.hpp>
#include <foresightkv/selectors/sampled_top_k.hpp>
#include <foresightkv/selectors/top_k.hpp>
#include <foresightkv/status.hpp>
#include <foresightkv/training/detail/feature_replay.hpp>
#include <foresightkv/training/replay_config.hpp>
#include <foresightkv/workspace.hpp>

namespace foresightkv::inline v0::training {

/// Bytes of workspace of `feature_replay`; 0 if there is no step, or config or extents are invalid.
template <class Features, element Query, element Key>
[[nodiscard]] std::size_t feature_replay_bytes(host_execution exec, replay_config const& config,
                                               recorded_layer<Query, Key> const& layer) {
  if (!detail::training::check_replay(config, layer).ok() || config.steps(layer.tokens) == 0) return 0;
  detail::arena counting;
  detail::training::replay_memory<Features>::take(counting, exec, config, layer);
  return counting.bytes();
}

/// Replays one layer and writes rows to train on. Features: `paper` or `reference_checkpoint`, as `foresight`
/// takes them; evictions of a judge are those of `evict` with `foresight`, to the last bit.
///
/// tokens <= the start: no step, nothing is written. The same results whatever the number of threads.
///
/// Errors before anything is written: invalid_config, invalid_shape (also future scores that do not cover the
/// steps), null_pointer, misaligned, workspace_too_small.
template <class Features, element Query, element Key>
status feature_replay(host_execution exec, replay_config const& config, recorded_layer<Query, Key> const& layer,
                      future_scores const& future, replay_guide const& guide, replay_output const& output,
                      workspace scratch) {
  if (auto const checked = detail::training::check_replay(config, layer); !checked.ok()) return checked;
  if (config.steps(layer.tokens) == 0) return {};
  auto const checked =
      detail::first_of(detail::check_buffer(layer.queries), detail::check_buffer(layer.keys),
                       detail::check_buffer(layer.values), detail::training::check_future(config, future, layer.tokens),
                       detail::check_aligned(guide.weights), detail::check_buffer(output.positions),
                       detail::check_buffer(output.statistics), detail::check_buffer(output.labels),
                       detail::check_aligned(output.evicted), detail::check_aligned(output.evicted_positions),
                       detail::check_scratch(scratch, feature_replay_bytes<Features>(exec, config, layer)));
  if (!checked.ok()) return checked;
  detail::arena cutting{scratch};
  auto const memory = detail::training::replay_memory<Features>::take(cutting, exec, config, layer);
  using detail::training::replay;
  if (guide.sampled)
    return replay<Features, sampled_top_k, Query, Key>(exec, config, layer, future, guide, output, memory).run();
  return replay<Features, top_k, Query, Key>(exec, config, layer, future, guide, output, memory).run();
}

}  // namespace foresightkv::inline v0::training
