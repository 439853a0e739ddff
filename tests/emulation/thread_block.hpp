// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "emulation/emulated_block.hpp"
#include "emulation/hidden_order.hpp"
#include "support/random.hpp"
#include "support/red_zone.hpp"

namespace testing {

/// OS threads that wait for work: work(i) runs on thread i of as many as are asked for.
class thread_crew {
 public:
  thread_crew() = default;
  thread_crew(thread_crew const&) = delete;
  thread_crew& operator=(thread_crew const&) = delete;
  ~thread_crew() {
    {
      std::scoped_lock const lock(mutex_);
      stopping_ = true;
    }
    started_.notify_all();
    for (std::thread& each : threads_) each.join();
  }

  void run(int count, std::function<void(int)> const& work) {
    std::unique_lock lock(mutex_);
    while (static_cast<int>(threads_.size()) < count)
      threads_.emplace_back([this, number = static_cast<int>(threads_.size()), turn = turn_] { live(number, turn); });
    work_ = &work;
    wanted_ = count;
    busy_ = count;
    ++turn_;
    started_.notify_all();
    finished_.wait(lock, [&] { return busy_ == 0; });
  }

 private:
  void live(int number, std::uint64_t turn) {
    std::unique_lock lock(mutex_);
    for (;;) {
      started_.wait(lock, [&] { return stopping_ || (turn_ != turn && number < wanted_); });
      if (stopping_) return;
      turn = turn_;
      auto const& work = *work_;
      lock.unlock();
      work(number);
      lock.lock();
      if (--busy_ == 0) finished_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable started_, finished_;
  std::vector<std::thread> threads_;
  std::function<void(int)> const* work_ = nullptr;
  std::uint64_t turn_ = 0;
  int wanted_ = 0;
  int busy_ = 0;
  bool stopping_ = false;
};

/// Threads that meet: a warp, a block or a cluster.
struct thread_group {
  int first = 0;  // place
  int size = 0;
  std::atomic<int> arrived{0};
  std::atomic<std::uint32_t> meetings{0};
};

class thread_grid;

/// A thread of a block as a thread of the OS.
struct os_thread : block_thread {
  thread_grid* grid = nullptr;
  int slot = 0;
  int place = 0;                           // among the threads of its slot
  std::atomic<std::uint64_t> waits_at{0};  // code of a block_call

  template <bool Visible, class Last>
  void meet_warp(block_call call, Last const& last);
  template <bool Visible, class Last>
  void meet_block(block_call call, Last const& last);
  template <bool Visible, class Last>
  void meet_cluster(block_call call, Last const& last);

  void add(std::uint32_t& counter) const { std::atomic_ref(counter).fetch_add(1, std::memory_order_relaxed); }
  void set(std::uint32_t& flags, std::uint32_t bits) const {
    std::atomic_ref(flags).fetch_or(bits, std::memory_order_relaxed);
  }
};

/// Runs grids on OS threads, for ThreadSanitizer: a barrier of the body orders memory, nothing else does that
/// two threads of a block or two resident blocks share. The seed gives the order of the clusters.
class thread_grid {
 public:
  template <class Body>
  static grid_report run(grid_options const& options, int blocks, Body const& body) {
    using launch = typed_launch<os_thread, Body>;
    static std::mutex one_at_a_time;
    static thread_crew crew;
    if (blocks <= 0) return {};
    std::scoped_lock const lock(one_at_a_time);
    return thread_grid(options, launch::of(body, blocks), &launch::call).run(crew);
  }

  /// Called by threads of a block.
  template <bool Visible, class Last>
  void meet(os_thread& self, thread_group& group, block_call call, Last const& last) {
    constexpr auto arrive = Visible ? std::memory_order_acq_rel : std::memory_order_relaxed;
    constexpr auto leave = Visible ? std::memory_order_release : std::memory_order_relaxed;
    constexpr auto see = Visible ? std::memory_order_acquire : std::memory_order_relaxed;
    cluster_slot& slot = slot_of(self);
    std::uint32_t const before = group.meetings.load(std::memory_order_relaxed);
    order_unseen();
    if (slot.abandoned.load(std::memory_order_relaxed)) throw abandoned_block{};
    self.waits_at.store(call.code(), std::memory_order_relaxed);
    order_unseen();
    if (group.arrived.fetch_add(1, arrive) + 1 == group.size) {
      order_unseen();
      check_same(self, slot, group);
      last();
      group.arrived.store(0, std::memory_order_relaxed);
      slot.idle.fetch_sub(group.size - 1, std::memory_order_relaxed);
      order_unseen();
      group.meetings.store(before + 1, leave);
      wake_all(group.meetings);
    } else {
      become_idle(slot);
      while (group.meetings.load(see) == before) sleep_while(group.meetings, before);
      order_unseen();
      if (slot.abandoned.load(std::memory_order_relaxed)) throw abandoned_block{};
    }
    self.waits_at.store(0, std::memory_order_relaxed);
  }
  [[nodiscard]] thread_group& warp_of(os_thread const& self) {
    return slot_of(self).warps[static_cast<std::size_t>(self.place / warp_size)];
  }
  [[nodiscard]] thread_group& block_of(os_thread const& self) {
    return slot_of(self).blocks[static_cast<std::size_t>(self.place / launch_.threads)];
  }
  [[nodiscard]] thread_group& cluster_of(os_thread const& self) { return slot_of(self).group; }

 private:
  using body_call = void (*)(void const*, os_thread&);

  /// Where a cluster lives while it runs.
  struct cluster_slot {
    explicit cluster_slot(grid_launch const& launch)
        : shared(static_cast<std::size_t>(launch.cluster), guarded<std::byte>(launch.shared_bytes)),
          in_cluster(shared.size()),
          blocks(shared.size()),
          warps(shared.size() * static_cast<std::size_t>(launch.threads / warp_size)),
          in_warps(warps.size()),
          threads(shared.size() * static_cast<std::size_t>(launch.threads)) {
      turn.size = group.size = launch.cluster * launch.threads;
      divide(blocks, launch.threads);
      divide(warps, warp_size);
      for (std::size_t block = 0; block < blocks.size(); ++block) {
        in_blocks.emplace_back(static_cast<std::size_t>(launch.threads) + 1);
        in_cluster[block].shared = {shared[block].data(), shared[block].size()};
      }
    }
    static void divide(std::vector<thread_group>& groups, int size) {
      for (std::size_t i = 0; i < groups.size(); ++i) {
        groups[i].first = static_cast<int>(i) * size;
        groups[i].size = size;
      }
    }

    std::vector<guarded<std::byte>> shared;  // of each block
    std::vector<cluster_block> in_cluster;
    thread_group turn{};  // of all threads, between clusters
    thread_group group{};
    std::vector<thread_group> blocks;
    std::vector<thread_group> warps;
    std::vector<warp_exchange> in_warps;
    std::deque<block_exchange> in_blocks;
    std::vector<os_thread> threads;
    int cluster = -1;
    std::size_t next = 0;      // in the order of clusters; slots take turns, so that each has some
    std::atomic<int> idle{0};  // threads that wait or have ended
    std::atomic<int> ended{0};
    std::atomic<bool> abandoned{false};
  };

  [[nodiscard]] cluster_slot& slot_of(os_thread const& self) { return *slots_[static_cast<std::size_t>(self.slot)]; }

  thread_grid(grid_options const& options, grid_launch const& launch, body_call call)
      : options_(options),
        launch_(launch),
        call_(call),
        order_(static_cast<std::size_t>(launch.blocks / launch.cluster)) {
    std::iota(order_.begin(), order_.end(), 0);
    random_source random(options.seed);
    for (std::size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random.bits() % i]);
    int const slots = std::clamp(options.resident_blocks / launch.cluster, 1, launch.blocks / launch.cluster);
    block_faults const faults = options.faults.concern(*launch.type) ? options.faults : block_faults{};
    for (int slot = 0; slot < slots; ++slot) {
      slots_.push_back(std::make_unique<cluster_slot>(launch));
      cluster_slot& made = *slots_.back();
      made.next = static_cast<std::size_t>(slot);
      for (int place = 0; place < made.group.size; ++place) {
        auto const block = static_cast<std::size_t>(place / launch.threads);
        os_thread& thread = made.threads[static_cast<std::size_t>(place)];
        thread.grid = this;
        thread.slot = slot;
        thread.place = place;
        thread.rank = place % launch.threads;
        thread.options = &options_;
        thread.faults = faults;
        thread.shared = made.in_cluster[block].shared;
        thread.in_cluster = made.in_cluster.data();
        thread.in_block = &made.in_blocks[block];
        thread.in_warp = &made.in_warps[static_cast<std::size_t>(place / warp_size)];
      }
    }
  }

  grid_report run(thread_crew& crew) {
    int const each = launch_.cluster * launch_.threads;
    gate_.size = static_cast<int>(slots_.size()) * each;
    crew.run(gate_.size, [this, each](int number) {
      pass_gate();
      live(*slots_[static_cast<std::size_t>(number / each)], number % each);
    });
    for (auto const& slot : slots_)
      for (auto const& shared : slot->shared)
        if (failure_ == nullptr && !shared.intact()) throw block_misuse("a block writes outside its shared memory");
    if (failure_ != nullptr) std::rethrow_exception(failure_);
    return {syncs_.load(), warp_syncs_.load(), cluster_syncs_.load()};
  }

  /// Nobody begins before all are there: the crew's lock, taken by one thread after another one has ended,
  /// would order the memory of their blocks.
  void pass_gate() {
    if (gate_.arrived.fetch_add(1, std::memory_order_relaxed) + 1 == gate_.size) {
      gate_.meetings.store(1, std::memory_order_relaxed);
      wake_all(gate_.meetings);
    }
    while (gate_.meetings.load(std::memory_order_relaxed) == 0) sleep_while(gate_.meetings, 0);
  }

  void live(cluster_slot& slot, int place) {
    os_thread& self = slot.threads[static_cast<std::size_t>(place)];
    for (;;) {
      next_cluster(slot);
      if (slot.cluster < 0) return;
      self.begin(slot.cluster * launch_.cluster + place / launch_.threads, launch_.threads);
      try {
        call_(launch_.body, self);
        self.copies.finish(self.faults);
        end(self, slot);
      } catch (abandoned_block const&) {
      } catch (...) {
        fail(slot);
      }
    }
  }

  /// All threads of a slot leave one cluster together and begin the next one.
  void next_cluster(cluster_slot& slot) {
    std::uint32_t const before = slot.turn.meetings.load(std::memory_order_relaxed);
    if (slot.turn.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 < slot.turn.size) {
      while (slot.turn.meetings.load(std::memory_order_acquire) == before) sleep_while(slot.turn.meetings, before);
      return;
    }
    bool const more = slot.next < order_.size() && !stopped_.load(std::memory_order_relaxed);
    slot.cluster = more ? order_[slot.next] : -1;
    slot.next += slots_.size();
    for (cluster_block& block : slot.in_cluster) {
      fill_with_poison(block.shared);
      block.running.store(launch_.threads, std::memory_order_relaxed);
    }
    slot.idle.store(0, std::memory_order_relaxed);
    slot.ended.store(0, std::memory_order_relaxed);
    slot.turn.arrived.store(0, std::memory_order_relaxed);
    slot.turn.meetings.store(before + 1, std::memory_order_release);
    wake_all(slot.turn.meetings);
  }

  void end(os_thread const& self, cluster_slot& slot) {
    syncs_.fetch_or(self.seen.syncs, std::memory_order_relaxed);
    warp_syncs_.fetch_or(self.seen.warp_syncs, std::memory_order_relaxed);
    cluster_syncs_.fetch_or(self.seen.cluster_syncs, std::memory_order_relaxed);
    leave_block(self);
    slot.ended.fetch_add(1, std::memory_order_relaxed);
    order_unseen();
    become_idle(slot);
  }

  /// What another block of the cluster still reads, without a barrier, is a race with the poison of the last thread.
  void leave_block(os_thread const& self) const {
    std::atomic<int>& running = self.in_cluster[self.place / launch_.threads].running;
    if (running.fetch_sub(1, std::memory_order_acq_rel) == 1 && launch_.cluster > 1) fill_with_poison(self.shared);
  }

  /// A thread that goes idle last, before all have ended, tells of it: no other one will.
  void become_idle(cluster_slot& slot) {
    if (slot.idle.fetch_add(1, std::memory_order_relaxed) + 1 < slot.group.size) return;
    order_unseen();
    if (slot.ended.load(std::memory_order_relaxed) < slot.group.size) throw block_misuse(who_waits(slot));
  }

  /// The cluster's other threads leave it at their next meeting, and no other one begins.
  void fail(cluster_slot& slot) {
    {
      std::scoped_lock const lock(failing_);
      if (failure_ == nullptr) failure_ = std::current_exception();
    }
    stopped_.store(true, std::memory_order_relaxed);
    slot.abandoned.store(true, std::memory_order_relaxed);
    order_unseen();
    let_go(slot.group);
    for (thread_group& block : slot.blocks) let_go(block);
    for (thread_group& warp : slot.warps) let_go(warp);
  }
  static void let_go(thread_group& group) {
    group.meetings.fetch_add(1, std::memory_order_relaxed);
    wake_all(group.meetings);
  }

  void check_same(os_thread const& self, cluster_slot const& slot, thread_group const& group) const {
    std::uint64_t const own = self.waits_at.load(std::memory_order_relaxed);
    for (int place = group.first; place < group.first + group.size; ++place) {
      os_thread const& each = slot.threads[static_cast<std::size_t>(place)];
      std::uint64_t const other = each.waits_at.load(std::memory_order_relaxed);
      if (other != own)
        throw block_misuse(name(slot, self.place) + " calls " + block_call::of(own).text() + " while thread " +
                           std::to_string(each.rank) + " waits at " + block_call::of(other).text());
    }
  }

  [[nodiscard]] std::string name(cluster_slot const& slot, int place) const {
    return thread_name(slot.cluster * launch_.cluster + place / launch_.threads, place % launch_.threads);
  }

  [[nodiscard]] std::string who_waits(cluster_slot const& slot) const {
    std::string text = "threads wait for each other:";
    std::uint64_t last = 0;
    for (os_thread const& each : slot.threads) {
      std::uint64_t const code = each.waits_at.load(std::memory_order_relaxed);
      if (code != 0 && code != last)
        text.append(" ").append(name(slot, each.place)).append(" at ").append(block_call::of(code).text()).append(";");
      last = code;
    }
    return text;
  }

  grid_options options_;
  grid_launch launch_;
  body_call call_;
  std::vector<int> order_;  // of clusters
  std::atomic<bool> stopped_{false};
  thread_group gate_{};
  std::vector<std::unique_ptr<cluster_slot>> slots_;
  std::atomic<std::uint64_t> syncs_{0}, warp_syncs_{0}, cluster_syncs_{0};
  std::mutex failing_;
  std::exception_ptr failure_{};
};

template <bool Visible, class Last>
void os_thread::meet_warp(block_call call, Last const& last) {
  grid->meet<Visible>(*this, grid->warp_of(*this), call, last);
}
template <bool Visible, class Last>
void os_thread::meet_block(block_call call, Last const& last) {
  grid->meet<Visible>(*this, grid->block_of(*this), call, last);
}
template <bool Visible, class Last>
void os_thread::meet_cluster(block_call call, Last const& last) {
  grid->meet<Visible>(*this, grid->cluster_of(*this), call, last);
}

/// The block context on OS threads.
template <int Threads, int Cluster = 1>
using thread_block = emulated_block<os_thread, Threads, Cluster>;

}  // namespace testing
