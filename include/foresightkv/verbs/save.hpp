// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/host/backend.hpp>

namespace foresightkv::inline v0 {

/// Bytes that one saved sequence takes.
[[nodiscard]] inline std::size_t save_bytes(row_state const& state) { return detail::saved_sequence::bytes(state); }

/// Writes a sequence's state (not its keys and values) to a buffer of save_bytes: preemption, checkpoints.
/// The format starts with a version and the extents; `restore` refuses what does not fit.
/// \param buffer  memory of the backend, of any alignment
/// \return invalid_shape (no such slot), null_pointer or workspace_too_small; nothing written then
template <class Exec>
status save(Exec exec, row_state const& state, int sequence, workspace buffer) {
  status const checked = detail::first_error([&] { return detail::check_state(state); },
                                             [&] { return detail::check_slot(state, sequence); },
                                             [&] { return detail::check_scratch(buffer, save_bytes(state)); });
  if (!checked.ok()) return checked;
  return detail::backend<Exec>::save(exec, state, sequence, buffer.data);
}

/// Reads a saved sequence into a slot, which may be another one, of a state whose capacity may differ: its stored
/// tokens must fit.
///
/// What the bytes say is data of the backend. On a device the verb's status cannot tell of it: another version, other
/// extents, a longer row, damaged counts or fewer bytes than they ask for set sequence_flag::bad_length on the slot,
/// and nothing else is written.
/// \param saved  memory of the backend, of any alignment
/// \return invalid_shape (no such slot), null_pointer or workspace_too_small (not even a header); on the host also
///         invalid_shape or workspace_too_small for what the bytes say; nothing written then
template <class Exec>
status restore(Exec exec, row_state const& state, int sequence, workspace saved) {
  status const checked = detail::first_error(
      [&] { return detail::check_state(state); }, [&] { return detail::check_slot(state, sequence); },
      [&] { return detail::check_that(saved.data != nullptr, errc::null_pointer, argument::saved); });
  if (!checked.ok()) return checked;
  return detail::backend<Exec>::restore(exec, state, sequence, saved);
}

}  // namespace foresightkv::inline v0
