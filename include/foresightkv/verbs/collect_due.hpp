// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/batch.hpp>
#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/host/backend.hpp>

namespace foresightkv::inline v0 {

/// Lists the sequences that are due: those with a row of at least budget + interval tokens, in the order of
/// `sequences`. The list can be handed to `evict` as it stands: sequence_list{due_slots, due_count, ...}.
///
/// Under slot_list the empty slots of a row do not count; a sequence with bad data is not listed and is flagged.
/// \param due_slots  [sequences.max_count], not the list itself
/// \param due_count  one integer
template <class Exec, class Policy, class Cache>
status collect_due(Exec exec, batch<Policy, Cache> const& rows, std::int32_t* due_slots, std::int32_t* due_count) {
  if constexpr (detail::check_policy_on_cache<Policy, Cache>()) {
    eviction_config const config = rows.policy.config;
    status const checked = detail::first_error(
        [&] { return detail::check_that(config.valid(), errc::invalid_config, argument::config); },
        [&] { return rows.cache.check().at(argument::cache); }, [&] { return detail::check_list(rows.sequences); },
        [&] { return detail::check_part(rows.policy.budget, rows.cache.shape()).at(argument::budget); },
        [&] { return detail::check_policy_state(rows.policy, rows.state, rows.cache.shape()); },
        [&] { return detail::check_buffer(due_slots, due_count).at(argument::due_list); },
        [&] {
          auto const count = static_cast<std::size_t>(rows.sequences.max_count);
          return detail::check_apart(rows.sequences.slots, count, due_slots, count).at(argument::due_list);
        });
    if (!checked.ok()) return checked;
    return detail::backend<Exec>::collect_due(exec, rows.policy, rows.cache, rows.sequences, rows.state, due_slots,
                                              due_count);
  } else {
    return {errc::unsupported};
  }
}

}  // namespace foresightkv::inline v0
