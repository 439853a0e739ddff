// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/host/backend.hpp>

namespace foresightkv::inline v0 {

/// Which sequence slots become copies of which: pair i copies sources[i] to targets[i].
struct fork_list {
  std::int32_t const* sources = nullptr;
  std::int32_t const* targets = nullptr;
  int count = 0;
};

/// Copies columns, positions, steps and flags of sequences (beams, shared prompts); the engine copies keys and values.
/// Request id and seed of a target stay its own, so that the copies draw differently.
/// A pair with a slot out of range is skipped; one whose target another pair names too, as source or target, sets
/// sequence_flag::duplicate on that target and is skipped. Copied flags are those from before the call. Of a source
/// that was never reset nothing is copied, and its target counts as not reset either.
template <class Exec>
status fork(Exec exec, row_state const& state, fork_list const& pairs) {
  status const checked =
      detail::first_error([&] { return detail::check_state(state); },
                          [&] { return detail::check_that(pairs.count >= 0, errc::invalid_shape, argument::pairs); },
                          [&] {
                            return (pairs.count == 0 ? detail::check_aligned(pairs.sources, pairs.targets)
                                                     : detail::check_buffer(pairs.sources, pairs.targets))
                                .at(argument::pairs);
                          });
  if (!checked.ok()) return checked;
  return detail::backend<Exec>::fork(exec, state, {pairs.sources, pairs.targets, pairs.count});
}

}  // namespace foresightkv::inline v0
