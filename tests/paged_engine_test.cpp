// SPDX-License-Identifier: Apache-2.0
// An engine with a small pool: a page allocator with reference counts, slots that are reused, forks that share pages,
// drafts that leave again, evictions that give pages back.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include <foresightkv/foresightkv.hpp>

#include "support/harness.hpp"

namespace fkv = foresightkv;
using testing::exec, testing::guarded, testing::random_source;

namespace {

constexpr int page_size = 4, num_pages = 70, head_dim = 4;
constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 6,
                                 .num_kv_heads = 2,
                                 .group = 1,
                                 .key_head_dim = head_dim,
                                 .value_head_dim = head_dim,
                                 .capacity = 60};
constexpr int row_pages = shape.capacity / page_size;
constexpr fkv::eviction_config config{.budget = 24, .interval = 8, .sink_tokens = 5};
using policy_type = fkv::policy<fkv::eviction_config, fkv::key_norm, fkv::top_k, fkv::fill_holes>;
using cache_type = fkv::paged_cache<float, page_size>;

/// What a sequence has: its tokens, each with a number that no other token of any request has.
struct request {
  bool alive = false;
  std::uint32_t id = 0;
  std::vector<int> tokens;  // by position
  std::vector<int> pages;
};

class engine {
 public:
  int cuts = 0, copies = 0, forks = 0;
  std::string problem;

  explicit engine(std::uint64_t seed) : random_(seed) {
    for (int page = 0; page < num_pages; ++page) free_.push_back(page);
    std::fill(tables_.begin(), tables_.end(), -1);
    std::fill(keys_.begin(), keys_.end(), nan);
    std::fill(values_.begin(), values_.end(), nan);
  }

  void step() {
    int const slot = random_.integer(0, shape.num_sequences - 1);
    int const what = random_.integer(0, 99);
    if (!at(slot).alive) return what < 40 ? arrive(slot) : fork_into(slot);
    if (what < 60) return decode(slot, random_.integer(1, 6));
    if (what < 75) return draft(slot);
    if (what < 95) return evict();
    end(slot);
  }

  /// Every page is owned as often as it stands in tables, free pages are no numbers, and every slot of every row holds
  /// the token that the state says.
  void check() {
    std::vector<int> owners(num_pages, 0);
    for (int slot = 0; slot < shape.num_sequences; ++slot) {
      request& one = at(slot);
      int const length = one.alive ? lengths_[index(slot)] : 0;
      expect(static_cast<int>(one.pages.size()) == (length + page_size - 1) / page_size, "pages held");
      for (int const page : one.pages) ++owners[index(page)];
    }
    for (int page = 0; page < num_pages; ++page) expect(owners[index(page)] == owners_[index(page)], "owners");
    std::vector<int> free = free_;
    std::sort(free.begin(), free.end());
    expect(std::adjacent_find(free.begin(), free.end()) == free.end(), "a page was freed twice");
    for (int const page : free) expect(owners[index(page)] == 0, "a free page is owned");
    expect(free.size() == static_cast<std::size_t>(std::count(owners.begin(), owners.end(), 0)), "a page leaked");
    for (int slot = 0; slot < shape.num_sequences; ++slot)
      if (at(slot).alive) check_tokens(slot);
    expect(keys_.intact() && values_.intact() && tables_.intact() && lengths_.intact(), "something wrote outside");
  }

  void end_all() {
    for (int slot = 0; slot < shape.num_sequences; ++slot)
      if (at(slot).alive) end(slot);
    check();
    expect(free_.size() == num_pages, "pages are missing at the end");
  }

 private:
  static constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  static std::size_t index(int i) { return static_cast<std::size_t>(i); }
  [[nodiscard]] request& at(int slot) { return requests_[index(slot)]; }
  void expect(bool sound, char const* what) {
    if (!sound && problem.empty()) problem = what;
  }
  [[nodiscard]] cache_type cache() {
    return cache_type::hnd(keys_.data(), values_.data(), {num_pages},
                           fkv::page_table::per_sequence(tables_.data(), row_pages, num_pages), lengths_.data(), shape)
        .with_owners(owners_.data());
  }
  [[nodiscard]] fkv::batch<policy_type, cache_type> rows(fkv::sequence_list const& list) {
    return {policy_, cache(), list, state_.view, work_.view()};
  }
  [[nodiscard]] static fkv::sequence_list all() { return {nullptr, nullptr, shape.num_sequences, shape.capacity}; }
  [[nodiscard]] std::uint32_t flags(int slot) const { return state_.view.flags[slot]; }

  // --- pages
  [[nodiscard]] int take() {
    int const place = random_.integer(0, static_cast<int>(free_.size()) - 1);
    std::swap(free_[index(place)], free_.back());
    int const page = free_.back();
    free_.pop_back();
    owners_[index(page)] = 1;
    return page;
  }
  void give_back(int page) {
    expect(owners_[index(page)] > 0, "a page is given back that nobody has");
    if (--owners_[index(page)] > 0) return;
    free_.push_back(page);
    each_row_of_page(page, [&](float* key, float* value) {
      std::fill_n(key, page_size * head_dim, nan);
      std::fill_n(value, page_size * head_dim, nan);
    });
  }
  template <class Body>
  void each_row_of_page(int page, Body const& body) {
    for (int layer = 0; layer < shape.num_layers; ++layer)
      for (int head = 0; head < shape.num_kv_heads; ++head) {
        auto const first = index(((layer * num_pages + page) * shape.num_kv_heads + head) * page_size * head_dim);
        body(&keys_[first], &values_[first]);
      }
  }
  /// A page of its own in place of one that others read too.
  void own(int slot, int place) {
    int& page = at(slot).pages[index(place)];
    if (owners_[index(page)] == 1) return;
    ++copies;
    int const fresh = take();
    for (int layer = 0; layer < shape.num_layers; ++layer)
      for (int head = 0; head < shape.num_kv_heads; ++head) {
        auto const rows = page_size * head_dim;
        auto const of = [&](int which) { return ((layer * num_pages + which) * shape.num_kv_heads + head) * rows; };
        std::copy_n(&keys_[index(of(page))], rows, &keys_[index(of(fresh))]);
        std::copy_n(&values_[index(of(page))], rows, &values_[index(of(fresh))]);
      }
    give_back(page);
    page = fresh;
    publish(slot);
  }
  void publish(int slot) {
    for (int i = 0; i < row_pages; ++i)
      tables_[index(slot * row_pages + i)] =
          i < static_cast<int>(at(slot).pages.size()) ? at(slot).pages[index(i)] : -1;
  }
  void shrink(int slot) {
    auto const held = index((lengths_[index(slot)] + page_size - 1) / page_size);
    while (at(slot).pages.size() > held) {
      give_back(at(slot).pages.back());
      at(slot).pages.pop_back();
    }
    publish(slot);
  }
  /// Pages that so many more tokens take, copies included.
  [[nodiscard]] bool fits(int slot, int count) {
    return lengths_[index(slot)] + count <= shape.capacity && static_cast<int>(free_.size()) >= count / page_size + 3;
  }

  // --- what an engine does
  void arrive(int slot) {
    if (!fits(slot, 0)) return;
    request& one = at(slot);
    one = {true, next_request_++, {}, {}};
    lengths_[index(slot)] = 0;
    std::vector<std::int32_t> const slots{slot};
    std::vector<std::uint32_t> ids(shape.num_sequences, one.id);
    expect(fkv::reset(exec, state_.view, {slots.data(), nullptr, 1, 0}, ids.data()).ok(), "reset");
    write(slot, random_.integer(1, 20));
  }
  void write(int slot, int count) {
    if (!fits(slot, count)) return;
    for (int i = 0; i < count; ++i) {
      int const place = lengths_[index(slot)];
      if (place % page_size == 0) {
        at(slot).pages.push_back(take());
        publish(slot);
      }
      own(slot, place / page_size);
      ++lengths_[index(slot)];
      at(slot).tokens.push_back(next_token_++);
      each_row(slot, [&](fkv::row_index row) { write_token(row, place, at(slot).tokens.back()); });
    }
  }
  template <class Body>
  void each_row(int slot, Body const& body) const {
    for (int layer = 0; layer < shape.num_layers; ++layer)
      for (int head = 0; head < shape.num_kv_heads; ++head) body(fkv::row_index{layer, slot, head});
  }
  /// A token's elements: its number, and where it belongs.
  static float element(fkv::row_index at, int token, int dim) {
    return static_cast<float>((token * 37 + at.layer * 11 + at.kv_head * 5 + dim) % 1009 + 1);
  }
  void write_token(fkv::row_index row, int place, int token) {
    auto const tokens = cache();
    for (int d = 0; d < head_dim; ++d) {
      tokens.key(row, place)[d] = element(row, token, d);
      tokens.value(row, place)[d] = -element(row, token, d);
    }
  }
  void decode(int slot, int count) {
    write(slot, count);
    if (!random_.chance(0.3)) return;
    std::vector<std::int32_t> counts(shape.num_sequences, 0);  // nobody has to be told, but may be
    int const seen = state_.view.seen_length[state_.view.row({0, slot, 0})];
    counts[index(slot)] = lengths_[index(slot)] - seen;
    expect(seen + counts[index(slot)] > config.budget + config.interval ||
               fkv::append(exec, rows(all()), counts.data()).ok(),
           "append");
  }
  /// Draft tokens that come and go between two evictions.
  void draft(int slot) {
    int const before = lengths_[index(slot)];
    write(slot, random_.integer(1, 5));
    int const count = lengths_[index(slot)] - before;
    int const rejected = random_.integer(0, count);
    for (int i = 0; i < rejected; ++i) at(slot).tokens.pop_back();
    lengths_[index(slot)] -= rejected;
    shrink(slot);
  }
  void fork_into(int slot) {
    int const source = random_.integer(0, shape.num_sequences - 1);
    if (!at(source).alive || !fits(slot, 0)) return;
    ++forks;
    at(slot) = at(source);
    at(slot).id = next_request_++;
    lengths_[index(slot)] = lengths_[index(source)];
    for (int const page : at(slot).pages) ++owners_[index(page)];
    publish(slot);
    std::vector<std::int32_t> const from{source}, to{slot};
    expect(fkv::fork(exec, state_.view, {from.data(), to.data(), 1}).ok(), "fork");
  }
  void evict() {
    std::vector<std::int32_t> slots(shape.num_sequences), count(1);
    expect(fkv::collect_due(exec, rows(all()), slots.data(), count.data()).ok(), "collect_due");
    for (int i = 0; i < count[0]; ++i) cut(slots[index(i)]);
  }
  void cut(int slot) {
    ++cuts;
    std::vector<std::int32_t> const slots{slot};
    fkv::sequence_list const list{slots.data(), nullptr, 1, shape.capacity};
    bool shared = false;
    for (int i = config.sink_tokens / page_size; i < static_cast<int>(at(slot).pages.size()); ++i)
      shared = shared || owners_[index(at(slot).pages[index(i)])] > 1;
    guarded<std::int32_t> new_lengths(shape.num_sequences, -7), pages(shape.num_sequences * row_pages, -7),
        counts(shape.num_sequences, -7);
    auto const call = [&] {
      return fkv::evict(exec, rows(list), fkv::observation<float>{},
                        {.new_lengths = new_lengths.data(), .freed = {pages.data(), counts.data(), row_pages}});
    };
    auto const before = keys_;
    expect(call().ok(), "evict");
    if (shared) {  // others read its pages: nothing was written, and it gets pages of its own
      expect(flags(slot) == static_cast<std::uint32_t>(fkv::sequence_flag::shared_page),
             "a shared page is not flagged");
      expect(keys_.same_bytes(before) && new_lengths[index(slot)] == -7, "a shared page was written");
      state_.view.flags[slot] = 0;
      int const places = static_cast<int>(at(slot).pages.size());
      if (static_cast<int>(free_.size()) < places) return;
      for (int i = 0; i < places; ++i) own(slot, i);
      expect(call().ok(), "evict again");
    }
    expect(flags(slot) == 0, "a sound sequence is flagged");
    int const held = static_cast<int>(at(slot).pages.size());
    lengths_[index(slot)] = new_lengths[index(slot)];
    expect(new_lengths[index(slot)] == config.budget, "budget");
    int const left = held - counts[index(slot)];
    for (int i = 0; i < counts[index(slot)]; ++i)
      expect(pages[index(slot * row_pages + i)] == at(slot).pages[index(left + i)], "freed pages");
    shrink(slot);
    expect(static_cast<int>(at(slot).pages.size()) == left, "number of freed pages");
  }
  void end(int slot) {
    lengths_[index(slot)] = 0;
    shrink(slot);
    at(slot).alive = false;
  }

  void check_tokens(int slot) {
    auto const tokens = cache();
    each_row(slot, [&](fkv::row_index row) {
      auto const positions = fkv::detail::positions_of(state_.view, state_.view.row(row));
      for (int place = 0; place < lengths_[index(slot)]; ++place) {
        int const position = positions.at(place);
        bool const known = position >= 0 && position < static_cast<int>(at(slot).tokens.size());
        expect(known, "a position that nobody wrote");
        for (int d = 0; known && d < head_dim; ++d) {
          float const right = element(row, at(slot).tokens[index(position)], d);
          expect(tokens.key(row, place)[d] == right && tokens.value(row, place)[d] == -right, "another token's bytes");
        }
      }
    });
  }

  random_source random_;
  std::vector<request> requests_ = std::vector<request>(shape.num_sequences);
  std::vector<int> free_;
  static constexpr std::size_t pool =
      static_cast<std::size_t>(shape.num_layers) * num_pages * shape.num_kv_heads * page_size * head_dim;
  guarded<float> keys_{pool}, values_{pool};
  guarded<std::int32_t> tables_{static_cast<std::size_t>(shape.num_sequences) * row_pages},
      lengths_{static_cast<std::size_t>(shape.num_sequences), 0}, owners_{num_pages, 0};
  policy_type policy_{config, {}, {}, {}, {}};
  testing::owned_state<policy_type> state_{shape, shape.capacity};
  testing::owned_workspace work_ = testing::workspace_for<policy_type>(shape, all(), 0);
  int next_token_ = 0;
  std::uint32_t next_request_ = 1;
};

}  // namespace

TEST_CASE("pages: an engine's allocator loses nothing, frees nothing twice, and no state crosses requests") {
  engine running(11);
  int const steps = testing::is_emulated ? 1500 : 10000;
  for (int step = 0; step < steps && running.problem.empty(); ++step) {
    INFO("step " << step);
    running.step();
    running.check();
    CHECK(running.problem == "");
  }
  running.end_all();
  CHECK(running.problem == "");
  CHECK(running.cuts > steps / 40);
  CHECK(running.copies > steps / 100);
  CHECK(running.forks > steps / 100);
}
