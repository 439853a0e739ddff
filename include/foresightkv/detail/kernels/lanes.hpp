// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/cache.hpp>
#include <foresightkv/detail/kernels/collectives.hpp>
#include <foresightkv/detail/visit_check.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// A warp's lanes: see one_lane.
template <class Context>
struct row_lanes {
  Context const& c;
  int barrier = 0;  // number of the barrier behind which what was read is overwritten

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int rank() const { return c.rank() % warp_size; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static constexpr int width() { return warp_size; }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int sum(int value) const { return warp_sum(c, value); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE std::uint32_t max(std::uint32_t value) const { return warp_max(c, value); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int exclusive_sum(int value, int& all) const {
    return warp_exclusive_sum(c, value, all);
  }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int first(bool condition) const {
    std::uint32_t const votes = c.vote(condition);
    return votes == 0 ? warp_size : first_lane(votes);
  }
  FORESIGHTKV_HOST_DEVICE void settle() const { c.sync_warp(barrier); }
};

/// A block's threads, for who reads or copies only.
template <class Context>
struct row_threads {
  Context const& c;

  [[nodiscard]] FORESIGHTKV_HOST_DEVICE int rank() const { return c.rank(); }
  [[nodiscard]] FORESIGHTKV_HOST_DEVICE static constexpr int width() { return Context::threads; }
};

/// A sequence, and whether the list names it more than once.
struct listed_sequence {
  int sequence = -1;
  bool repeated = false;
};

/// The sequence that an entry of a list is the first to name; negative if there is none. Every warp finds out alone.
template <class Context>
FORESIGHTKV_HOST_DEVICE listed_sequence first_listing(Context const& c, sequence_list const& list, int entry,
                                                      int num_sequences) {
  int const count = list.count == nullptr ? list.max_count : smaller(*list.count, list.max_count);
  if (entry >= count) return {};
  int const sequence = list.slots == nullptr ? entry : list.slots[entry];
  if (sequence < 0 || sequence >= num_sequences) return {};
  if (list.slots == nullptr) return {sequence, false};
  bool before = false, behind = false;
  for (int other = c.rank() % warp_size; other < count; other += warp_size) {
    bool const named = list.slots[other] == sequence;
    before = before || (named && other < entry);
    behind = behind || (named && other > entry);
  }
  bool const repeated = c.vote(behind) != 0;
  if (c.vote(before) != 0) return {};
  return {sequence, repeated};
}

}  // namespace foresightkv::inline v0::detail::kernels
