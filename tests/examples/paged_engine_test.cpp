// SPDX-License-Identifier: Apache-2.0
// The engine of examples/paged_engine: its tokens without an effective budget, its attention with one, what becomes of
// pages and state in thousands of random steps, and how many sequences a pool serves.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "paged_engine/attention_kernels.hpp"
#include "paged_engine/engine.hpp"
#include "support/execution.hpp"
#include "support/random.hpp"

namespace {

using namespace paged_engine;
using testing::random_source;

std::size_t num(int i) { return static_cast<std::size_t>(i); }

template <class Scorer = fkv::window_sum>
eviction_maker cutting_to(fkv::eviction_config const& config) {
  using policy = fkv::policy<fkv::eviction_config, Scorer, fkv::top_k, fkv::fill_holes>;
  return evicting(testing::exec, policy{config, {}, {}, {}, {}});
}
attention backends_attention() {
  if constexpr (std::same_as<testing::execution, fkv::host_execution>)
    return host_attention;
  else
    return kernel_attention(testing::exec);
}

std::vector<int> random_text(random_source& random, int tokens, int vocabulary) {
  std::vector<int> text(num(tokens));
  for (int& token : text) token = random.integer(0, vocabulary - 1);
  return text;
}

/// The model once more, in double precision and straight from its weights: for every token, layer and KV head it is
/// told which positions are there to be attended to.
class recomputed_model {
 public:
  using visible = std::vector<std::vector<std::vector<int>>>;  // [layer][kv head] positions

  explicit recomputed_model(model const& of) : of_(of), shape_(of.shape()) {
    keys_.resize(num(shape_.layers));
    values_.resize(num(shape_.layers));
  }

  std::vector<double> attended;  // of the newest token, [layer][query head][dim]
  std::vector<double> logits;

  void run(int token, int position, visible const& before) {
    int const width = shape_.hidden();
    std::vector<double> hidden(of_.embedding().begin() + std::ptrdiff_t{token} * width,
                               of_.embedding().begin() + std::ptrdiff_t{token + 1} * width);
    attended.clear();
    for (int layer = 0; layer < shape_.layers; ++layer) {
      layer_weights const& by = of_.weights(layer);
      auto const queries = rotated(product(by.query, normed(hidden)), position);
      keys_[num(layer)].push_back(rotated(product(by.key, normed(hidden)), position));
      values_[num(layer)].push_back(product(by.value, normed(hidden)));
      std::vector<double> mixed;
      for (int head = 0; head < shape_.query_heads(); ++head) {
        std::vector<int> sees = before[num(layer)][num(head / shape_.group)];
        sees.push_back(position);
        attend(layer, head, queries, sees, mixed);
      }
      attended.insert(attended.end(), mixed.begin(), mixed.end());
      add(hidden, product(by.output, mixed));
      auto inner = product(by.up, normed(hidden));
      for (double& x : inner) x /= 1.0 + std::exp(-x);
      add(hidden, product(by.down, inner));
    }
    logits = product(of_.head(), normed(hidden));
  }

 private:
  using numbers = std::vector<double>;
  static numbers product(std::vector<float> const& matrix, numbers const& input) {
    numbers out(matrix.size() / input.size(), 0.0);
    for (std::size_t i = 0; i < matrix.size(); ++i)
      out[i / input.size()] += double{matrix[i]} * input[i % input.size()];
    return out;
  }
  static numbers normed(numbers values) {
    double squares = 0.0;
    for (double const x : values) squares += x * x;
    for (double& x : values) x /= std::sqrt(squares / static_cast<double>(values.size()) + 1e-6);
    return values;
  }
  static void add(numbers& to, numbers const& what) {
    for (std::size_t i = 0; i < to.size(); ++i) to[i] += what[i];
  }
  [[nodiscard]] numbers rotated(numbers vectors, int position) const {
    std::size_t const dim = num(shape_.head_dim), half = dim / 2;
    for (std::size_t at = 0; at < vectors.size(); at += dim)
      for (std::size_t d = 0; d < half; ++d) {
        double const angle = position * std::pow(10000.0, -static_cast<double>(d) / static_cast<double>(half));
        double const x = vectors[at + d], y = vectors[at + d + half];
        vectors[at + d] = x * std::cos(angle) - y * std::sin(angle);
        vectors[at + d + half] = x * std::sin(angle) + y * std::cos(angle);
      }
    return vectors;
  }
  void attend(int layer, int head, numbers const& queries, std::vector<int> const& sees, numbers& out) const {
    std::size_t const dim = num(shape_.head_dim), kv = num(head / shape_.group) * dim, query = num(head) * dim;
    numbers sum(dim, 0.0);
    double total = 0.0;
    for (int const position : sees) {
      double logit = 0.0;
      for (std::size_t d = 0; d < dim; ++d) logit += queries[query + d] * keys_[num(layer)][num(position)][kv + d];
      double const weight = std::exp(logit / std::sqrt(static_cast<double>(dim)));
      total += weight;
      for (std::size_t d = 0; d < dim; ++d) sum[d] += weight * values_[num(layer)][num(position)][kv + d];
    }
    for (double const x : sum) out.push_back(x / total);
  }

  model const& of_;
  model_shape shape_;
  std::vector<std::vector<numbers>> keys_, values_;  // [layer][position]
};

recomputed_model::visible kept_positions(engine& running, int slot) {
  fkv::cache_shape const shape = running.memory().shape();
  recomputed_model::visible kept(num(shape.num_layers));
  for (int layer = 0; layer < shape.num_layers; ++layer)
    for (int head = 0; head < shape.num_kv_heads; ++head)
      kept[num(layer)].push_back(running.cache_eviction().positions({layer, slot, head}));
  return kept;
}
double largest_difference(std::vector<float> const& left, std::vector<double> const& right) {
  double largest = left.size() == right.size() ? 0.0 : 1e9;
  for (std::size_t i = 0; i < left.size(); ++i) largest = std::max(largest, std::abs(double{left[i]} - right[i]));
  return largest;
}

/// What a request ran through beside what the double-precision model makes of the tokens that were kept.
struct comparison {
  double kept = 0.0;    ///< largest difference of an attention output
  double full = 0.0;    ///< the same beside a model that sees everything: eviction has an effect
  double behind = 0.0;  ///< of a token's logit from the largest one
  std::int64_t cuts = 0;
};
comparison compare_with_recomputed(model const& decoder, eviction_maker const& make, int window, int most,
                                   int prompt = 40) {
  engine running(decoder, {.slots = 2, .num_pages = 100, .page_size = 4, .max_tokens = most, .window = window},
                 {.chunk = 5}, make, backends_attention());
  random_source random(5);
  running.submit({random_text(random, prompt, decoder.shape().vocabulary), 30});
  recomputed_model of_kept(decoder), of_all(decoder);
  comparison found;
  recomputed_model::visible kept(num(decoder.shape().layers)), all;
  for (auto& layer : kept) layer.resize(num(decoder.shape().kv_heads));
  all = kept;
  int done = 0;
  for (int step = 0; step < 1000; ++step) {
    running.step();
    if (running.running().empty()) break;
    sequence const& one = running.running().front();
    for (; done < one.computed; ++done) {
      of_kept.run(one.tokens[num(done)], done, kept);
      of_all.run(one.tokens[num(done)], done, all);
      for (auto* const sees : {&kept, &all})
        for (auto& layer : *sees)
          for (auto& head : layer) head.push_back(done);
    }
    found.kept = std::max(found.kept, largest_difference(one.attended, of_kept.attended));
    found.full = std::max(found.full, largest_difference(one.attended, of_all.attended));
    if (one.length() == one.computed + 1) {
      double const best = *std::max_element(of_kept.logits.begin(), of_kept.logits.end());
      found.behind = std::max(found.behind, best - of_kept.logits[num(one.tokens.back())]);
    }
    kept = kept_positions(running, one.slot);
  }
  found.cuts = running.counters().cuts;
  return found;
}

/// Prompts that begin alike, and answers of different lengths.
std::vector<request> mixed_requests(int vocabulary) {
  random_source random(7);
  std::vector<int> const begin = random_text(random, 21, vocabulary);
  std::vector<request> all;
  for (int i = 0; i < 10; ++i) {
    std::vector<int> prompt(begin.begin(), begin.begin() + random.integer(1, 21));
    std::vector<int> const end = random_text(random, random.integer(1, 20), vocabulary);
    prompt.insert(prompt.end(), end.begin(), end.end());
    all.push_back({prompt, random.integer(8, 40)});
  }
  return all;
}
std::map<int, std::vector<int>> tokens_of(engine const& ran) {
  std::map<int, std::vector<int>> all;
  for (answer const& one : ran.answers()) {
    CHECK(one.problem == "");
    all[one.id] = one.tokens;
  }
  return all;
}
void serve(engine& running, std::vector<request> const& requests) {
  for (request const& one : requests) {
    running.submit(one);
    running.step();
  }
  running.run_all();
  CHECK(running.memory().allocator.num_free() == running.memory().extents().num_pages);
}

/// Random arrivals, steps, preemptions and ends, and after each of them a look at every page and every cached token.
class random_engine {
 public:
  static constexpr int page_size = 4, num_pages = 40, chunk = 5, drafts = 3;
  static constexpr fkv::eviction_config config{.budget = 24, .interval = 8, .sink_tokens = 5};

  random_engine(model const& decoder, preemption by, std::uint64_t seed)
      : random_(seed),
        decoder_(decoder),
        running_(decoder,
                 {.slots = 6,
                  .num_pages = num_pages,
                  .page_size = page_size,
                  .max_tokens = config.budget + config.interval,
                  .window = config.interval},
                 {.chunk = chunk,
                  .drafts = drafts,
                  .preempt_by = by,
                  .propose = [this](std::vector<int> const& tokens, int most) { return propose(tokens, most); }},
                 cutting_to(config), backends_attention()) {
    for (int i = 0; i < 3; ++i) beginnings_.push_back(random_text(random_, 18, decoder.shape().vocabulary));
  }

  std::string problem;
  std::size_t submitted = 0, cancelled = 0;

  void act() {
    int const what = random_.integer(0, 99);
    if (what < 25 && running_.waiting().size() < 5) return submit();
    if (what < 90) return running_.step();
    if (what < 96) return on_one([&](int id) { running_.preempt(id); });
    on_one([&](int id) {
      running_.cancel(id);
      seen_.erase(id);
      ++cancelled;
    });
  }
  void end_all() {
    running_.run_all();
    check();
    expect(running_.memory().allocator.num_free() == num_pages, "pages are missing at the end");
    expect(running_.answers().size() + cancelled == submitted, "requests are missing at the end");
    for (answer const& one : running_.answers()) {
      expect(one.problem.empty(), one.problem.c_str());
      expect(one.tokens.size() == num(asked_[one.id]), "other tokens than were asked for");
    }
  }
  void check() {
    check_pages();
    for (sequence const& one : running_.waiting()) forget_from(one, one.computed);
    for (sequence const& one : running_.running()) check_tokens(one);
  }
  [[nodiscard]] engine_counters const& counters() const { return running_.counters(); }

 private:
  void expect(bool sound, char const* what) {
    if (!sound && problem.empty()) problem = what;
  }
  void submit() {
    std::vector<int> prompt = beginnings_[num(random_.integer(0, 2))];
    prompt.resize(num(random_.integer(1, 18)));
    std::vector<int> const end = random_text(random_, random_.integer(0, 30), decoder_.shape().vocabulary);
    prompt.insert(prompt.end(), end.begin(), end.end());
    int const tokens = random_.integer(1, 50);
    asked_[running_.submit({prompt, tokens})] = tokens;
    ++submitted;
  }
  template <class Action>
  void on_one(Action const& action) {
    auto const& all = running_.running();
    if (all.empty()) return;
    action(std::next(all.begin(), random_.integer(0, static_cast<int>(all.size()) - 1))->id);
  }
  std::vector<int> propose(std::vector<int> const& tokens, int most) {
    std::vector<int> guessed = lookup_drafts(tokens, most);
    if (!guessed.empty() && random_.chance(0.7)) return guessed;
    return random_text(random_, random_.integer(0, most), decoder_.shape().vocabulary);
  }

  /// Every page is owned as often as it stands in tables of running requests, and free exactly if it stands in none.
  void check_pages() {
    kv_memory& memory = running_.memory();
    std::vector<int> owners(num_pages, 0);
    std::set<int> slots;
    for (sequence const& one : running_.running()) {
      expect(slots.insert(one.slot).second, "two requests in one slot");
      int const held = memory.pages_held(one.slot);
      expect(held == memory.pages_of(memory.length(one.slot)), "pages held");
      for (int i = 0; i < held; ++i) ++owners[num(memory.page(one.slot, i))];
    }
    for (int slot = 0; slot < memory.extents().slots; ++slot)
      expect(slots.contains(slot) || memory.pages_held(slot) == 0, "a slot without a request holds pages");
    for (sequence const& one : running_.waiting()) expect(one.slot == -1, "a waiting request has a slot");
    expect(std::ranges::equal(owners, memory.allocator.owners()), "owners");
    std::vector<int> free = memory.allocator.free_pages();
    std::sort(free.begin(), free.end());
    expect(std::adjacent_find(free.begin(), free.end()) == free.end(), "a page was freed twice");
    for (int const page : free) expect(owners[num(page)] == 0, "a free page is owned");
    expect(std::cmp_equal(free.size(), std::count(owners.begin(), owners.end(), 0)), "a page leaked");
  }

  using bytes = std::vector<float>;  // key and value of a token in one row
  using rows = std::vector<std::map<int, bytes>>;

  /// What was taken back, or has to be computed again, may come back otherwise.
  void forget_from(sequence const& one, int position) {
    for (auto& row : seen_[one.id]) row.erase(row.lower_bound(position), row.end());
  }
  /// Every slot of every row holds what that request wrote for the position that the state says, for as long as it
  /// runs; in the first layer also what its own token gives there.
  void check_tokens(sequence const& one) {
    fkv::cache_shape const shape = running_.memory().shape();
    int const length = running_.memory().length(one.slot);
    expect(length <= one.computed && length < config.budget + config.interval, "length");
    expect(length == one.computed || length >= config.budget, "more is gone than the budget asks for");
    expect(one.length() - one.computed >= 1, "tokens to run");
    seen_[one.id].resize(num(shape.num_layers * shape.num_kv_heads));
    forget_from(one, one.computed);
    for (int layer = 0; layer < shape.num_layers; ++layer)
      for (int head = 0; head < shape.num_kv_heads; ++head) check_row(one, {layer, one.slot, head}, length);
    check_window(one);
  }
  /// What the next cut goes by: in the first layer the queries of the request's own newest tokens.
  void check_window(sequence const& one) {
    auto const window = running_.memory().window();
    int const count = window.query_count[one.slot], width = decoder_.shape().hidden();
    expect(count <= one.computed, "more queries than tokens");
    for (int r = 0; r < count && problem.empty(); ++r) {
      float const* const kept = window.query({0, one.slot, 0}, 0, r);
      expect(std::equal(kept, kept + width, projected(one, one.computed - count + r).query.begin()), "another's query");
    }
  }
  void check_row(sequence const& one, fkv::row_index row, int length) {
    auto const positions = running_.cache_eviction().positions(row);
    expect(std::set<int>(positions.begin(), positions.end()).size() == num(length), "a position stands in a row twice");
    for (int i = 0; i < std::min(config.sink_tokens, length); ++i)
      expect(std::count(positions.begin(), positions.end(), i) == 1, "a sink is gone");
    for (int slot = 0; slot < length; ++slot) {
      int const position = positions[num(slot)];
      expect(position >= 0 && position < one.computed, "a position that nobody wrote");
      if (!problem.empty()) return;
      check_token(one, row, slot, position);
    }
  }
  void check_token(sequence const& one, fkv::row_index row, int slot, int position) {
    pages const cache = running_.memory().cache();
    int const dim = cache.shape().key_head_dim;
    bytes now(cache.key(row, slot), cache.key(row, slot) + dim);
    now.insert(now.end(), cache.value(row, slot), cache.value(row, slot) + dim);
    auto const [known, fresh] =
        seen_[one.id][num(row.layer * cache.shape().num_kv_heads + row.kv_head)].try_emplace(position, now);
    expect(known->second == now, "another token's bytes");
    if (row.layer != 0 || !fresh) return;
    auto const right = projected(one, position);
    expect(std::equal(now.begin(), now.begin() + dim, right.key.begin() + row.kv_head * dim), "another's key");
    expect(std::equal(now.begin() + dim, now.end(), right.value.begin() + row.kv_head * dim), "another's value");
  }
  struct projection {
    std::vector<float> query, key, value;
  };
  /// Of the token that a request has at a position, in the first layer.
  [[nodiscard]] projection projected(sequence const& one, int position) const {
    model_shape const& shape = decoder_.shape();
    std::size_t const kv = num(shape.kv_heads * shape.head_dim);
    projection made{std::vector<float>(num(shape.hidden())), std::vector<float>(kv), std::vector<float>(kv)};
    decoder_.project(0, decoder_.embed(one.tokens[num(position)]), position, made.query.data(), made.key.data(),
                     made.value.data());
    return made;
  }

  random_source random_;
  model const& decoder_;
  std::vector<std::vector<int>> beginnings_;
  engine running_;
  std::map<int, rows> seen_;  // by request
  std::map<int, int> asked_;  // tokens
};

/// Steps until a request ends; the most sequences that were there at once with so many tokens behind them.
int most_at_once(engine& running, int tokens) {
  int most = 0;
  for (int step = 0; step < 1000 && running.answers().empty(); ++step) {  // an engine that cuts nobody would not end
    running.step();
    auto const& all = running.running();
    most = std::max(most, static_cast<int>(std::count_if(all.begin(), all.end(),
                                                         [&](sequence const& one) { return one.computed >= tokens; })));
  }
  return most;
}

/// Cuts nobody, and may say why.
class idle_eviction final : public eviction {
 public:
  idle_eviction(kv_memory& memory, std::string reason) : full_(memory), reason_(std::move(reason)) {}
  [[nodiscard]] int most_tokens() const override { return 32; }
  [[nodiscard]] int budget() const override { return 24; }
  [[nodiscard]] int sink_tokens() const override { return 0; }
  [[nodiscard]] int most_pinned() const override { return 16; }
  void start(int slot, std::uint32_t request, int pinned) override { full_.start(slot, request, pinned); }
  [[nodiscard]] std::vector<int> due(std::vector<int> const&) override { return {}; }
  void cut(std::vector<int> const&) override {}
  void cut_into_fresh_pages(int) override {}
  void take_back(int slot, int count) override { full_.take_back(slot, count); }
  [[nodiscard]] std::vector<std::byte> save(int slot) override { return full_.save(slot); }
  void restore(int slot, std::vector<std::byte> const& saved, int pinned) override {
    full_.restore(slot, saved, pinned);
  }
  [[nodiscard]] std::string problem(int) const override { return reason_; }
  [[nodiscard]] std::vector<int> positions(fkv::row_index row) const override { return full_.positions(row); }

 private:
  full_cache full_;
  std::string reason_;
};

}  // namespace

TEST_CASE("paged engine: below the budget its tokens are those of the full cache, whatever else it does") {
  model const decoder({}, 11);
  auto const requests = mixed_requests(decoder.shape().vocabulary);
  engine full(decoder, {.slots = 10, .num_pages = 300, .page_size = 4, .max_tokens = 90},
              {.chunk = 7, .shares_prefixes = false}, evicting_nothing(), backends_attention());
  serve(full, requests);
  auto const right = tokens_of(full);
  CHECK(right.size() == requests.size());
  memory_shape const small{.slots = 5, .num_pages = 28, .page_size = 4, .max_tokens = 104, .window = 8};
  for (preemption const by : {preemption::swap, preemption::recompute}) {
    engine busy(decoder, small, {.chunk = 7, .drafts = 3, .preempt_by = by}, cutting_to({.budget = 96, .interval = 8}),
                backends_attention());
    serve(busy, requests);
    CHECK(tokens_of(busy) == right);
    CHECK(busy.counters().cuts == 0);
    CHECK(busy.counters().shared_pages > 0);
    CHECK(busy.counters().preemptions > 0);
    CHECK(busy.counters().drafts_accepted > 0);
    CHECK(busy.counters().drafts_rejected > 0);
  }
  engine cut(decoder, small, {.chunk = 7}, cutting_to({.budget = 24, .interval = 8}), backends_attention());
  serve(cut, requests);
  CHECK(tokens_of(cut) != right);  // a budget that has an effect shows in the tokens
}

TEST_CASE("paged engine: set aside at any time, swapped or computed again, a request ends with the same tokens") {
  model const decoder({}, 41);
  auto const requests = mixed_requests(decoder.shape().vocabulary);
  fkv::eviction_config const config{.budget = 24, .interval = 8, .sink_tokens = 2};
  auto const serves = [&](preemption by, bool interrupts) {
    engine running(decoder, {.slots = 4, .num_pages = 40, .page_size = 4, .max_tokens = 32, .window = 8},
                   {.chunk = 5, .preempt_by = by, .shares_prefixes = false},
                   cutting_to<fkv::accumulated_sum>(config),  // statistics that a state has to bring back
                   backends_attention());
    random_source random(43);
    for (request const& one : requests) running.submit(one);
    for (int step = 0; step < 3000 && running.answers().size() < requests.size(); ++step) {
      running.step();
      if (interrupts && !running.running().empty() && random.chance(0.2)) running.preempt(running.running().back().id);
    }
    CHECK((running.counters().preemptions > 10) == interrupts);
    CHECK(running.counters().cuts > 10);
    return tokens_of(running);
  };
  auto const right = serves(preemption::swap, false);
  CHECK(right.size() == requests.size());
  CHECK(serves(preemption::swap, true) == right);
  CHECK(serves(preemption::recompute, true) == right);
}

TEST_CASE("paged engine: attention after evictions is that over the kept tokens, computed anew in double precision") {
  model const decoder({}, 13);
  fkv::eviction_config const config{.budget = 24, .interval = 8, .sink_tokens = 4};
  auto const cut =
      compare_with_recomputed(decoder, cutting_to(config), config.interval, config.budget + config.interval);
  CHECK(cut.cuts > 3);
  CHECK(cut.kept < 1e-4);  // outputs are of the order of 1
  CHECK(cut.behind < 1e-3);
  CHECK(cut.full > 1e-2);
  // Rows that a kernel's block takes in more than one tile.
  auto const longer = compare_with_recomputed(decoder, cutting_to({.budget = 280, .interval = 40}), 40, 320, 340);
  CHECK(longer.cuts > 0);
  CHECK(longer.kept < 1e-4);
  CHECK(longer.behind < 1e-3);
  auto const full = compare_with_recomputed(decoder, evicting_nothing(), 0, 80);
  CHECK(full.cuts == 0);
  CHECK(full.kept < 1e-4);
  CHECK(full.full < 1e-4);
  CHECK(full.behind < 1e-3);
}

TEST_CASE("paged engine: in random steps no page leaks or is freed twice, and no state crosses requests") {
  model const decoder({.vocabulary = 24, .layers = 2, .kv_heads = 2, .group = 2, .head_dim = 4}, 17);
  int const steps = testing::is_emulated ? 600 : 10000;
  for (preemption const by : {preemption::swap, preemption::recompute}) {
    random_engine running(decoder, by, 19);
    for (int step = 0; step < steps && running.problem.empty(); ++step) {
      running.act();
      running.check();
      INFO("step " << step);
      CHECK(running.problem == "");
    }
    running.end_all();
    CHECK(running.problem == "");
    engine_counters const& counted = running.counters();
    CHECK(counted.cuts > steps / 20);
    CHECK(counted.cuts_into_fresh_pages > steps / 200);
    CHECK(counted.shared_pages > steps / 20);
    CHECK(counted.preemptions > steps / 50);
    CHECK(counted.drafts_accepted > steps / 50);
    CHECK(counted.drafts_rejected > steps / 20);
    CHECK(running.cancelled > num(steps / 100));
  }
}

TEST_CASE("paged engine: with eviction a pool serves at least twice as many sequences of 8,192 tokens") {
  int const tokens = testing::is_emulated ? 256 : 8192, prompt = tokens - 16, page_size = testing::is_emulated ? 4 : 16;
  model const decoder({.vocabulary = 32, .layers = 1, .kv_heads = 1, .group = 1, .head_dim = 4}, 23);
  fkv::eviction_config const config{.budget = tokens / 8, .interval = tokens / 64, .sink_tokens = 4};
  auto const serves = [&](eviction_maker const& make, int max_tokens, int window) {
    engine running(decoder,
                   {.slots = 16,
                    .num_pages = 2 * tokens / page_size,
                    .page_size = page_size,
                    .max_tokens = max_tokens,
                    .window = window},
                   {.chunk = 128}, make, backends_attention());
    random_source random(29);
    for (int i = 0; i < 16; ++i) running.submit({random_text(random, prompt, 32), tokens - prompt});
    return most_at_once(running, prompt);
  };
  int const full = serves(evicting_nothing(), tokens, 0);
  int const cut = serves(cutting_to(config), config.budget + config.interval, config.interval);
  CHECK(full == 2);
  CHECK(cut >= 2 * full);
}

TEST_CASE("paged engine: a budget without effect ends the request, and says so") {
  model const decoder({}, 31);
  memory_shape const extents{.slots = 2, .num_pages = 64, .page_size = 4, .max_tokens = 64, .window = 8};
  random_source random(37);
  auto const text = random_text(random, 40, decoder.shape().vocabulary);

  for (std::string const reason : {"", "flagged"}) {
    auto const idle = [&](kv_memory& memory) { return std::make_unique<idle_eviction>(memory, reason); };
    engine uncut(decoder, extents, {}, idle, backends_attention());
    uncut.submit({text, 20});
    for (int step = 0; step < 100; ++step) uncut.step();  // unnoticed it would wait for ever
    REQUIRE(uncut.answers().size() == 1);
    CHECK(uncut.answers().front().problem == (reason.empty() ? "the budget has no effect" : reason));
    CHECK(uncut.memory().allocator.num_free() == 64);
  }
}

TEST_CASE("paged engine: a notice ends no request, and what was cut is taken over") {
  model const decoder({}, 31);
  memory_shape const extents{.slots = 2, .num_pages = 64, .page_size = 4, .max_tokens = 64, .window = 8};
  random_source random(37);
  engine running(decoder, extents, {.chunk = 8}, cutting_to({.budget = 24, .interval = 8}), backends_attention());
  running.submit({random_text(random, 31, decoder.shape().vocabulary), 20});
  for (int step = 0; step < 4; ++step) running.step();
  // A query that is no number, in the window of the cut to come.
  int const slot = running.running().front().slot;
  std::vector<float> const none(num(decoder.shape().layers * decoder.shape().hidden()),
                                std::numeric_limits<float>::quiet_NaN());
  running.memory().pop_queries(slot, 1);
  running.memory().push_queries(slot, none);
  running.step();
  CHECK(running.counters().cuts == 1);
  CHECK(running.memory().length(slot) == 24);
  running.run_all();
  REQUIRE(running.answers().size() == 1);
  CHECK(running.answers().front().problem == "");
  CHECK(running.answers().front().tokens.size() == 20);
}

TEST_CASE("paged engine: a request gets as many tokens as it asked for, whoever had to make room") {
  model const decoder({}, 31);
  random_source random(37);
  auto const text = random_text(random, 20, decoder.shape().vocabulary);
  for (preemption const by : {preemption::swap, preemption::recompute})
    for (int pages = 10; pages <= 20; pages += testing::is_emulated ? 5 : 1)
      for (int asked = 1; asked < 40; asked += testing::is_emulated ? 13 : 1) {
        engine running(decoder, {.slots = 2, .num_pages = pages, .page_size = 4, .max_tokens = 40, .window = 8},
                       {.chunk = 8, .preempt_by = by}, cutting_to({.budget = 32, .interval = 8}), backends_attention());
        int const first = running.submit({text, 60});
        for (int step = 0; step < 3; ++step) running.step();
        running.submit({text, asked});
        running.run_all();
        for (answer const& one : running.answers()) CHECK(one.tokens.size() == num(one.id == first ? 60 : asked));
      }
}

TEST_CASE("paged engine: a request that was set aside comes back before younger ones") {
  model const decoder({}, 31);
  random_source random(37);
  engine running(decoder, {.slots = 3, .num_pages = 64, .page_size = 4, .max_tokens = 64}, {}, evicting_nothing(),
                 backends_attention());
  for (int i = 0; i < 3; ++i) running.submit({random_text(random, 10, decoder.shape().vocabulary), 20});
  running.step();
  running.preempt(0);
  CHECK(running.running().front().id == 1);
  running.step();
  std::vector<int> order;
  for (sequence const& one : running.running()) order.push_back(one.id);
  CHECK(order == std::vector{0, 1, 2});
}

TEST_CASE("paged engine: what cannot be served is refused") {
  model const decoder({}, 31);
  memory_shape const sound{.slots = 2, .num_pages = 64, .page_size = 4, .max_tokens = 64, .window = 8};
  auto const refused = [&](memory_shape const& extents, engine_options const& options, eviction_maker const& make) {
    try {
      engine const made(decoder, extents, options, make, host_attention);
    } catch (std::invalid_argument const& problem) {
      return std::string(problem.what());
    }
    return std::string("nothing");
  };
  auto const cutting = cutting_to({.budget = 24, .interval = 8});
  CHECK(refused(sound, {}, cutting) == "nothing");
  CHECK(refused(sound, {.chunk = 0}, cutting) == "a step runs a token at least");
  for (auto const member : {&memory_shape::slots, &memory_shape::num_pages, &memory_shape::page_size}) {
    memory_shape spoilt = sound;
    spoilt.*member = 0;
    CHECK(refused(spoilt, {}, cutting) == "slots, pages and tokens must be at least 1");
  }
  CHECK(refused({.max_tokens = 31, .window = 8}, {}, cutting) == "max_tokens must hold budget + interval");
  CHECK(refused({.window = 7}, {}, cutting) == "the window must hold the queries that the policy looks at");
  CHECK(refused({.window = 0}, {}, cutting_to<fkv::key_diff>({.budget = 24, .interval = 8})) == "nothing");
  CHECK(refused(sound, {}, cutting_to({.budget = 8, .interval = 8, .sink_tokens = 8})) == "a budget that cannot be");

  engine running(decoder, sound, {.drafts = 3, .propose = [](auto const&, int) { return std::vector(50, 1000); }},
                 cutting, backends_attention());
  CHECK_THROWS_AS(running.submit({{}, 4}), std::invalid_argument);
  CHECK_THROWS_AS(running.submit({{1, 64}, 4}), std::invalid_argument);
  CHECK_THROWS_AS(running.submit({{1, -1}, 4}), std::invalid_argument);
  CHECK_THROWS_AS(running.submit({{1, 2}, std::numeric_limits<int>::max()}), std::invalid_argument);
  CHECK_THROWS_AS(running.submit({{1, 2}, 4, 17}), std::invalid_argument);  // the newest 8 stay, too
  running.submit({{1, 2}, 40, 16});
  running.run_all();  // a proposer that keeps to nothing
  CHECK(running.answers().front().tokens.size() == 40);
  CHECK(running.answers().front().problem == "");
}

TEST_CASE("paged engine: the allocator refuses what would free a page twice or share a free one") {
  page_allocator allocator(2);
  std::int32_t const page = allocator.take();
  allocator.share(page);
  allocator.give_back(page);
  CHECK(allocator.num_free() == 1);
  allocator.give_back(page);
  CHECK(allocator.num_free() == 2);
  CHECK_THROWS_AS(allocator.give_back(page), std::logic_error);
  CHECK_THROWS_AS(allocator.share(page), std::logic_error);
  (void)allocator.take();
  (void)allocator.take();
  CHECK_THROWS_AS((void)allocator.take(), std::logic_error);
  model const decoder({}, 1);
  engine small(decoder, {.slots = 1, .num_pages = 4, .page_size = 4, .max_tokens = 64}, {}, evicting_nothing(),
               host_attention);
  CHECK_THROWS_AS(small.submit({std::vector<int>(16, 1), 1}), std::invalid_argument);
}
