// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/host/backend.hpp>

namespace foresightkv::inline v0 {

/// Starts sequences anew: no tokens seen, next position 0, step 0, no flags but duplicate where one is listed twice.
///
/// \param request_ids  [sequence] by slot: names a request in a sampling selector's counter; null: the slot number
/// \param seeds        [sequence] by slot: key of a sampling selector's generator; null: 0
template <class Exec>
status reset(Exec exec, row_state const& state, sequence_list const& sequences,
             std::uint32_t const* request_ids = nullptr, std::uint64_t const* seeds = nullptr) {
  status const checked =
      detail::first_error([&] { return detail::check_list(sequences); }, [&] { return detail::check_state(state); },
                          [&] { return detail::check_aligned(request_ids, seeds).at(argument::request); });
  if (!checked.ok()) return checked;
  return detail::backend<Exec>::reset(exec, state, sequences, request_ids, seeds);
}

}  // namespace foresightkv::inline v0
