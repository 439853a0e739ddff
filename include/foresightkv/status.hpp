// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace foresightkv::inline v0 {

/// What a verb found wrong before it wrote anything.
enum class errc : int {
  ok = 0,
  invalid_config,       ///< budget, interval, sinks or recent window break the config's own rule
  invalid_shape,        ///< a negative or zero extent, or extents of two arguments that disagree
  null_pointer,         ///< a buffer that this call needs is missing
  misaligned,           ///< a buffer is not aligned to its element
  overlap,              ///< an output overlaps an input that the call still reads
  workspace_too_small,  ///< fewer bytes than the matching *_bytes function asks for
  unsupported,          ///< a combination that this backend does not have
  cuda                  ///< a CUDA call failed: status::native holds its code, outputs are unspecified
};

/// Which argument of the call a status speaks of.
enum class argument : std::uint8_t {
  none,  ///< no single one, or the check does not say
  config,
  shape,  ///< extents that are no cache's: of a judge, of golden_eviction, of a training step
  cache,
  cache_shape,
  target,
  keys,
  values,
  lengths,
  tables,
  starts,
  scales,
  column,
  sequences,
  window,
  queries,
  statistics,
  state,
  state_capacity,
  scorer,
  judge,
  judge_shape,
  judge_layers,
  budget,
  scores,
  lists,
  new_lengths,
  pages,
  due_list,
  counts,
  request,
  pairs,
  slot,
  saved,
  workspace,
  input,
  output
};

/// The argument and what it must be like, as a fixed text in static storage.
[[nodiscard]] constexpr char const* message(argument which) {
  switch (which) {
    case argument::none:
      return "no argument named";
    case argument::config:
      return "config: counts must be positive, and what is protected must fit the budget";
    case argument::shape:
      return "shape: extents must be positive and their product must fit";
    case argument::cache:
      return "cache: what its check() asks for";
    case argument::cache_shape:
      return "cache shape: extents must be positive, heads inside total_kv_heads, a fixed key_head_dim kept";
    case argument::target:
      return "target: a cache with the extents of the other, but for the capacity, and with memory of its own";
    case argument::keys:
      return "cache: its keys, their layout or their layer pointers";
    case argument::values:
      return "cache: its values, their layout or their layer pointers";
    case argument::lengths:
      return "cache: its lengths";
    case argument::tables:
      return "cache: its page tables: pages in the pool, room for the capacity, distances that keep tables apart";
    case argument::starts:
      return "cache: the pads in front of its sequences";
    case argument::scales:
      return "cache: the scales of its storage";
    case argument::column:
      return "cache: its column: values, their width or their layout";
    case argument::sequences:
      return "sequences: slots, count, or the bounds max_count and max_length";
    case argument::window:
      return "window: its counts, scale, cap, or arrays beside the queries";
    case argument::queries:
      return "window: its queries";
    case argument::statistics:
      return "statistics: data or capacity of a statistics_view";
    case argument::state:
      return "state: its buffer is missing or smaller than state_bytes, or it was made for another shape or policy";
    case argument::state_capacity:
      return "state capacity: at least the policy's budget, better budget + interval";
    case argument::scorer:
      return "scorer: what its check() asks for";
    case argument::judge:
      return "judge: its packed weights";
    case argument::judge_shape:
      return "judge shape: group, head dimensions and KV heads must be those of the model that the cache names";
    case argument::judge_layers:
      return "scorer: it has nothing for a layer of the model that the cache names (a judge of fewer layers)";
    case argument::budget:
      return "budget: what its check() asks for";
    case argument::scores:
      return "scores: data or capacity of a score_view";
    case argument::lists:
      return "lists: arrays or capacity of a selection";
    case argument::new_lengths:
      return "new lengths: a buffer of its own, not the one that the cache reads";
    case argument::pages:
      return "pages: arrays of a page_list, with room for a row of the cache's capacity; only of a cache with pages";
    case argument::due_list:
      return "due list: due_slots and due_count, apart from the list of sequences";
    case argument::counts:
      return "counts: one per sequence slot";
    case argument::request:
      return "request ids or seeds: one per sequence slot";
    case argument::pairs:
      return "pairs: sources, targets and their count";
    case argument::slot:
      return "sequence: no slot of the state";
    case argument::saved:
      return "saved bytes: save_bytes of a state with the same extents";
    case argument::workspace:
      return "workspace: at least what the verb's *_bytes function gives";
    case argument::input:
      return "input: a buffer or an extent that the call reads";
    case argument::output:
      return "output: a buffer that the call writes";
  }
  return "unknown argument";
}

/// Result of every verb: nothing throws, prints or clears a sticky device error.
struct [[nodiscard]] status {
  errc code = errc::ok;
  int native = 0;                   ///< the backend's own error number when code is errc::cuda
  argument where = argument::none;  ///< what to look at first; message(where) says what it must be like

  [[nodiscard]] constexpr bool ok() const { return code == errc::ok; }

  /// Fixed text in static storage.
  [[nodiscard]] constexpr char const* message() const {
    switch (code) {
      case errc::ok:
        return "ok";
      case errc::invalid_config:
        return "invalid config: sinks + recent window must fit the budget, counts must be positive";
      case errc::invalid_shape:
        return "invalid shape: extents must be positive and agree between arguments";
      case errc::null_pointer:
        return "null pointer: a buffer that this call needs is missing";
      case errc::misaligned:
        return "misaligned: a buffer is not aligned to its element";
      case errc::overlap:
        return "overlap: an output overlaps an input of the same call";
      case errc::workspace_too_small:
        return "buffer too small: ask the *_bytes function that belongs to it";
      case errc::unsupported:
        return "unsupported: this backend does not have this combination";
      case errc::cuda:
        return "CUDA error: see status::native";
    }
    return "unknown error";
  }

  /// The same, said of an argument. An argument that was named before, deeper in a check, stays.
  [[nodiscard]] constexpr status at(argument which) const {
    return ok() || where != argument::none ? *this : status{code, native, which};
  }

  /// Whether the same went wrong; `where` is only a hint.
  friend constexpr bool operator==(status a, status b) { return a.code == b.code && a.native == b.native; }
};

}  // namespace foresightkv::inline v0
