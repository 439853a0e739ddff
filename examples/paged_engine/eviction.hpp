// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <foresightkv/foresightkv.hpp>
#include <functional>
#include <limits>
#include <memory>
#include <memory_resource>
#include <stdexcept>
#include <string>
#include <vector>

#include "paged_engine/completed.hpp"
#include "paged_engine/kv_memory.hpp"

namespace paged_engine {

/// What the engine asks of the library. Lengths and pages change in the engine's memory; requests are not known here.
class eviction {
 public:
  virtual ~eviction() = default;

  /// A sequence of so many cached tokens is due, and gets no token more before it was cut.
  [[nodiscard]] virtual int most_tokens() const = 0;
  /// Tokens that a cut leaves, and those of them, from the first, that it never moves.
  [[nodiscard]] virtual int budget() const = 0;
  [[nodiscard]] virtual int sink_tokens() const = 0;
  /// First tokens of a request that can be kept whatever they score.
  [[nodiscard]] virtual int most_pinned() const = 0;

  /// A request starts in a slot. \param pinned  so many of its first tokens stay, whatever they score
  virtual void start(int slot, std::uint32_t request, int pinned) = 0;
  /// Which of the slots are due.
  [[nodiscard]] virtual std::vector<int> due(std::vector<int> const& slots) = 0;
  /// Cuts sequences where they stand. One that is flagged keeps its length.
  virtual void cut(std::vector<int> const& slots) = 0;
  /// Cuts a sequence into fresh pages, since others read its own.
  virtual void cut_into_fresh_pages(int slot) = 0;
  /// Takes a sequence's newest tokens back.
  virtual void take_back(int slot, int count) = 0;
  /// A sequence's state, to a buffer and into a slot, which may be another one.
  [[nodiscard]] virtual std::vector<std::byte> save(int slot) = 0;
  virtual void restore(int slot, std::vector<std::byte> const& saved, int pinned) = 0;

  /// Why a sequence was left alone; empty if it was not.
  [[nodiscard]] virtual std::string problem(int slot) const = 0;
  /// Position of every cached token of a row, by slot.
  [[nodiscard]] virtual std::vector<int> positions(fkv::row_index row) const = 0;
};

/// Made over the memory of an engine, by that engine.
using eviction_maker = std::function<std::unique_ptr<eviction>(kv_memory&)>;

/// Evicts nothing: what an engine without the library does.
class full_cache final : public eviction {
 public:
  explicit full_cache(kv_memory& memory) : memory_(&memory) {}
  [[nodiscard]] int most_tokens() const override { return std::numeric_limits<int>::max(); }
  [[nodiscard]] int budget() const override { return most_tokens(); }
  [[nodiscard]] int sink_tokens() const override { return 0; }
  [[nodiscard]] int most_pinned() const override { return most_tokens(); }
  void start(int, std::uint32_t, int) override {}
  [[nodiscard]] std::vector<int> due(std::vector<int> const&) override { return {}; }
  void cut(std::vector<int> const&) override {}
  void cut_into_fresh_pages(int) override {}
  void take_back(int slot, int count) override { memory_->length(slot) -= count; }
  [[nodiscard]] std::vector<std::byte> save(int) override { return {}; }
  void restore(int, std::vector<std::byte> const&, int) override {}
  [[nodiscard]] std::string problem(int) const override { return {}; }
  [[nodiscard]] std::vector<int> positions(fkv::row_index row) const override {
    std::vector<int> all(static_cast<std::size_t>(memory_->length(row.sequence)));
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int>(i);
    return all;
  }

 private:
  kv_memory* memory_;
};

/// Every call of a verb that the engine makes. What they read and write stands in the memory of the cache.
template <class Exec, class Policy>
class policy_eviction final : public eviction {
 public:
  policy_eviction(Exec exec, Policy const& policy, kv_memory& memory)
      : exec_(exec),
        policy_(checked(policy, memory)),
        memory_(&memory),
        columns_(fkv::state_bytes(policy, memory.shape(), columns()), memory.resource()),
        scratch_(fkv::evict_into_bytes(exec, policy, memory.shape(), all(), memory.extents().window),
                 memory.resource()),
        state_(fkv::make_state(policy, memory.shape(), columns(), columns_)),
        pin_words_((memory.shape().capacity + 31) / 32),
        saved_(fkv::save_bytes(state_), memory.resource()),
        pins_(num(slots() * pin_words_), 0, memory.resource()),
        request_ids_(num(slots()), 0, memory.resource()),
        slots_(memory.resource()),
        due_(num(slots()) + 1, memory.resource()),
        rejected_(num(slots()), 0, memory.resource()),
        new_lengths_(num(slots()), 0, memory.resource()),
        freed_(num(slots() * memory.max_pages()), -1, memory.resource()),
        freed_counts_(num(slots()), 0, memory.resource()),
        fresh_tables_(num(slots() * memory.max_pages()), -1, memory.resource()),
        room_(num(slots()), 0, memory.resource()) {
    state_ = state_.with_pinned(pins_.data(), pin_words_);
  }

  [[nodiscard]] int most_tokens() const override { return config().budget + config().interval; }
  [[nodiscard]] int budget() const override { return config().budget; }
  [[nodiscard]] int sink_tokens() const override { return config().sink_tokens; }
  [[nodiscard]] int most_pinned() const override { return config().budget - config().recent(); }

  void start(int slot, std::uint32_t request, int pinned) override {
    request_ids_[num(slot)] = request;
    require(fkv::reset(exec_, state_, list({slot}), request_ids_.data()));
    pin(slot, pinned);
  }
  [[nodiscard]] std::vector<int> due(std::vector<int> const& slots) override {
    std::int32_t& count = due_.back();
    require(fkv::collect_due(exec_, rows(list(slots)), due_.data(), &count));
    return {due_.begin(), due_.begin() + count};
  }
  void cut(std::vector<int> const& slots) override {
    if (slots.empty()) return;
    for (int const slot : slots) expect_nothing(slot);
    require(fkv::evict(exec_, rows(list(slots)), memory_->window(), output()));
    for (int const slot : slots) {
      memory_->length(slot) = new_lengths_[num(slot)];
      memory_->give_back(slot, freed_of(slot), freed_counts_[num(slot)]);
    }
  }
  void cut_into_fresh_pages(int slot) override {
    int const places = memory_->pages_of(budget());
    std::int32_t* const fresh = &fresh_tables_[num(slot * memory_->max_pages())];
    for (int i = 0; i < places; ++i) fresh[i] = memory_->allocator.take();
    room_[num(slot)] = budget();
    auto const target = memory_->over(fresh_tables_.data(), room_.data());
    expect_nothing(slot);
    require(fkv::evict(exec_, rows(list({slot})).into(target), memory_->window(), output()));
    if (!fkv::left_alone(state_.flags[slot])) {
      memory_->shrink(slot, 0);  // the others that read those pages keep them
      for (int i = 0; i < places; ++i) std::swap(memory_->page(slot, i), fresh[i]);
      memory_->length(slot) = new_lengths_[num(slot)];
      memory_->give_back(slot, freed_of(slot), freed_counts_[num(slot)]);
    } else {
      for (int i = 0; i < places; ++i) memory_->allocator.give_back(fresh[i]);
    }
    std::fill_n(fresh, places, -1);
  }
  void take_back(int slot, int count) override {
    rejected_[num(slot)] = count;
    expect_nothing(slot);
    require(fkv::take_back(exec_, rows(list({slot})), rejected_.data(), new_lengths_.data()));
    memory_->length(slot) = new_lengths_[num(slot)];
  }
  [[nodiscard]] std::vector<std::byte> save(int slot) override {
    require(fkv::save(exec_, state_, slot, saved_));
    return {saved_.begin(), saved_.end()};
  }
  void restore(int slot, std::vector<std::byte> const& saved, int pinned) override {
    std::ranges::copy(saved, saved_.begin());
    require(fkv::restore(exec_, state_, slot, saved_));
    pin(slot, pinned);
  }

  [[nodiscard]] std::string problem(int slot) const override {
    std::string all;
    for (std::uint32_t left = state_.flags[slot] & ~fkv::sequence_notices; left != 0; left &= left - 1)
      all += std::string(all.empty() ? "" : "; ") + fkv::message(fkv::sequence_flag{left & (0u - left)});
    return all;
  }
  [[nodiscard]] std::vector<int> positions(fkv::row_index at) const override {
    int const row = state_.row(at), length = memory_->length(at.sequence);
    std::vector<int> all;
    for (int slot = 0; slot < length; ++slot) {
      int const seen = state_.seen_length[row];
      bool const new_token = slot >= seen;
      if (state_.step[row] == 0)
        all.push_back(slot);
      else
        all.push_back(new_token ? state_.next_position[row] + slot - seen : state_.position[state_.column(row, slot)]);
    }
    return all;
  }

 private:
  using cache_batch = fkv::batch<Policy, pages>;
  static std::size_t num(int i) { return static_cast<std::size_t>(i); }
  static Policy const& checked(Policy const& policy, kv_memory const& memory) {
    if (!policy.config.valid()) throw std::invalid_argument("a budget that cannot be");
    if (memory.shape().capacity < policy.config.budget + policy.config.interval)
      throw std::invalid_argument("max_tokens must hold budget + interval");
    if (memory.extents().window < std::min(fkv::newest_queries<Policy>, policy.config.interval))
      throw std::invalid_argument("the window must hold the queries that the policy looks at");
    return policy;
  }
  /// Nothing is written for a sequence that is left alone.
  void expect_nothing(int slot) {
    new_lengths_[num(slot)] = memory_->length(slot);
    freed_counts_[num(slot)] = 0;
  }
  [[nodiscard]] fkv::eviction_config config() const { return policy_.config; }
  [[nodiscard]] int slots() const { return memory_->extents().slots; }
  [[nodiscard]] int columns() const { return config().budget + config().interval; }
  [[nodiscard]] fkv::sequence_list all() const { return {nullptr, nullptr, slots(), memory_->shape().capacity}; }
  /// Until the next list.
  [[nodiscard]] fkv::sequence_list list(std::vector<int> const& slots) {
    slots_.assign(slots.begin(), slots.end());
    return {slots_.data(), nullptr, static_cast<int>(slots.size()), memory_->shape().capacity};
  }
  [[nodiscard]] cache_batch rows(fkv::sequence_list const& sequences) {
    return {policy_, memory_->cache(), sequences, state_, scratch_};
  }
  [[nodiscard]] fkv::eviction_output output() {
    return {.new_lengths = new_lengths_.data(), .freed = {freed_.data(), freed_counts_.data(), memory_->max_pages()}};
  }
  [[nodiscard]] std::int32_t const* freed_of(int slot) const { return &freed_[num(slot * memory_->max_pages())]; }
  void pin(int slot, int pinned) {
    std::uint32_t* const bits = &pins_[num(slot * pin_words_)];
    std::fill_n(bits, pin_words_, 0u);
    for (int position = 0; position < std::min(pinned, pin_words_ * 32); ++position)
      bits[position / 32] |= 1u << (position % 32);
  }
  /// What a status says is the engine's own mistake (sizes, pointers, a config that cannot be) or the device's.
  void require(fkv::status const& begun) const {
    fkv::status const done = completed(exec_, begun);
    if (!done.ok()) throw std::logic_error(text(done));
  }

  Exec exec_;
  Policy policy_;
  kv_memory* memory_;
  std::pmr::vector<std::byte> columns_, scratch_;
  fkv::eviction_state<Policy> state_;
  int pin_words_ = 0;
  std::pmr::vector<std::byte> saved_;
  std::pmr::vector<std::uint32_t> pins_, request_ids_;
  std::pmr::vector<std::int32_t> slots_, due_, rejected_, new_lengths_, freed_, freed_counts_, fresh_tables_, room_;
};

/// Makes an eviction under a policy, for the engine.
template <class Exec, class Policy>
[[nodiscard]] eviction_maker evicting(Exec exec, Policy const& policy) {
  return [exec, policy](kv_memory& memory) -> std::unique_ptr<eviction> {
    return std::make_unique<policy_eviction<Exec, Policy>>(exec, policy, memory);
  };
}
[[nodiscard]] inline eviction_maker evicting_nothing() {
  return [](kv_memory& memory) -> std::unique_ptr<eviction> { return std::make_unique<full_cache>(memory); };
}

}  // namespace paged_engine
