// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "emulation/emulated_block.hpp"
#include "emulation/fiber.hpp"
#include "emulation/test_stack.hpp"
#include "support/random.hpp"
#include "support/red_zone.hpp"

namespace testing {

class fiber_grid;

/// Threads that meet: a warp, a block or a cluster.
struct fiber_group {
  int first = 0;  // thread
  int size = 0;
  int arrived = 0;
  int ended = 0;
  block_call call{};
};

/// A thread of a block as a fiber: alone from one meeting to the next.
struct fiber_thread : block_thread {
  fiber_grid* grid = nullptr;
  int number = 0;  // among the threads of all resident blocks
  int slot = 0;    // of its block
  bool inside = false;
  block_call waits_at{};
  std::unique_ptr<fiber> stack{};

  template <bool Visible, class Last>
  void meet_warp(block_call call, Last const& last);
  template <bool Visible, class Last>
  void meet_block(block_call call, Last const& last);
  template <bool Visible, class Last>
  void meet_cluster(block_call call, Last const& last);

  void add(std::uint32_t& counter) const { ++counter; }
  void set(std::uint32_t& flags, std::uint32_t bits) const { flags |= bits; }
};

/// Runs grids on fibers of the calling thread. A seed gives the order of the blocks, how unfair the schedule
/// is, and who runs next at every meeting. The fibers stay for the next grid.
class fiber_grid {
 public:
  template <class Body>
  static grid_report run(grid_options const& options, int blocks, Body const& body) {
    using launch = typed_launch<fiber_thread, Body>;
    if (blocks <= 0) return {};
    auto const parameter = std::make_unique<Body>(body);  // a kernel gets a copy
    return of_this_thread().run(options, launch::of(*parameter, blocks), &launch::call);
  }

  /// Called by fibers.
  template <class Last>
  void meet(fiber_thread& self, fiber_group& group, block_call call, Last const& last) {
    if (group.ended > 0) throw block_misuse(name(self) + " calls " + call.text() + " after another one has ended");
    if (group.arrived > 0 && group.call != call) mismatch(self, group, call);
    group.call = call;
    self.waits_at = call;
    if (++group.arrived == group.size) {
      last();
      release(group);
    }
    pass(*self.stack);
    self.waits_at = {};
    if (failure_ != nullptr) throw abandoned_block{};
  }
  [[nodiscard]] fiber_group& warp_of(fiber_thread const& self) {
    return warps_[static_cast<std::size_t>(self.number / warp_size)];
  }
  [[nodiscard]] fiber_group& block_of(fiber_thread const& self) {
    return slots_[static_cast<std::size_t>(self.slot)].group;
  }
  [[nodiscard]] fiber_group& cluster_of(fiber_thread const& self) {
    return clusters_[static_cast<std::size_t>(self.slot / launch_.cluster)].group;
  }

 private:
  using body_call = void (*)(void const*, fiber_thread&);

  /// Where a block lives while it runs.
  struct block_slot {
    fiber_group group{};
    guarded<std::byte> shared{};
    std::unique_ptr<block_exchange> exchange{};
  };
  /// Neighbouring slots.
  struct cluster_slot {
    fiber_group group{};
    std::unique_ptr<cluster_block[]> blocks{};
  };

  static fiber_grid& of_this_thread() {
    thread_local fiber_grid grid;
    return grid;
  }

  grid_report run(grid_options const& options, grid_launch const& launch, body_call call) {
    if (running_) throw std::logic_error("a kernel body starts a kernel");
    prepare(options, launch, call);
    running_ = true;
    for (int slot = 0; slot < static_cast<int>(clusters_.size()); ++slot) begin_cluster(slot);
    caller_.switch_to(conductor_);
    for (block_slot const& slot : slots_)
      if (failure_ == nullptr && !slot.shared.intact())
        failure_ = std::make_exception_ptr(block_misuse("a block writes outside its shared memory"));
    running_ = false;
    if (failure_ != nullptr) std::rethrow_exception(std::exchange(failure_, nullptr));
    return report_;
  }

  void prepare(grid_options const& options, grid_launch const& launch, body_call call) {
    options_ = options;
    launch_ = launch;
    call_ = call;
    report_ = {};
    started_ = 0;
    ended_ = 0;
    random_ = random_source(options.seed);
    order_.resize(static_cast<std::size_t>(launch.blocks / launch.cluster));
    std::iota(order_.begin(), order_.end(), 0);
    shuffle(order_);
    int const clusters = std::clamp(options.resident_blocks / launch.cluster, 1, launch.blocks / launch.cluster);
    int const slots = clusters * launch.cluster;
    clusters_.resize(static_cast<std::size_t>(clusters));
    slots_.resize(static_cast<std::size_t>(slots));
    int const count = slots * launch.threads;
    place_threads(count);
    for (int slot = 0; slot < slots; ++slot) {
      block_slot& made = slots_[static_cast<std::size_t>(slot)];
      made.shared = guarded<std::byte>(launch.shared_bytes);
      made.exchange = std::make_unique<block_exchange>(static_cast<std::size_t>(launch.threads) + 1);
      made.group = {slot * launch.threads, launch.threads};
      cluster_slot& of = clusters_[static_cast<std::size_t>(slot / launch.cluster)];
      int const place = slot % launch.cluster;
      if (place == 0) {
        of.group = {slot * launch.threads, launch.cluster * launch.threads};
        of.blocks = std::make_unique<cluster_block[]>(static_cast<std::size_t>(launch.cluster));
      }
      of.blocks[static_cast<std::size_t>(place)].shared = {made.shared.data(), launch.shared_bytes};
    }
    block_faults const faults = options.faults.concern(*launch.type) ? options.faults : block_faults{};
    warps_.resize(static_cast<std::size_t>(count / warp_size));
    while (exchanges_.size() < warps_.size()) exchanges_.push_back(std::make_unique<warp_exchange>());
    for (int i = 0; i < count; ++i) {
      fiber_thread& made = thread(i);
      made.slot = i / launch.threads;
      made.rank = i % launch.threads;
      made.options = &options_;
      made.faults = faults;
      made.shared = {slots_[static_cast<std::size_t>(made.slot)].shared.data(), launch.shared_bytes};
      made.in_cluster = clusters_[static_cast<std::size_t>(made.slot / launch.cluster)].blocks.get();
      made.in_block = slots_[static_cast<std::size_t>(made.slot)].exchange.get();
      made.in_warp = exchanges_[static_cast<std::size_t>(i / warp_size)].get();
    }
  }

  fiber_thread& thread(int number) {
    while (static_cast<int>(threads_.size()) <= number) {
      auto made = std::make_unique<fiber_thread>();
      made->grid = this;
      made->number = static_cast<int>(threads_.size());
      made->stack = std::make_unique<fiber>(made->number, &live, made.get());
      threads_.push_back(std::move(made));
    }
    return *threads_[static_cast<std::size_t>(number)];
  }

  void begin_cluster(int slot) {
    cluster_slot& at = clusters_[static_cast<std::size_t>(slot)];
    int const cluster = order_[static_cast<std::size_t>(started_++)];
    at.group.ended = 0;
    for (int rank = 0; rank < launch_.cluster; ++rank) {
      at.blocks[static_cast<std::size_t>(rank)].running = launch_.threads;
      begin_block(slot * launch_.cluster + rank, cluster * launch_.cluster + rank);
    }
  }

  void begin_block(int slot, int block) {
    block_slot& at = slots_[static_cast<std::size_t>(slot)];
    fill_with_poison({at.shared.data(), at.shared.size()});
    at.group.ended = 0;
    for (int i = at.group.first; i < at.group.first + at.group.size; ++i) {
      if (i % warp_size == 0) warps_[static_cast<std::size_t>(i / warp_size)] = {i, warp_size};
      threads_[static_cast<std::size_t>(i)]->begin(block, launch_.threads);
      make_ready(i);
    }
  }

  static void live(void* self) {
    auto& thread = *static_cast<fiber_thread*>(self);
    for (;;) {
      thread.inside = true;
      thread.grid->run_body(thread);
      thread.inside = false;
      thread.grid->pass(*thread.stack);
    }
  }

  void run_body(fiber_thread& self) {
    try {
      call_(launch_.body, self);
      self.copies.finish(self.faults);
      end(self);
    } catch (abandoned_block const&) {
    } catch (...) {
      failure_ = std::current_exception();
    }
  }

  void end(fiber_thread& self) {
    fiber_group& warp = warp_of(self);
    fiber_group& block = block_of(self);
    fiber_group& cluster = cluster_of(self);
    for (fiber_group const* group : {&warp, &block, &cluster})
      if (group->arrived > 0) throw block_misuse(name(self) + " ends while another one waits at " + group->call.text());
    report_.syncs |= self.seen.syncs;
    report_.warp_syncs |= self.seen.warp_syncs;
    report_.cluster_syncs |= self.seen.cluster_syncs;
    ++warp.ended;
    ++cluster.ended;
    --self.in_cluster[self.slot % launch_.cluster].running;
    if (++block.ended < block.size) return;
    ++ended_;
    if (cluster.ended < cluster.size)
      fill_with_poison(self.shared);  // gone for the others, too
    else if (started_ < static_cast<int>(order_.size()))
      begin_cluster(self.slot / launch_.cluster);
  }

  /// Where a grid begins and ends: beside the caller's stack, which may be hidden meanwhile.
  static void conduct(void* self) {
    auto& grid = *static_cast<fiber_grid*>(self);
    for (;;) {
      if (grid.options_.hides_caller)
        grid.conduct_hidden();
      else
        grid.conduct();
      grid.conductor_.switch_to(grid.caller_);
    }
  }
  void conduct_hidden() {
    test_stack::hidden const caller;
    conduct();
    if (caller.touched() && failure_ == nullptr)
      failure_ = std::make_exception_ptr(block_misuse("a body uses memory of the caller's stack"));
  }
  void conduct() {
    pass(conductor_);
    if (failure_ == nullptr && ended_ < launch_.blocks) failure_ = std::make_exception_ptr(block_misuse(who_waits()));
    if (failure_ != nullptr) unwind();
  }

  /// Lets every fiber leave its body.
  void unwind() {
    std::fill(ready_.begin(), ready_.end(), 0u);
    for (auto& each : threads_)
      if (each->inside) conductor_.switch_to(*each->stack);
  }

  /// Threads stand in a line. An unfair schedule always runs the first of those that can, so that some are as
  /// far ahead of the others as the barriers allow; else a search from a random place finds one.
  void place_threads(int count) {
    unfair_ = random_.chance(0.5);
    int const together = random_.chance(0.5) ? warp_size : 1;
    std::vector<int> groups(static_cast<std::size_t>(count / together));
    std::iota(groups.begin(), groups.end(), 0);
    shuffle(groups);
    line_.clear();
    for (int group : groups)
      for (int i = 0; i < together; ++i) line_.push_back(group * together + i);
    place_.resize(line_.size());
    for (std::size_t at = 0; at < line_.size(); ++at)
      place_[static_cast<std::size_t>(line_[at])] = static_cast<int>(at);
    ready_.assign((line_.size() + 63) / 64, 0u);
  }

  void make_ready(int thread) {
    auto const place = static_cast<std::size_t>(place_[static_cast<std::size_t>(thread)]);
    ready_[place / 64] |= std::uint64_t{1} << place % 64;
  }

  void release(fiber_group& group) {
    group.arrived = 0;
    for (int i = group.first; i < group.first + group.size; ++i) make_ready(i);
  }

  /// The next thread to run, taken out of those that can; nullptr where there is none.
  fiber_thread* take_next() {
    std::size_t const start = unfair_ ? 0 : static_cast<std::size_t>(random_.bits() % line_.size());
    std::size_t word = start / 64;
    std::uint64_t candidates = ready_[word] & (~std::uint64_t{0} << start % 64);
    for (std::size_t tried = 0; candidates == 0; ++tried) {
      if (tried == ready_.size()) return nullptr;
      word = word + 1 < ready_.size() ? word + 1 : 0;
      candidates = ready_[word];
    }
    auto const bit = static_cast<std::size_t>(std::countr_zero(candidates));
    ready_[word] &= ~(std::uint64_t{1} << bit);
    return threads_[static_cast<std::size_t>(line_[word * 64 + bit])].get();
  }

  /// Goes on with the next thread, or with the conductor where none can go on or one has failed.
  void pass(fiber& from) {
    fiber_thread* const next = failure_ == nullptr ? take_next() : nullptr;
    fiber& to = next == nullptr ? conductor_ : *next->stack;
    if (&to != &from) from.switch_to(to);
  }

  template <class Range>
  void shuffle(Range& range) {
    for (std::size_t i = range.size(); i > 1; --i) std::swap(range[i - 1], range[random_.bits() % i]);
  }

  static std::string name(fiber_thread const& thread) { return thread_name(thread.block, thread.rank); }

  [[noreturn]] void mismatch(fiber_thread const& self, fiber_group const& group, block_call call) const {
    int other = group.first;
    while (threads_[static_cast<std::size_t>(other)]->waits_at != group.call) ++other;
    throw block_misuse(name(self) + " calls " + call.text() + " while thread " +
                       std::to_string(threads_[static_cast<std::size_t>(other)]->rank) + " waits at " +
                       group.call.text());
  }

  /// Of a grid in which nobody can go on: the first thread of each run that waits at the same call.
  [[nodiscard]] std::string who_waits() const {
    std::string text = "threads wait for each other:";
    block_call last{};
    for (std::size_t i = 0; i < line_.size(); ++i) {
      fiber_thread const& each = *threads_[i];
      if (each.inside && each.waits_at != last)
        text.append(" ").append(name(each)).append(" at ").append(each.waits_at.text()).append(";");
      last = each.inside ? each.waits_at : block_call{};
    }
    return text;
  }

  bool running_ = false;
  grid_options options_{};
  grid_launch launch_{};
  body_call call_ = nullptr;
  grid_report report_{};
  random_source random_{0};
  std::exception_ptr failure_{};

  std::vector<int> order_;  // of clusters
  int started_ = 0;
  int ended_ = 0;

  bool unfair_ = false;
  std::vector<int> line_;             // place -> thread
  std::vector<int> place_;            // thread -> place
  std::vector<std::uint64_t> ready_;  // a bit for each place

  fiber caller_{};
  fiber conductor_{0, &conduct, this};
  std::vector<std::unique_ptr<fiber_thread>> threads_;
  std::vector<fiber_group> warps_;
  std::vector<std::unique_ptr<warp_exchange>> exchanges_;
  std::vector<block_slot> slots_;
  std::vector<cluster_slot> clusters_;
};

template <bool Visible, class Last>
void fiber_thread::meet_warp(block_call call, Last const& last) {
  grid->meet(*this, grid->warp_of(*this), call, last);
}
template <bool Visible, class Last>
void fiber_thread::meet_block(block_call call, Last const& last) {
  grid->meet(*this, grid->block_of(*this), call, last);
}
template <bool Visible, class Last>
void fiber_thread::meet_cluster(block_call call, Last const& last) {
  grid->meet(*this, grid->cluster_of(*this), call, last);
}

/// The block context on fibers.
template <int Threads, int Cluster = 1>
using fiber_block = emulated_block<fiber_thread, Threads, Cluster>;

}  // namespace testing
