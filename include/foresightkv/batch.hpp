// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/cache.hpp>
#include <foresightkv/policy.hpp>
#include <foresightkv/state.hpp>
#include <foresightkv/workspace.hpp>

namespace foresightkv::inline v0 {

/// What `evict` and `compact` take to cut into another cache: `rows.into(target)`. The tokens that stay are copied to
/// `target`, from slot 0 of each row on, in the order of their slots, and the state then describes the target; the cache
/// that they come from is only read, so that others may share its pages.
///
///     fkv::status done = fkv::evict(exec, rows.into(fresh), window, {.new_lengths = lengths_of_fresh});
///
/// - A sequence moves as a whole or not at all: rows within their budget are copied as they are. It keeps its number.
/// - `target` has the extents of the cache but for the capacity. Layout, storage, element types and a finer length domain
///   are its own. A policy of `fill_holes` closes up here too: where every token is copied, filling holes saves nothing.
/// - The target's lengths are room: how many tokens the engine has memory for in each row, so many pages are looked at,
///   and at least so many must come into tables and capacity. They are read, never written. New lengths are indexed by
///   the target's length domain. Slots behind them keep their bytes.
/// - Data of the target flags a sequence like data of the cache: bad_length (room below 0 or above the capacity, or less
///   than what a row keeps), bad_table, shared_page (a page that somebody else reads too). Then nothing is written for
///   it but its lists, which say how many tokens it keeps.
/// - Elements of one type and scale are copied as bytes, token scales too. Others are multiplied by the scale that they
///   have, divided by that of the target, and rounded to nearest as element_traits says. Where the target has a scale per
///   token it becomes the token's largest finite magnitude / element_traits::largest, at least 2^-126; what is infinite
///   saturates or stays infinite, and NaN stays NaN, as the type has it. Other scales of a target are the engine's.
/// - Columns (with_column) that the target has too are copied. What else a type of one's own moves with its tokens is
///   copied into a target of the same type only.
/// - Memory: the target's rows apart from everything else that the call reads or writes. What the host sees of that is
///   errc::overlap.
template <class Policy, class Cache, class Target>
struct moving_batch;

/// What the verbs of a policy work on: a view, made once and handed to each of them.
///
///     fkv::batch const rows{policy, cache, active, state, scratch};
///     fkv::status done = fkv::evict(fkv::host, rows, window, {.new_lengths = lengths_after});
///
/// Owns nothing; copies of the views stand in it, so that a cache whose pointers change needs a new one.
template <class Policy, class Cache>
struct batch {
  static_assert(eviction_policy<Policy>, "foresightkv: a policy must come from compose(...)");

  Policy policy;
  Cache cache;
  sequence_list sequences;       ///< slots to visit, and the host's bounds
  eviction_state<Policy> state;  ///< from make_state
  workspace scratch{};           ///< of evict_bytes at least; `append` and `collect_due` need none

  /// The same with other sequences: those that are due.
  [[nodiscard]] batch visiting(sequence_list const& others) const { return {policy, cache, others, state, scratch}; }
  /// The same, for `evict` and `compact`: what stays goes to another cache.
  template <class Target>
  [[nodiscard]] moving_batch<Policy, Cache, Target> into(Target const& target) const {
    return {*this, target};
  }
};

template <class Policy, class Cache, class Target>
struct moving_batch {
  batch<Policy, Cache> rows;
  Target target;
};

template <class Policy, class Cache, class State>
batch(Policy, Cache, sequence_list, State) -> batch<Policy, Cache>;
template <class Policy, class Cache, class State>
batch(Policy, Cache, sequence_list, State, workspace) -> batch<Policy, Cache>;

}  // namespace foresightkv::inline v0
