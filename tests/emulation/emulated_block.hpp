// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <vector>

#include <foresightkv/detail/kernels/block_context.hpp>

#include "emulation/async_copies.hpp"
#include "emulation/block_faults.hpp"
#include "emulation/fragments.hpp"
#include "support/random.hpp"

namespace testing {

using foresightkv::detail::kernels::warp_size;

/// By whole words, but for the last one: copies of a size that is known only here are none that ThreadSanitizer sees.
inline void fill_with_poison(std::span<std::byte> shared) {
  std::size_t byte = 0;
  for (; byte + sizeof shared_poison <= shared.size(); byte += sizeof shared_poison)
    std::memcpy(&shared[byte], &shared_poison, sizeof shared_poison);
  if (byte < shared.size()) std::memcpy(&shared[byte], &shared_poison, shared.size() - byte);
}

/// What a thread asks of its block, as one word: threads that meet have to ask for the same thing.
class block_call {
 public:
  enum kind : unsigned { none, sync, sync_warp, sync_cluster, exclusive_sum, shuffle_xor, shuffle, vote, mma };

  constexpr block_call() = default;
  block_call(kind what, int number)
      : code_(std::uint64_t{what} << 56 | (static_cast<std::uint32_t>(number) & 0xFFFFFFu)) {}
  block_call(kind what, void const* place)
      : code_(std::uint64_t{what} << 56 | (reinterpret_cast<std::uintptr_t>(place) & 0xFFFFFFFFFFFFu)) {}

  static block_call of(std::uint64_t code) {
    block_call made;
    made.code_ = code;
    return made;
  }
  [[nodiscard]] std::uint64_t code() const { return code_; }
  [[nodiscard]] std::string text() const {
    switch (code_ >> 56) {
      case sync:
        return numbered("sync");
      case sync_warp:
        return numbered("sync_warp");
      case sync_cluster:
        return numbered("sync_cluster");
      case exclusive_sum:
        return "an exclusive_sum";
      case shuffle_xor:
        return numbered("shuffle_xor");
      case shuffle:
        return "a shuffle";
      case vote:
        return "a vote";
      case mma:
        return "an mma";
      default:
        return "no call";
    }
  }
  friend bool operator==(block_call, block_call) = default;

 private:
  [[nodiscard]] std::string numbered(char const* name) const {
    return std::string(name).append("(").append(std::to_string(code_ & 0xFFFFFFu)).append(")");
  }

  std::uint64_t code_ = 0;
};

inline std::string thread_name(int block, int rank) {
  return std::string("block ").append(std::to_string(block)).append(", thread ").append(std::to_string(rank));
}

/// Where the values of a collective go from thread to thread: memory of the context, never of the body.
/// Atomic, and accessed relaxed, so that no order follows from an exchange.
using exchange_cell = std::atomic<std::uint64_t>;

/// Two of each, used in turn: a lane may be one call ahead of another that has yet to read from it.
struct warp_exchange {
  static constexpr int words = 5;
  exchange_cell cell[2][warp_size][words];
};

/// A cell for each thread, which only that thread reads, and one for all.
using block_exchange = std::vector<exchange_cell>;

/// A block as the others of its cluster see it.
struct cluster_block {
  std::span<std::byte> shared{};
  std::atomic<int> running{0};  // threads
};

/// A thread of a block: what it has done since the block began, and what it is connected to. The two contexts
/// derive from it and add how threads meet,
///   meet_warp<Visible>(call, last), meet_block<Visible>(call, last), meet_cluster<Visible>(call, last)
/// where `last` is run once, by whoever comes last, before anyone goes on, and memory is ordered if Visible.
struct block_thread {
  int rank = 0;
  int block = 0;
  grid_options const* options = nullptr;
  block_faults faults{};
  std::span<std::byte> shared{};
  cluster_block* in_cluster = nullptr;  // [cluster]
  warp_exchange* in_warp = nullptr;
  block_exchange* in_block = nullptr;
  random_source random{0};
  async_copies copies{};
  grid_report seen{};
  std::uint64_t synced = 0;  // barriers of the block or of its cluster behind this thread
  unsigned warp_calls = 0;

  void begin(int its_block, int threads) {
    block = its_block;
    auto const number = static_cast<std::uint64_t>(block) * static_cast<std::uint64_t>(threads);
    random = random_source((options->seed << 20) + number + static_cast<std::uint64_t>(rank));
    copies.clear();
    seen = {};
    synced = 0;
    warp_calls = 0;
  }

  [[nodiscard]] bool is_shared(void const* address, std::size_t bytes) const {
    auto const* const first = static_cast<std::byte const*>(address);
    return std::greater_equal<>{}(first, shared.data()) &&
           std::less_equal<>{}(first + bytes, shared.data() + shared.size());
  }
};

/// How an abandoned block's threads leave their bodies after another one has failed.
struct abandoned_block {};

/// The block context of the CPU; Thread is a fiber_thread or an os_thread.
template <class Thread, int Threads, int Cluster = 1>
class emulated_block {
  static_assert(Threads > 0 && Threads % warp_size == 0);
  static_assert(Cluster > 0 && Cluster <= foresightkv::detail::kernels::largest_cluster);

 public:
  static constexpr int threads = Threads;
  static constexpr int cluster = Cluster;

  /// Each thread marks its place with the barriers that it has passed.
  template <class T>
  struct scan {
    std::uint64_t mark[Threads];
  };

  explicit emulated_block(Thread& thread) : thread_(&thread) {}

  [[nodiscard]] int rank() const { return thread_->rank; }
  [[nodiscard]] int block() const { return thread_->block; }
  [[nodiscard]] int cluster_rank() const { return block() % Cluster; }

  void sync(int number) const {
    if (number == thread_->faults.skipped_sync) return;
    thread_->seen.syncs |= bit(number);
    thread_->template meet_block<true>({block_call::sync, number}, [] {});
    ++thread_->synced;
  }
  void sync_warp(int number) const {
    if (number == thread_->faults.skipped_warp_sync) return;
    thread_->seen.warp_syncs |= bit(number);
    thread_->template meet_warp<true>({block_call::sync_warp, number}, [] {});
  }
  void sync_cluster(int number) const {
    if (number == thread_->faults.skipped_cluster_sync) return;
    thread_->seen.cluster_syncs |= bit(number);
    thread_->template meet_cluster<true>({block_call::sync_cluster, number}, [] {});
    ++thread_->synced;
  }
  template <class Object>
  [[nodiscard]] Object& of_cluster(Object& object, int rank) const {
    if (rank < 0 || rank >= Cluster) throw block_misuse("of_cluster: no block of the cluster has this number");
    if (!thread_->is_shared(&object, sizeof object))
      throw block_misuse("of_cluster: the object is not in shared memory");
    if (thread_->seen.cluster_syncs == 0)
      throw block_misuse("of_cluster: without a sync_cluster before, that block may not have begun");
    cluster_block& of = thread_->in_cluster[rank];
    if (of.running.load(std::memory_order_relaxed) == 0) throw block_misuse("of_cluster: that block has ended");
    auto const* const place = reinterpret_cast<std::byte const*>(&object);
    return *reinterpret_cast<Object*>(of.shared.data() + (place - thread_->shared.data()));
  }

  template <std::integral T>
  T exclusive_sum(scan<T>& scratch, T value, T& all) const {
    std::uint64_t const mark = 0x5CA7C4ED00000000u + thread_->synced;
    std::uint64_t& own = scratch.mark[rank()];
    if (own == mark) throw block_misuse("exclusive_sum: its scratch is used again without a sync in between");
    own = mark;
    block_exchange& cells = *thread_->in_block;
    bool const left_out = thread_->faults.short_scan && rank() >= Threads - warp_size;
    put(cells[place()], static_cast<std::uint64_t>(left_out ? T{} : value));
    thread_->template meet_block<false>({block_call::exclusive_sum, &scratch}, [&] {
      std::uint64_t sum = 0;
      for (exchange_cell& each : cells) {
        std::uint64_t const next = get(each);
        put(each, sum);
        sum += next;
      }
    });
    if (own != mark) throw block_misuse("exclusive_sum: its scratch is overwritten without a sync in between");
    all = static_cast<T>(get(cells.back()));
    return static_cast<T>(get(cells[place()]));
  }

  template <class T>
  T shuffle_xor(T value, int mask) const {
    if (mask < 0 || mask >= warp_size) throw block_misuse("shuffle_xor: no lane of the warp has this number");
    return exchange({block_call::shuffle_xor, mask}, value, lane() ^ mask);
  }
  template <class T>
  T shuffle(T value, int source) const {
    if (source < 0 || source >= warp_size) throw block_misuse("shuffle: no lane of the warp has this number");
    return exchange({block_call::shuffle, 0}, value, source);
  }
  [[nodiscard]] std::uint32_t vote(bool said) const {
    auto& cells = thread_->in_warp->cell[thread_->warp_calls++ % 2];
    put(cells[lane()][0], said ? 1u : 0u);
    thread_->template meet_warp<false>({block_call::vote, 0}, [] {});
    std::uint64_t votes = 0;
    for (int i = 0; i < warp_size; ++i) votes |= get(cells[i][0]) << i;
    return low(votes);
  }

  void count(std::uint32_t* counter) const {
    if (!thread_->is_shared(counter, sizeof *counter)) throw block_misuse("count: the counter is not in shared memory");
    thread_->add(*counter);
  }
  void raise(std::uint32_t* flags, std::uint32_t bits) const {
    if (thread_->is_shared(flags, sizeof *flags)) throw block_misuse("raise: the word is not in global memory");
    thread_->set(*flags, bits);
  }

  template <int Bytes>
  void copy_async(void* to, void const* from) const {
    if (!thread_->is_shared(to, Bytes) || thread_->is_shared(from, Bytes))
      throw block_misuse("copy_async: not from global to shared memory");
    thread_->copies.template start<Bytes>(to, from, thread_->random.chance(0.5), thread_->faults);
  }
  void commit() const { thread_->copies.commit(); }
  template <int Pending>
  void wait() const {
    if (!thread_->faults.late_landing) thread_->copies.wait(Pending);
  }

  template <class Element>
  void mma(float (&sums)[4], std::uint32_t const (&a)[4], std::uint32_t const (&b)[2]) const {
    auto& cells = thread_->in_warp->cell[thread_->warp_calls++ % 2];
    auto& own = cells[lane()];
    put(own[0], join(a[0], a[1]));
    put(own[1], join(a[2], a[3]));
    put(own[2], join(b[0], b[1]));
    put_sums(own, 3, sums);
    thread_->template meet_warp<false>({block_call::mma, 0}, [&] { multiply<Element>(cells); });
    get_sums(own, 3, sums);
  }

  template <class Element>
  [[nodiscard]] std::uint32_t pack(float low, float high) const {
    using traits = foresightkv::element_traits<Element>;
    return std::uint32_t{traits::store(high).bits} << 16 | traits::store(low).bits;
  }
  [[nodiscard]] float exp2(float x) const { return x < -126.0f ? 0.0f : std::exp2(x); }

 private:
  using cell = exchange_cell;
  using lane_cells = cell[warp_size][warp_exchange::words];

  template <class T>
  T exchange(block_call call, T value, int source) const {
    static_assert(std::is_arithmetic_v<T> && sizeof(T) <= sizeof(std::uint64_t));
    auto& cells = thread_->in_warp->cell[thread_->warp_calls++ % 2];
    std::uint64_t word = 0;
    std::memcpy(&word, &value, sizeof value);
    put(cells[lane()][0], word);
    thread_->template meet_warp<false>(call, [] {});
    word = get(cells[source][0]);
    std::memcpy(&value, &word, sizeof value);
    return value;
  }

  [[nodiscard]] int lane() const { return thread_->rank % warp_size; }
  [[nodiscard]] std::size_t place() const { return static_cast<std::size_t>(thread_->rank); }

  static std::uint64_t bit(int number) {
    if (number < 0 || number >= 64) throw block_misuse("a barrier's number is not in [0, 64)");
    return std::uint64_t{1} << number;
  }
  static std::uint64_t get(cell const& from) { return from.load(std::memory_order_relaxed); }
  static void put(cell& to, std::uint64_t word) { to.store(word, std::memory_order_relaxed); }
  static std::uint64_t join(std::uint32_t low, std::uint32_t high) { return std::uint64_t{high} << 32 | low; }
  static std::uint32_t low(std::uint64_t word) { return static_cast<std::uint32_t>(word); }
  static std::uint32_t high(std::uint64_t word) { return static_cast<std::uint32_t>(word >> 32); }

  static void put_sums(cell* to, int first, float const (&sums)[4]) {
    using foresightkv::detail::float_bits;
    for (int i = 0; i < 2; ++i) put(to[first + i], join(float_bits(sums[2 * i]), float_bits(sums[2 * i + 1])));
  }
  static void get_sums(cell const* from, int first, float (&sums)[4]) {
    using foresightkv::detail::bits_float;
    for (int i = 0; i < 2; ++i) {
      std::uint64_t const word = get(from[first + i]);
      sums[2 * i] = bits_float(low(word));
      sums[2 * i + 1] = bits_float(high(word));
    }
  }

  template <class Element>
  static void multiply(lane_cells& cells) {
    matrix_product product;
    float sums[4];
    for (int lane = 0; lane < warp_size; ++lane) {
      for (int part = 0; part < 4; ++part) {
        std::uint64_t const pair = get(cells[lane][part / 2]);
        product.template set_a<Element>(lane, part, part % 2 == 0 ? low(pair) : high(pair));
      }
      product.template set_b<Element>(lane, 0, low(get(cells[lane][2])));
      product.template set_b<Element>(lane, 1, high(get(cells[lane][2])));
      get_sums(cells[lane], 3, sums);
      for (int part = 0; part < 4; ++part) product.sum(lane, part) = sums[part];
    }
    product.multiply();
    for (int lane = 0; lane < warp_size; ++lane) {
      for (int part = 0; part < 4; ++part) sums[part] = product.sum(lane, part);
      put_sums(cells[lane], 3, sums);
    }
  }

  Thread* thread_;
};

/// A launch without its types.
struct grid_launch {
  int blocks = 0;
  int threads = 0;
  int cluster = 1;
  std::size_t shared_bytes = 0;
  void const* body = nullptr;
  std::type_info const* type = nullptr;
};

/// The launch of a body, and how Thread runs it.
template <class Thread, class Body>
struct typed_launch {
  static constexpr int cluster = foresightkv::detail::kernels::cluster_of<Body>();
  using context = emulated_block<Thread, Body::threads, cluster>;
  using memory = typename Body::template shared<context>;
  static_assert(foresightkv::detail::kernels::block_context<context>);
  static_assert(std::is_trivially_default_constructible_v<memory> && std::is_trivially_destructible_v<memory>,
                "shared memory starts uninitialised");
  static_assert(alignof(memory) <= 64);

  static grid_launch of(Body const& body, int blocks) {
    if (blocks % cluster != 0) throw block_misuse("a grid is made of whole clusters");
    return {blocks, Body::threads, cluster, sizeof(memory), &body, &typeid(Body)};
  }
  static void call(void const* body, Thread& thread) {
    (*static_cast<Body const*>(body))(context(thread), *reinterpret_cast<memory*>(thread.shared.data()));
  }
};

}  // namespace testing
