// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <list>
#include <memory>
#include <memory_resource>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "paged_engine/attention.hpp"
#include "paged_engine/eviction.hpp"
#include "paged_engine/kv_memory.hpp"
#include "paged_engine/model.hpp"

namespace paged_engine {

struct request {
  std::vector<int> prompt;
  int new_tokens = 16;
  int pinned = 0;  ///< so many tokens of the prompt are never evicted
};

struct answer {
  int id = 0;
  std::vector<int> tokens;  ///< those that were generated
  std::string problem;      ///< empty, or why the request could not go on
};

/// What becomes of the pages of a sequence that has to make room: they are copied to a buffer, or dropped and computed
/// again.
enum class preemption { swap, recompute };

/// Guesses the next tokens of a text, at most so many.
using draft_proposer = std::function<std::vector<int>(std::vector<int> const& tokens, int most)>;

struct engine_options {
  int chunk = 32;  ///< tokens of a prompt that run in a step
  int drafts = 0;  ///< draft tokens that are verified in a step
  preemption preempt_by = preemption::swap;
  bool shares_prefixes = true;
  draft_proposer propose = {};  ///< null: lookup_drafts
};

struct engine_counters {
  std::int64_t computed_tokens = 0, generated_tokens = 0;
  std::int64_t cuts = 0, cuts_into_fresh_pages = 0, pages_from_cuts = 0;
  std::int64_t shared_pages = 0, preemptions = 0, drafts_accepted = 0, drafts_rejected = 0;
  int most_running = 0, most_pages = 0;
};

/// A request on its way through the engine.
struct sequence {
  int id = 0;
  request asked;
  std::vector<int> tokens;  ///< prompt and what was generated
  int computed = 0;         ///< so many of them went through the model: the next token's position
  int slot = -1;            ///< -1 while it waits
  // What a swap has put aside; no length, nothing is.
  int saved_length = 0;
  std::vector<std::byte> saved_state;
  std::vector<float> saved_pages, saved_queries;
  std::vector<float> attended;  ///< attention of the newest token, [layer][query head][dim]

  [[nodiscard]] int length() const { return static_cast<int>(tokens.size()); }
  [[nodiscard]] int wanted() const { return static_cast<int>(asked.prompt.size()) + asked.new_tokens - length(); }
};

/// The tokens that followed the last two when they stood together before.
inline std::vector<int> lookup_drafts(std::vector<int> const& tokens, int most) {
  auto const count = static_cast<int>(tokens.size());
  for (int at = count - 3; at >= 0 && count >= 3; --at) {
    auto const first = tokens.begin() + at;
    if (first[0] != tokens[tokens.size() - 2] || first[1] != tokens.back()) continue;
    auto const from = tokens.begin() + at + 2;
    return {from, from + std::min<std::ptrdiff_t>(most, tokens.end() - from)};
  }
  return {};
}

/// Requests in, tokens out. A step admits, runs one chunk or one token with drafts of every running sequence, verifies,
/// ends what is done, and cuts what is due. Older requests come first: the youngest makes room.
class engine {
 public:
  /// \param memory  of all that verbs and the attention read, which the host reaches too
  engine(model const& decoder, memory_shape const& extents, engine_options options, eviction_maker const& make,
         attention attend, std::pmr::memory_resource* memory = std::pmr::new_delete_resource())
      : model_(&decoder),
        options_(std::move(options)),
        attend_(std::move(attend)),
        memory_(decoder.shape(), extents, memory),
        wave_(memory),
        eviction_(make(memory_)) {
    if (options_.chunk < 1 || options_.drafts < 0) throw std::invalid_argument("a step runs a token at least");
    for (int slot = extents.slots; slot-- > 0;) free_slots_.push_back(slot);
    if (!options_.propose) options_.propose = lookup_drafts;
  }
  /// The model is the caller's, and lives longer.
  engine(model const&&, memory_shape const&, engine_options, eviction_maker const&, attention,
         std::pmr::memory_resource* = nullptr) = delete;
  engine(engine const&) = delete;
  engine& operator=(engine const&) = delete;

  /// \return the request's number; throws std::invalid_argument for one that the pool could never hold, whose tokens the
  ///         model does not know, or that pins more than its budget has room for
  int submit(request asked) {
    if (asked.prompt.empty() || asked.new_tokens < 1) throw std::invalid_argument("a request has tokens");
    if (!std::ranges::all_of(asked.prompt, [&](int token) { return knows(token); }))
      throw std::invalid_argument("a token that the model does not know");
    if (asked.pinned < 0 || asked.pinned > eviction_->most_pinned())
      throw std::invalid_argument("a request pins more than its budget has room for");
    if (asked.prompt.size() > num(std::numeric_limits<int>::max() - asked.new_tokens))
      throw std::invalid_argument("a request is longer than positions can be");
    int const most = static_cast<int>(asked.prompt.size()) + asked.new_tokens;
    if (bounded(most) > memory_.shape().capacity || memory_.pages_of(bounded(most)) > memory_.extents().num_pages)
      throw std::invalid_argument("a request is longer than the cache");
    sequence& made = waiting_.emplace_back();
    made.id = next_id_++;
    made.tokens = asked.prompt;
    made.asked = std::move(asked);
    return made.id;
  }
  /// Ends a request before its time; its pages come back at once.
  void cancel(int id) {
    waiting_.remove_if([&](sequence const& one) { return one.id == id; });
    for (auto it = running_.begin(); it != running_.end(); ++it)
      if (it->id == id) {
        release(*it);
        running_.erase(it);
        return;
      }
  }
  /// Makes a running request wait, for room or for another's sake. It goes on before all that have not started.
  void preempt(int id) {
    for (auto it = running_.begin(); it != running_.end(); ++it)
      if (it->id == id) return set_aside(it);
  }
  void step() {
    admit();
    std::vector<plan> plans = plan_step();
    run(plans);
    for (plan const& one : plans) verify(one);
    finish();  // before anybody has to make room for a cut
    evict_due();
  }
  void run_all() {
    while (!running_.empty() || !waiting_.empty()) step();
  }

  [[nodiscard]] std::list<sequence> const& running() const { return running_; }
  [[nodiscard]] std::list<sequence> const& waiting() const { return waiting_; }
  [[nodiscard]] std::vector<answer> const& answers() const { return answers_; }
  [[nodiscard]] engine_counters const& counters() const { return counters_; }
  [[nodiscard]] kv_memory& memory() { return memory_; }
  [[nodiscard]] eviction const& cache_eviction() const { return *eviction_; }

 private:
  using place = std::list<sequence>::iterator;

  /// What a sequence runs in a step: tokens of its own, and drafts behind the last of them.
  struct plan {
    sequence* of = nullptr;
    std::vector<int> tokens;
    int drafts = 0;
    std::vector<int> next = {};  ///< after each token
  };

  /// Arrays of an attention_step.
  struct wave_memory {
    explicit wave_memory(std::pmr::memory_resource* of) : slots(of), queries(of), keys(of), values(of), outputs(of) {}
    std::pmr::vector<std::int32_t> slots;
    std::pmr::vector<float> queries, keys, values, outputs;

    void resize(int count, model_shape const& shape) {
      slots.resize(num(count));
      queries.resize(num(count * shape.hidden()));
      outputs.resize(queries.size());
      keys.resize(num(count * shape.kv_heads * shape.head_dim));
      values.resize(keys.size());
    }
  };

  static std::size_t num(int i) { return static_cast<std::size_t>(i); }
  [[nodiscard]] int bounded(int tokens) const { return std::min(tokens, eviction_->most_tokens()); }
  [[nodiscard]] bool knows(int token) const { return token >= 0 && token < model_->shape().vocabulary; }

  // --- arrival, and return of who was set aside
  void admit() {
    while (!waiting_.empty() && !free_slots_.empty()) {
      sequence& first = waiting_.front();
      sequence const* const donor = first.saved_length > 0 ? nullptr : find_donor(first);
      int const shared = donor == nullptr ? 0 : shared_pages(*donor, first);
      int const tokens = first.saved_length > 0 ? first.saved_length : bounded(first.length());
      int const spare = running_.empty() ? 0 : 1;
      if (memory_.pages_of(tokens) - shared + spare > memory_.allocator.num_free() - promised_pages()) return;
      first.slot = free_slots_.back();
      free_slots_.pop_back();
      auto const younger = std::ranges::find_if(running_, [&](sequence const& one) { return one.id > first.id; });
      running_.splice(younger, waiting_, waiting_.begin());
      if (first.saved_length > 0)
        bring_back(first);
      else
        start(first, donor, shared);
    }
  }
  /// Pages that the prompts of running sequences have yet to take.
  [[nodiscard]] int promised_pages() const {
    int pages = 0;
    for (sequence const& one : running_)
      pages += std::max(0, memory_.pages_of(bounded(one.length())) - memory_.pages_held(one.slot));
    return pages;
  }
  /// Who has the most pages of the same first tokens. Only where nothing was evicted do pages hold what tokens say.
  [[nodiscard]] sequence const* find_donor(sequence const& wants) {
    sequence const* best = nullptr;
    if (!options_.shares_prefixes) return best;
    for (sequence const& one : running_)
      if (memory_.length(one.slot) == one.computed && shared_pages(one, wants) > 0 &&
          (best == nullptr || shared_pages(one, wants) > shared_pages(*best, wants)))
        best = &one;
    return best;
  }
  /// Full pages of the common prefix; the last token is left, for somebody has to compute the next one.
  [[nodiscard]] int shared_pages(sequence const& donor, sequence const& wants) const {
    int const most = std::min(donor.computed, wants.length() - 1);
    int common = 0;
    while (common < most && donor.tokens[num(common)] == wants.tokens[num(common)]) ++common;
    return common / memory_.extents().page_size;
  }
  /// Its window begins behind the shared tokens, whose queries the donor had.
  void start(sequence& one, sequence const* donor, int shared) {
    eviction_->start(one.slot, static_cast<std::uint32_t>(one.id), one.asked.pinned);
    for (int i = 0; i < shared; ++i) {
      std::int32_t const page = memory_.page(donor->slot, i);
      memory_.allocator.share(page);
      memory_.page(one.slot, i) = page;
    }
    counters_.shared_pages += shared;
    one.computed = memory_.length(one.slot) = shared * memory_.extents().page_size;
  }
  void bring_back(sequence& one) {
    memory_.grow(one.slot, one.saved_length);
    memory_.length(one.slot) = one.saved_length;
    memory_.copy_in(one.slot, one.saved_pages);
    memory_.restore_queries(one.slot, one.saved_queries);
    eviction_->restore(one.slot, one.saved_state, one.asked.pinned);
    one.saved_length = 0;
  }

  // --- room
  void set_aside(place it) {
    sequence& one = *it;
    ++counters_.preemptions;
    if (options_.preempt_by == preemption::swap && memory_.length(one.slot) > 0) {
      one.saved_length = memory_.length(one.slot);
      one.saved_pages = memory_.copy_out(one.slot);
      one.saved_queries = memory_.copy_queries(one.slot);
      one.saved_state = eviction_->save(one.slot);
    } else {
      one.computed = 0;  // what it has generated becomes a part of its prompt
    }
    release(one);
    waiting_.splice(waiting_.begin(), running_, it);
  }
  void release(sequence& one) {
    memory_.shrink(one.slot, 0);
    memory_.length(one.slot) = 0;
    memory_.clear_queries(one.slot);
    free_slots_.push_back(one.slot);
    one.slot = -1;
  }
  /// Free pages, at the cost of the youngest; false if that was the sequence itself.
  bool make_room(sequence const& wants, int pages) {
    while (memory_.allocator.num_free() < pages) {
      bool const itself = &running_.back() == &wants;
      set_aside(std::prev(running_.end()));
      if (itself) return false;
    }
    return true;
  }

  // --- a step of the model
  [[nodiscard]] std::vector<plan> plan_step() {
    std::vector<plan> plans;
    for (auto it = running_.begin(); it != running_.end(); ++it) {
      plan one = plan_of(*it);
      if (one.tokens.empty()) continue;  // due, but it has not been cut yet
      int const tokens = memory_.length(it->slot) + static_cast<int>(one.tokens.size());
      if (!make_room(*it, memory_.pages_of(tokens) - memory_.pages_held(it->slot))) break;  // it was the last
      memory_.grow(it->slot, tokens);
      plans.push_back(std::move(one));
    }
    counters_.most_running = std::max(counters_.most_running, static_cast<int>(running_.size()));
    counters_.most_pages = std::max(counters_.most_pages, memory_.allocator.num_pages() - memory_.allocator.num_free());
    return plans;
  }
  /// No more tokens than make the sequence due, so that it is cut at exactly that length.
  [[nodiscard]] plan plan_of(sequence& of) {
    int const room = std::min(eviction_->most_tokens(), memory_.shape().capacity) - memory_.length(of.slot);
    int const left = of.length() - of.computed, count = std::min({left, options_.chunk, room});
    if (count <= 0) return {};
    auto const first = of.tokens.begin() + of.computed;
    plan made{&of, {first, first + count}};
    int const most = std::min({options_.drafts, room - count, of.wanted() - 1});
    if (count < left || most <= 0) return made;
    std::vector<int> drafts = options_.propose(of.tokens, most);
    if (static_cast<int>(drafts.size()) > most) drafts.resize(num(most));
    drafts.erase(std::ranges::find_if_not(drafts, [&](int token) { return knows(token); }), drafts.end());
    made.drafts = static_cast<int>(drafts.size());
    made.tokens.insert(made.tokens.end(), drafts.begin(), drafts.end());
    return made;
  }
  /// Token by token, all sequences of a wave together: each query sees the tokens before it and no draft behind it.
  void run(std::vector<plan>& plans) {
    std::vector<plan*> wave;
    for (std::size_t at = 0; at == 0 || !wave.empty(); ++at) {
      wave.clear();
      for (plan& one : plans)
        if (at < one.tokens.size()) wave.push_back(&one);
      if (!wave.empty()) run_wave(wave, at);
    }
  }
  void run_wave(std::vector<plan*> const& wave, std::size_t at) {
    model_shape const& shape = model_->shape();
    int const count = static_cast<int>(wave.size()), width = shape.hidden(), kv = shape.kv_heads * shape.head_dim;
    wave_.resize(count, shape);
    auto& [slots, queries, keys, values, outputs] = wave_;
    std::vector<std::vector<float>> hidden, queries_of(wave.size());
    for (int i = 0; i < count; ++i) {
      sequence& of = *wave[num(i)]->of;
      slots[num(i)] = of.slot;
      hidden.push_back(model_->embed(wave[num(i)]->tokens[at]));
      of.attended.clear();
    }
    for (int layer = 0; layer < shape.layers; ++layer) {
      for (int i = 0; i < count; ++i)
        model_->project(layer, hidden[num(i)], wave[num(i)]->of->computed + static_cast<int>(at),
                        &queries[num(i * width)], &keys[num(i * kv)], &values[num(i * kv)]);
      attend_(
          {memory_.cache(), slots.data(), count, layer, queries.data(), keys.data(), values.data(), outputs.data()});
      for (int i = 0; i < count; ++i) {
        float const* const attended = &outputs[num(i * width)];
        float const* const asked = &queries[num(i * width)];
        queries_of[num(i)].insert(queries_of[num(i)].end(), asked, asked + width);
        sequence& of = *wave[num(i)]->of;
        of.attended.insert(of.attended.end(), attended, attended + width);
        model_->finish(layer, attended, hidden[num(i)]);
      }
    }
    for (int i = 0; i < count; ++i) {
      memory_.push_queries(slots[num(i)], queries_of[num(i)]);
      ++memory_.length(slots[num(i)]);
      wave[num(i)]->next.push_back(model_->greedy(hidden[num(i)]));
    }
    counters_.computed_tokens += count;
  }
  /// Drafts stay as far as the model says the same; the first other token is its own.
  void verify(plan const& ran) {
    sequence& of = *ran.of;
    int const own = static_cast<int>(ran.tokens.size()) - ran.drafts;
    bool const prompt_goes_on = of.computed + own < of.length();
    of.computed += own + ran.drafts;
    if (prompt_goes_on) return;
    int accepted = 0;
    while (accepted < ran.drafts && ran.tokens[num(own + accepted)] == ran.next[num(own + accepted - 1)]) ++accepted;
    for (int i = 0; i <= accepted; ++i) of.tokens.push_back(ran.next[num(own - 1 + i)]);
    counters_.generated_tokens += accepted + 1;
    counters_.drafts_accepted += accepted;
    if (int const rejected = ran.drafts - accepted; rejected > 0) reject(of, rejected);
  }
  void reject(sequence& of, int count) {
    eviction_->take_back(of.slot, count);
    memory_.shrink(of.slot, memory_.length(of.slot));
    memory_.pop_queries(of.slot, count);
    of.computed -= count;
    counters_.drafts_rejected += count;
  }

  // --- eviction
  void evict_due() {
    std::vector<int> slots;
    for (sequence const& one : running_) slots.push_back(one.slot);
    if (slots.empty()) return;
    std::vector<int> const due = eviction_->due(slots);
    for (int const slot : due)
      if (place const it = running_in(slot); it != running_.end()) cut_off_shared_pages(it);
    std::vector<int> in_place;
    int held = 0;
    for (int const slot : due)
      if (running_in(slot) != running_.end() && memory_.length(slot) >= eviction_->most_tokens()) {
        in_place.push_back(slot);
        held += memory_.pages_held(slot);
      }
    eviction_->cut(in_place);
    counters_.cuts += static_cast<std::int64_t>(in_place.size());
    for (int const slot : in_place) held -= memory_.pages_held(slot);
    counters_.pages_from_cuts += held;
    end_what_was_not_cut();
  }
  [[nodiscard]] place running_in(int slot) {
    return std::find_if(running_.begin(), running_.end(), [&](sequence const& one) { return one.slot == slot; });
  }
  /// A cut writes pages: those that others read are left to them. Sinks are never moved, their pages stay shared.
  void cut_off_shared_pages(place it) {
    int const sinks = eviction_->sink_tokens(), slot = it->slot, needed = memory_.pages_of(eviction_->budget());
    while (memory_.shares_from(slot, sinks) && memory_.allocator.num_free() < needed) {
      bool const itself = std::next(it) == running_.end();
      set_aside(std::prev(running_.end()));
      if (itself) return;
    }
    if (!memory_.shares_from(slot, sinks)) return;
    eviction_->cut_into_fresh_pages(slot);
    ++counters_.cuts;
    ++counters_.cuts_into_fresh_pages;
  }
  /// A budget that has no effect would go unnoticed until the pool is full: the request ends, and says why.
  void end_what_was_not_cut() {
    for (auto it = running_.begin(); it != running_.end();) {
      bool const cut = memory_.length(it->slot) < eviction_->most_tokens();
      std::string const flags = eviction_->problem(it->slot);
      it = cut && flags.empty() ? std::next(it) : end(it, flags.empty() ? "the budget has no effect" : flags);
    }
  }

  // --- end
  void finish() {
    for (auto it = running_.begin(); it != running_.end();) it = it->wanted() > 0 ? std::next(it) : end(it, {});
  }
  place end(place it, std::string problem) {
    auto const generated = it->tokens.begin() + static_cast<std::ptrdiff_t>(it->asked.prompt.size());
    answers_.push_back({it->id, {generated, it->tokens.end()}, std::move(problem)});
    release(*it);
    return running_.erase(it);
  }

  model const* model_;
  engine_options options_;
  attention attend_;
  kv_memory memory_;
  wave_memory wave_;
  std::unique_ptr<eviction> eviction_;
  std::list<sequence> running_, waiting_;  // the oldest first
  std::vector<int> free_slots_;
  std::vector<answer> answers_;
  engine_counters counters_;
  int next_id_ = 0;
};

}  // namespace paged_engine
