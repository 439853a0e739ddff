// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <foresightkv/verbs/evict.hpp>
#include <foresightkv/verbs/reset.hpp>
#include <vector>

namespace foresightkv::inline v0 {

namespace detail {

/// Memory of a backend that somebody owns: evictor.cuh has a device's.
template <class Exec>
class owned_memory;

template <>
class owned_memory<host_execution> {
 public:
  owned_memory(host_execution, std::size_t bytes) : bytes_(bytes) {}

  [[nodiscard]] workspace view() { return bytes_; }
  [[nodiscard]] status allocated() const { return {}; }

  static status clear(host_execution, workspace buffer) {
    std::fill_n(buffer.data, buffer.size, std::byte{});
    return {};
  }
  /// The lengths of a cache, to a buffer of this memory.
  template <class Cache>
  static status copy_lengths(host_execution, Cache const& cache, std::int32_t* to) {
    cache_shape const shape = cache.shape();
    row_index at;
    for (at.layer = 0; at.layer < shape.num_layers; ++at.layer)
      for (at.sequence = 0; at.sequence < shape.num_sequences; ++at.sequence)
        for (at.kv_head = 0; at.kv_head < shape.num_kv_heads; ++at.kv_head)
          to[length_index(Cache::domain, shape, at)] = cache.length(at);
    return {};
  }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace detail

/// A policy with the memory that it needs, for who wants to cut a cache and nothing else:
///
///     fkv::evictor evictor{fkv::host, policy, cache.shape(), window.max_queries};
///     fkv::status done = evictor.evict(cache, window);
///
/// Its state has as many columns as the cache has slots, so that nothing overflows; an engine that counts bytes makes a
/// `batch` over memory of its own. On a device: foresightkv/evictor.cuh, with memory of the stream's pool.
/// Allocates when it is made, never in a call.
template <class Exec, class Policy>
class evictor {
  static_assert(eviction_policy<Policy>, "foresightkv: a policy must come from compose(...)");

 public:
  /// \param shape        of the caches that will be handed over
  /// \param max_queries  of the largest window
  evictor(Exec exec, Policy const& policy, cache_shape const& shape, int max_queries)
      : exec_(exec),
        policy_(policy),
        all_{nullptr, nullptr, shape.num_sequences, shape.capacity},
        columns_(exec, shape.valid() ? state_bytes(policy, shape, shape.capacity) : 0),
        scratch_(exec, shape.valid() ? evict_into_bytes(exec, policy, shape, all_, max_queries) : 0),
        lengths_(exec, shape.valid() ? static_cast<std::size_t>(shape.num_rows()) * sizeof(std::int32_t) : 0),
        state_(make_state(policy, shape, shape.capacity, columns_.view())),
        ready_(detail::first_error([&] { return columns_.allocated(); }, [&] { return scratch_.allocated(); },
                                   [&] { return lengths_.allocated(); }, [&] { return reset(); })) {}
  evictor(evictor const&) = delete;
  evictor& operator=(evictor const&) = delete;

  /// Cuts every sequence that has a row longer than its budget, by however little: see foresightkv::evict. The lengths
  /// after a call that is ok, also of sequences that were left alone, are in new_lengths().
  /// \return as evict; what went wrong when the evictor was made, if anything did
  template <class Cache, class Window>
  status evict(Cache const& cache, Window const& window) {
    return evict(cache, window, all_);
  }
  /// The same for some sequences: those that are due, or all(). A max_length of 0 stands for the capacity. `output` asks
  /// for lists of tokens or of freed pages, or for a dry run; its new lengths are the evictor's.
  template <class Cache, class Window>
  status evict(Cache const& cache, Window const& window, sequence_list sequences, eviction_output output = {}) {
    output.new_lengths = new_lengths();
    if (sequences.max_length == 0) sequences.max_length = all_.max_length;
    return detail::first_error(
        [&] { return ready_; }, [&] { return cache.check(); },
        [&] { return detail::check_state(state_, cache.shape(), state_.num_carried); },
        [&] { return detail::owned_memory<Exec>::copy_lengths(exec_, cache, new_lengths()); },
        [&] { return foresightkv::evict(exec_, rows(cache).visiting(sequences), window, output); });
  }

  /// Copies sequences to another cache, without the tokens that go: see moving_batch. Their lengths there are in
  /// new_lengths(), by the target's length domain; 0 for those that did not go.
  template <class Cache, class Target, class Window>
  status evict_into(Target const& target, Cache const& cache, Window const& window) {
    return evict_into(target, cache, window, all_);
  }
  template <class Cache, class Target, class Window>
  status evict_into(Target const& target, Cache const& cache, Window const& window, sequence_list sequences,
                    eviction_output output = {}) {
    output.new_lengths = new_lengths();
    if (sequences.max_length == 0) sequences.max_length = all_.max_length;
    return detail::first_error(
        [&] { return ready_; }, [&] { return cache.check(); },
        [&] { return detail::check_state(state_, cache.shape(), state_.num_carried); },
        [&] { return detail::owned_memory<Exec>::clear(exec_, lengths_.view()); },
        [&] { return foresightkv::evict(exec_, rows(cache).visiting(sequences).into(target), window, output); });
  }

  /// Starts sequences anew; without a list all of them.
  status reset() { return reset(all_); }
  status reset(sequence_list const& sequences) { return foresightkv::reset(exec_, state_, sequences); }

  /// Tokens that stay from now on, see eviction_state::with_pinned. The bits are read by every call, and the engine's.
  void pin(std::uint32_t const* bits, int words) { state_ = state_.with_pinned(bits, words); }

  /// Every sequence, as a list.
  [[nodiscard]] sequence_list const& all() const { return all_; }
  /// For the other verbs: all sequences of a cache.
  template <class Cache>
  [[nodiscard]] batch<Policy, Cache> rows(Cache const& cache) {
    return {policy_, cache, all_, state_, scratch_.view()};
  }
  /// Indexed by the cache's length domain; memory of the backend.
  [[nodiscard]] std::int32_t* new_lengths() { return reinterpret_cast<std::int32_t*>(lengths_.view().data); }
  [[nodiscard]] eviction_state<Policy> const& state() const { return state_; }

 private:
  Exec exec_;
  Policy policy_;
  sequence_list all_;
  detail::owned_memory<Exec> columns_, scratch_, lengths_;
  eviction_state<Policy> state_;
  status ready_;
};

}  // namespace foresightkv::inline v0
