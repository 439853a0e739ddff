// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <foresightkv/cache.hpp>
#include <foresightkv/detail/kernels/collectives.hpp>
#include <foresightkv/detail/kernels/lanes.hpp>
#include <foresightkv/detail/kernels/launches.hpp>
#include <foresightkv/detail/kernels/rows.hpp>
#include <foresightkv/detail/kernels/vector_copy.hpp>
#include <foresightkv/detail/row_lifecycle.hpp>
#include <foresightkv/detail/saved_sequence.hpp>
#include <foresightkv/detail/visit_check.hpp>
#include <foresightkv/state.hpp>
#include <foresightkv/workspace.hpp>

namespace foresightkv::inline v0::detail::kernels {

/// Called by one thread.
template <class Context>
FORESIGHTKV_HOST_DEVICE void flag_sequence(Context const& c, row_state const& state, int sequence,
                                           sequence_flag which) {
  c.raise(state.flags + sequence, static_cast<std::uint32_t>(which));
}

/// Starts sequences anew. A block per entry of the list.
struct reset_kernel {
  static constexpr int threads = 256;

  sequence_list list{};
  row_state state{};
  std::uint32_t const* request_ids = nullptr;
  std::uint64_t const* seeds = nullptr;

  template <class Context>
  struct shared {};

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>&) const {
    auto const [sequence, repeated] = first_listing(c, list, c.block(), state.num_sequences);
    if (sequence < 0) return;
    reset_rows(row_threads<Context>{c}, state, sequence);
    if (c.rank() != 0) return;
    state.request_id[sequence] = request_ids == nullptr ? static_cast<std::uint32_t>(sequence) : request_ids[sequence];
    state.seed[sequence] = seeds == nullptr ? 0 : seeds[sequence];
    state.flags[sequence] = (repeated ? static_cast<std::uint32_t>(sequence_flag::duplicate) : 0) |
                            (is_cut(list) ? static_cast<std::uint32_t>(sequence_flag::list_cut) : 0);
    state.started[sequence] = start_mark;
  }
};

/// Tokens join sequences or leave them. A block per entry of the list: all rows of a sequence are asked before one of
/// them changes. A warp owns a row from then on.
struct append_barriers {
  enum sync : int { rows_asked, row_read };
};
template <class Cache>
struct append_kernel : append_barriers {
  static constexpr int threads = 512;

  sequence_list list{};
  Cache cache{};
  row_state state{};
  std::int32_t const* counts = nullptr;
  bool empties = false;  // rows may have empty slots

  template <class Context>
  struct shared {
    int refused[Context::threads / warp_size];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    listed_sequence const listed = first_listing(c, list, c.block(), state.num_sequences);
    int const sequence = listed.sequence;  // clang 14 cannot capture a structured binding
    if (sequence < 0) return;
    if (listed.repeated && c.rank() == 0) flag_sequence(c, state, sequence, sequence_flag::duplicate);
    if (is_cut(list) && c.rank() == 0) flag_sequence(c, state, sequence, sequence_flag::list_cut);
    if (!is_started(state, sequence)) {
      if (c.rank() == 0) flag_sequence(c, state, sequence, sequence_flag::not_reset);
      return;
    }
    int const count = counts[sequence];
    if (count == 0) return;
    row_lanes<Context> const lanes{c, row_read};
    bool refused = false;
    each_row_of_warp(c, sequence, [&](row_index at) {
      auto const flag =
          check_count(lanes, state, state.row(at), count, cache.length(at), cache.shape().capacity, empties);
      if (flag != no_flag && lanes.rank() == 0) flag_sequence(c, state, sequence, flag);
      refused = refused || flag != no_flag;
    });
    if (block_any(c, memory.refused, refused, rows_asked)) return;
    each_row_of_warp(c, sequence,
                     [&](row_index at) { change_row(lanes, state, state.row(at), count, cache.length(at), empties); });
  }

 private:
  template <class Context, class Body>
  FORESIGHTKV_HOST_DEVICE void each_row_of_warp(Context const& c, int sequence, Body const& body) const {
    for (int index = c.rank() / warp_size; index < rows_of_sequence(state); index += threads / warp_size)
      body(row_index{index / state.num_kv_heads, sequence, index % state.num_kv_heads});
  }
};

/// Copies the rows of sequences, a block per pair and row; one more block copies and sets flags. A target that is also
/// another pair's source, or its target, is not written, so that no block reads a row that another one writes.
struct fork_kernel {
  static constexpr int threads = 256;
  enum sync : int { flags_copied };

  row_state state{};
  fork_pairs pairs{};

  [[nodiscard]] std::int64_t blocks() const {
    return pairs.count == 0 ? 0 : std::int64_t{pairs.count} * rows_of_sequence(state) + 1;
  }

  template <class Context>
  struct shared {};

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>&) const {
    int const pair = c.block() / rows_of_sequence(state);
    if (pair == pairs.count) return copy_flags(c);
    if (!pairs.exists(state, pair) || pairs.clashes(row_lanes<Context>{c}, pair)) return;
    if (!is_started(state, pairs.sources[pair])) return;
    int const index = c.block() % rows_of_sequence(state);
    copy_row(row_threads<Context>{c}, state, row_of_sequence(state, pairs.sources[pair], index),
             row_of_sequence(state, pairs.targets[pair], index));
  }

 private:
  template <class Context>
  FORESIGHTKV_HOST_DEVICE void copy_flags(Context const& c) const {
    each_pair_of_warp(c, false, [&](int pair) { detail::copy_flags(state, pairs.sources[pair], pairs.targets[pair]); });
    c.sync(flags_copied);  // a target that clashes may be another pair's source
    each_pair_of_warp(c, true,
                      [&](int pair) { flag_sequence(c, state, pairs.targets[pair], sequence_flag::duplicate); });
  }
  template <class Context, class Body>
  FORESIGHTKV_HOST_DEVICE void each_pair_of_warp(Context const& c, bool clashing, Body const& body) const {
    row_lanes<Context> const lanes{c};
    for (int pair = c.rank() / warp_size; pair < pairs.count; pair += threads / warp_size)
      if (pairs.exists(state, pair) && pairs.clashes(lanes, pair) == clashing && lanes.rank() == 0) body(pair);
  }
};

/// Copies bytes by all threads of a block, whatever their alignment.
template <class Context>
FORESIGHTKV_HOST_DEVICE void copy_bytes(Context const& c, void* to, void const* from, std::size_t bytes) {
  auto* const target = static_cast<std::byte*>(to);
  auto const* const source = static_cast<std::byte const*>(from);
  std::size_t constexpr step = static_cast<std::size_t>(Context::threads) * vector_bytes;
  for (std::size_t at = static_cast<std::size_t>(c.rank()) * vector_bytes; at < bytes; at += step) {
    std::size_t const left = bytes - at;
    copy_vector(target + at, source + at, left < vector_bytes ? static_cast<int>(left) : vector_bytes);
  }
}

/// The same as a function of bytes.
template <class Context>
struct block_copy {
  Context const& c;
  FORESIGHTKV_HOST_DEVICE void operator()(void* to, void const* from, std::size_t bytes) const {
    copy_bytes(c, to, from, bytes);
  }
};

/// Writes a sequence's state to bytes. A block per row.
struct save_kernel {
  static constexpr int threads = 256;

  row_state state{};
  int sequence = 0;
  std::byte* out = nullptr;

  template <class Context>
  struct shared {};

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>&) const {
    save_row(row_threads<Context>{c}, state, sequence, c.block(), out, block_copy<Context>{c});
  }
};

/// Saves the sources of a fork whose targets may be sources. A block per pair and row.
struct fork_save_kernel {
  static constexpr int threads = 256;

  row_state state{};
  fork_pairs pairs{};

  template <class Context>
  struct shared {};

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>&) const {
    int const pair = c.block() / rows_of_sequence(state);
    if (!pairs.exists(state, pair) || pairs.clashes(row_lanes<Context>{c}, pair)) return;
    save_row(row_threads<Context>{c}, state, pairs.sources[pair], c.block() % rows_of_sequence(state),
             pairs.copy(state, pair), block_copy<Context>{c});
  }
};

/// Writes the targets from what was saved. A block per pair and row.
struct fork_restore_kernel {
  static constexpr int threads = 256;

  row_state state{};
  fork_pairs pairs{};

  template <class Context>
  struct shared {};

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>&) const {
    int const pair = c.block() / rows_of_sequence(state), index = c.block() % rows_of_sequence(state);
    if (!pairs.exists(state, pair)) return;
    int const target = pairs.targets[pair];
    bool const asked = index == 0 && c.rank() == 0;
    if (pairs.clashes(row_lanes<Context>{c}, pair)) {
      if (asked) flag_sequence(c, state, target, sequence_flag::duplicate);
      return;
    }
    std::byte const* const saved = pairs.copy(state, pair);
    auto const header = load_bytes<saved_sequence::header>(saved);
    if (is_started(header)) restore_row(row_threads<Context>{c}, state, target, index, saved, block_copy<Context>{c});
    if (asked) copy_flags(state, header, target);
  }
};

/// Reads a saved sequence. A block per row: each asks about all saved rows before it writes its own, and none reads
/// what another one writes.
struct restore_kernel {
  static constexpr int threads = 256;
  enum sync : int { records_asked };

  row_state state{};
  int sequence = 0;
  workspace saved{};

  template <class Context>
  struct shared {
    int misfits[Context::threads / warp_size];
  };

  template <class Context>
  FORESIGHTKV_HOST_DEVICE void operator()(Context const& c, shared<Context>& memory) const {
    auto const header = load_bytes<saved_sequence::header>(saved.data);
    if (!fits(c, memory, header)) {
      if (c.block() == 0 && c.rank() == 0) flag_sequence(c, state, sequence, sequence_flag::bad_length);
      return;
    }
    restore_row(row_threads<Context>{c}, state, sequence, c.block(), saved.data, block_copy<Context>{c});
    if (c.block() == 0 && c.rank() == 0) restore_request(state, sequence, header);
  }

 private:
  template <class Context>
  FORESIGHTKV_HOST_DEVICE bool fits(Context const& c, shared<Context>& memory,
                                    saved_sequence::header const& header) const {
    if (!saved_sequence::matches(state, header)) return false;
    if (saved.size < saved_sequence::bytes(state, header.capacity)) return false;
    bool misfit = false;
    for (int index = c.rank(); index < rows_of_sequence(state); index += threads)
      misfit = misfit || !saved_sequence::fits(state, header, saved_record(saved.data, index));
    return !block_any(c, memory.misfits, misfit, records_asked);
  }
};

/// The verbs that touch a state and no keys or values: one launch each, two for a fork with scratch.
template <class Exec>
struct lifecycle {
  static status reset(Exec const& exec, row_state const& state, sequence_list const& list,
                      std::uint32_t const* request_ids, std::uint64_t const* seeds) {
    launches<Exec> launch(exec);
    launch(list.max_count, reset_kernel{list, state, request_ids, seeds});
    return launch.result();
  }

  template <class Cache>
  static status append(Exec const& exec, Cache const& cache, row_state const& state, sequence_list const& list,
                       std::int32_t const* counts, bool empties) {
    launches<Exec> launch(exec);
    append_kernel<Cache> body;
    body.list = list;
    body.cache = cache;
    body.state = state;
    body.counts = counts;
    body.empties = empties;
    launch(list.max_count, body);
    return launch.result();
  }

  static status fork(Exec const& exec, row_state const& state, fork_pairs const& pairs) {
    launches<Exec> launch(exec);
    if (pairs.copies == nullptr) {
      fork_kernel const body{state, pairs};
      launch(body.blocks(), body);
    } else {
      std::int64_t const blocks = std::int64_t{pairs.count} * rows_of_sequence(state);
      launch(blocks, fork_save_kernel{state, pairs});
      launch(blocks, fork_restore_kernel{state, pairs});
    }
    return launch.result();
  }

  static status save(Exec const& exec, row_state const& state, int sequence, std::byte* out) {
    launches<Exec> launch(exec);
    launch(rows_of_sequence(state), save_kernel{state, sequence, out});
    return launch.result();
  }

  /// What the buffer holds is data of the device: what does not fit sets sequence_flag::bad_length.
  static status restore(Exec const& exec, row_state const& state, int sequence, workspace saved) {
    if (saved.size < sizeof(saved_sequence::header)) return {errc::workspace_too_small, 0, argument::saved};
    launches<Exec> launch(exec);
    launch(rows_of_sequence(state), restore_kernel{state, sequence, saved});
    return launch.result();
  }
};

}  // namespace foresightkv::inline v0::detail::kernels
