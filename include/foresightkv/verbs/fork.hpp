// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/host/backend.hpp>
#include <foresightkv/workspace.hpp>

namespace foresightkv::inline v0 {

/// Which sequence slots become copies of which: pair i copies sources[i] to targets[i].
struct fork_list {
  std::int32_t const* sources = nullptr;
  std::int32_t const* targets = nullptr;
  int count = 0;
};

/// Workspace of a fork whose targets may be sources too.
[[nodiscard]] inline std::size_t fork_bytes(row_state const& state, int count) {
  return static_cast<std::size_t>(count > 0 ? count : 0) * detail::saved_sequence::bytes(state);
}

/// Copies columns, positions, steps and flags of sequences (beams, shared prompts); the engine copies keys and values.
/// Request id and seed of a target stay its own, so that the copies draw differently.
/// A pair with a slot out of range is skipped; one whose target another pair names too, as source or target, sets
/// sequence_flag::duplicate on that target and is skipped. Copied flags are those from before the call. Of a source
/// that was never reset nothing is copied, and its target counts as not reset either.
///
/// With a workspace of fork_bytes every source is read before a target is written: a beam step is one call, in which
/// slots change places and may be copied more than once; two pairs with one target are still refused. Launches: one, two
/// with a workspace.
template <class Exec>
status fork(Exec exec, row_state const& state, fork_list const& pairs, workspace scratch = {}) {
  status const checked =
      detail::first_error([&] { return detail::check_state(state); },
                          [&] { return detail::check_that(pairs.count >= 0, errc::invalid_shape, argument::pairs); },
                          [&] {
                            return (pairs.count == 0 ? detail::check_aligned(pairs.sources, pairs.targets)
                                                     : detail::check_buffer(pairs.sources, pairs.targets))
                                .at(argument::pairs);
                          },
                          [&] {
                            bool const given = scratch.data != nullptr || scratch.size != 0;
                            return given ? detail::check_scratch(scratch, fork_bytes(state, pairs.count)) : status{};
                          });
  if (!checked.ok()) return checked;
  return detail::backend<Exec>::fork(exec, state, {pairs.sources, pairs.targets, pairs.count, scratch.data});
}

}  // namespace foresightkv::inline v0
