// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <foresightkv/detail/host/visit.hpp>
#include <foresightkv/detail/row_lifecycle.hpp>

namespace foresightkv::inline v0::detail::host {

/// body(row_index) for every row of a sequence, in order.
template <class Body>
void every_row(row_state const& state, int sequence, Body const& body) {
  for (int layer = 0; layer < state.num_layers; ++layer)
    for (int head = 0; head < state.num_kv_heads; ++head) body(row_index{layer, sequence, head});
}

/// The verbs that touch a state and no keys or values.
struct lifecycle {
  static status reset(host_execution, row_state const& state, sequence_list const& list,
                      std::uint32_t const* request_ids, std::uint64_t const* seeds) {
    every_sequence(list, state.num_sequences, state, [&](int sequence) {
      reset_rows(one_lane{}, state, sequence);
      state.request_id[sequence] =
          request_ids == nullptr ? static_cast<std::uint32_t>(sequence) : request_ids[sequence];
      state.seed[sequence] = seeds == nullptr ? 0 : seeds[sequence];
      state.flags[sequence] = 0;
      state.started[sequence] = start_mark;
    });
    return {};
  }

  template <class Cache>
  static status append(host_execution, Cache const& cache, row_state const& state, sequence_list const& list,
                       std::int32_t const* counts, bool empties) {
    one_lane const lane;
    every_sequence(list, state.num_sequences, state, [&](int sequence) {
      if (!is_started(state, sequence)) return set_flag(state, sequence, sequence_flag::not_reset);
      int const count = counts[sequence];
      if (count == 0) return;
      bool sound = true;
      every_row(state, sequence, [&](row_index at) {
        auto const flag =
            check_count(lane, state, state.row(at), count, cache.length(at), cache.shape().capacity, empties);
        if (flag != no_flag) set_flag(state, sequence, flag);
        sound = sound && flag == no_flag;
      });
      if (!sound) return;
      every_row(state, sequence,
                [&](row_index at) { change_row(lane, state, state.row(at), count, cache.length(at), empties); });
    });
    return {};
  }

  static status fork(host_execution, row_state const& state, fork_pairs const& pairs) {
    if (pairs.copies != nullptr)
      every_pair(state, pairs, false, [&](int pair) {
        for (int index = 0; index < rows_of_sequence(state); ++index)
          save_row(one_lane{}, state, pairs.sources[pair], index, pairs.copy(state, pair), one_lane{});
      });
    every_pair(state, pairs, false, [&](int pair) {
      if (pairs.copies == nullptr)
        copy_sequence(state, pairs.sources[pair], pairs.targets[pair]);
      else
        restore_copy(state, pairs.copy(state, pair), pairs.targets[pair]);
    });
    // Last: such a target may be another pair's source.
    every_pair(state, pairs, true, [&](int pair) { set_flag(state, pairs.targets[pair], sequence_flag::duplicate); });
    return {};
  }

  static status save(host_execution, row_state const& state, int sequence, std::byte* out) {
    for (int index = 0; index < rows_of_sequence(state); ++index)
      save_row(one_lane{}, state, sequence, index, out, one_lane{});
    return {};
  }

  static status restore(host_execution, row_state const& state, int sequence, workspace saved) {
    status const too_small{errc::workspace_too_small, 0, argument::saved};
    if (saved.size < sizeof(saved_sequence::header)) return too_small;
    auto const header = load_bytes<saved_sequence::header>(saved.data);
    if (!saved_sequence::matches(state, header)) return {errc::invalid_shape, 0, argument::saved};
    if (saved.size < saved_sequence::bytes(state, header.capacity)) return too_small;
    for (int index = 0; index < rows_of_sequence(state); ++index)
      if (!saved_sequence::fits(state, header, saved_record(saved.data, index)))
        return {errc::invalid_shape, 0, argument::saved};
    for (int index = 0; index < rows_of_sequence(state); ++index)
      restore_row(one_lane{}, state, sequence, index, saved.data, one_lane{});
    restore_request(state, sequence, header);
    return {};
  }

 private:
  template <class Body>
  static void every_pair(row_state const& state, fork_pairs const& pairs, bool clashing, Body const& body) {
    for (int i = 0; i < pairs.count; ++i)
      if (pairs.exists(state, i) && pairs.clashes(one_lane{}, i) == clashing) body(i);
  }
  static void copy_sequence(row_state const& state, int source, int target) {
    for (int index = 0; index < rows_of_sequence(state) && is_started(state, source); ++index)
      copy_row(one_lane{}, state, row_of_sequence(state, source, index), row_of_sequence(state, target, index));
    copy_flags(state, source, target);
  }
  static void restore_copy(row_state const& state, std::byte const* saved, int target) {
    auto const header = load_bytes<saved_sequence::header>(saved);
    for (int index = 0; index < rows_of_sequence(state) && is_started(header); ++index)
      restore_row(one_lane{}, state, target, index, saved, one_lane{});
    copy_flags(state, header, target);
  }
};

}  // namespace foresightkv::inline v0::detail::host
