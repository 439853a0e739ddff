// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/check.hpp>
#include <foresightkv/detail/host/backend.hpp>
#include <foresightkv/page_list.hpp>

namespace foresightkv::inline v0 {

/// Lists the pages of the listed sequences that rows of new lengths no longer need: of each table the entries from
/// ceil(new / page_size) to ceil(old / page_size), where new and old are the longest of the rows that share it.
///
/// `evict` can list them itself, by its output. Call this one before the cache reads the new lengths: its lengths() are
/// the old ones. Tables are not written; the engine takes the pages back and shortens its tables. Counts and pages of
/// sequences that are not listed, or not there, are not written. Lengths out of range list nothing. Tables are not
/// checked: list sequences that were cut, since of others new_lengths holds what an earlier call left. Pages that a table
/// has beyond those of its old length are the engine's to know.
/// \param new_lengths  indexed by the cache's length domain, as evict and compact wrote them
/// \param out          see page_list
/// \return errc::null_pointer, misaligned, invalid_shape (a page_list too short for the capacity) or unsupported (a cache
///         without pages), nothing written; else ok. One launch, no workspace.
template <class Exec, class Cache>
status freed_pages(Exec exec, Cache const& cache, sequence_list const& sequences, std::int32_t const* new_lengths,
                   page_list const& out) {
  if constexpr (detail::check_cache<Cache>()) {
    status const checked = detail::first_error(
        [&] { return cache.check().at(argument::cache); }, [&] { return detail::check_list(sequences); },
        [&] { return detail::check_buffer(new_lengths).at(argument::new_lengths); },
        [&] { return detail::check_pages(cache, out); });
    if (!checked.ok()) return checked;
    return detail::backend<Exec>::freed_pages(exec, cache, sequences, new_lengths, out);
  } else {
    return {errc::unsupported};
  }
}

}  // namespace foresightkv::inline v0
