// SPDX-License-Identifier: Apache-2.0
// Select and compact in one kernel against the host's two verbs: every instance, element types and dimensions that
// leave half a vector over, rows with holes, a cache in pages, and a stage that runs before the choice.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include <foresightkv/verbs/compact.hpp>
#include <foresightkv/verbs/select.hpp>

#include "support/compaction_bench.hpp"

namespace fkv = foresightkv;
namespace kernels = fkv::detail::kernels;
using testing::history;
using testing::hostile;
using launcher = kernels::launcher<testing::emulated_execution>;

namespace {

template <class Compaction, class Element>
using bench_of = testing::policy_bench<testing::compact_policy<Compaction>, Element>;

template <class Compaction, int Threads, int Items>
using chooser_of = kernels::row_chooser<fkv::top_k, fkv::per_sequence, Compaction::moves_tokens, Threads, Items, true>;

constexpr fkv::cache_shape shape_of(int length, int key_dim, int value_dim) {
  return {.num_layers = 1,
          .num_sequences = 3,
          .num_kv_heads = 2,
          .group = 2,
          .key_head_dim = key_dim,
          .value_head_dim = value_dim,
          .capacity = length};
}

/// Rows of different lengths and budgets: one stays, one loses a few tokens, one loses all.
template <class Bench>
Bench problem(std::uint64_t seed, fkv::cache_shape const& shape, history past, std::vector<std::int32_t>& budgets) {
  Bench made(seed, {{.budget = 1, .interval = 1, .recent_tokens = 0}, {}, {}, {}, {}}, shape, 1);
  int const length = shape.capacity;
  int const lengths[] = {length, made.random.integer(1, length), length - 1};
  for (int s = 0; s < 3; ++s) made.place(s, past, lengths[s]);
  auto const kind = static_cast<hostile>(seed % (static_cast<unsigned>(hostile::mixed) + 1));
  for (int row = 0; row < shape.num_rows(); ++row) {
    auto const values = testing::hostile_row(kind, length, made.random);
    std::copy(values.begin(), values.end(), &made.scores.at(row, 0));
  }
  budgets = {made.random.integer(1, length), made.random.chance(0.5) ? 0 : length, length - length / 9};
  made.policy.budget.budgets = budgets.data();
  return made;
}

template <class Bench>
void cut_on_host(Bench& made) {
  auto const bytes = fkv::evict_bytes(fkv::host, typename Bench::policy_type{}, made.shape, made.list(), 0);
  testing::owned_workspace work(bytes);
  auto const cache = made.cache.view();
  auto const lists = made.lists.view();
  auto const& state = made.state.view;
  auto const scores = made.scores.view();
  REQUIRE(fkv::select(fkv::host, fkv::batch{made.policy, cache, made.list(), state, work.view()}, scores, lists).ok());
  std::int32_t* const lengths = made.new_lengths.data();
  REQUIRE(
      fkv::compact(fkv::host, fkv::batch{made.policy, cache, made.list(), state, work.view()}, lists, lengths).ok());
}

/// What the verb evict starts behind the scores, with this instance.
template <class Compaction, int Threads, int Items, class Bench, class Cache, class Before = kernels::no_stage>
void cut_by_kernel(testing::execution const& exec, Bench& made, Cache const& cache, Before const& before = {}) {
  using chooser_type = chooser_of<Compaction, Threads, Items>;
  auto const& shape = made.shape;
  auto const slots = static_cast<std::size_t>(shape.num_rows()) * static_cast<std::size_t>(shape.capacity);
  auto const width = static_cast<std::size_t>(made.state.view.num_carried * shape.group);
  std::vector<std::int32_t> accepted(static_cast<std::size_t>(shape.num_sequences));
  std::iota(accepted.begin(), accepted.end(), 0);
  testing::guarded<float> carried(slots * width);
  testing::guarded<std::int32_t> lists(slots);
  kernels::evict_kernel<Cache, Compaction, chooser_type, Before> body;
  auto const lengths = testing::lengths_by_place(cache);
  body.chooser.rows = {shape, Cache::domain, made.state.view, accepted.data(), lengths.data(), shape.num_sequences};
  body.chooser.config = made.policy.config;
  body.chooser.budget = made.policy.budget;
  body.chooser.scores = made.scores.values.data();
  body.chooser.scores_capacity = made.scores.capacity;
  body.chooser.scores_by_row = true;
  body.chooser.max_length = shape.capacity;
  body.cache = cache;
  body.before = before;
  body.wanted = made.lists.view();
  body.new_lengths = made.new_lengths.data();
  body.carried = carried.data();
  body.slots = lists.data();
  body.max_length = shape.capacity;
  kernels::fetch_carried_kernel const fetch{body.chooser.rows, carried.data(), shape.capacity};
  REQUIRE(launcher::run(exec, shape.num_rows(), fetch).ok());
  REQUIRE(launcher::run(exec, shape.num_rows(), body).ok());
  CHECK((made.intact() && carried.intact() && lists.intact()));
}

template <class Bench>
int differences(Bench const& a, Bench const& b) {
  return !testing::same_state(a.state.view, b.state.view) + !a.lists.same(b.lists) +
         !a.new_lengths.same_bytes(b.new_lengths);
}

template <class Compaction, class Element, int Threads, int Items>
void check(std::uint64_t seed, int length, int key_dim, int value_dim) {
  CAPTURE(length);
  for (history const past : {history::pristine, history::ordered, history::filled, history::holes}) {
    CAPTURE(seed);
    std::vector<std::int32_t> budgets;
    auto given = problem<bench_of<Compaction, Element>>(seed, shape_of(length, key_dim, value_dim), past, budgets);
    auto right = given;
    cut_on_host(right);
    cut_by_kernel<Compaction, Threads, Items>(testing::scheduled(static_cast<int>(seed)), given, given.cache.view());
    CHECK(differences(given, right) == 0);
    int wrong = 0;
    given.each_row([&](fkv::row_index at) {
      for (int slot = 0; slot < given.shape.capacity; ++slot)
        wrong +=
            slot < given.new_length(at) && !testing::same_token(given.cache.view(), at, slot, right.cache.view(), slot);
    });
    CHECK(wrong == 0);
    ++seed;
  }
}

/// Pages of five tokens in no order, keys and values of a token side by side.
struct paged_vectors {
  using element_type = fkv::half;
  static constexpr int page = 5;
  std::int32_t const* table = nullptr;  // [page of the row]
  element_type* pages = nullptr;        // [page][token][key, value]
  int stride = 0;

  [[nodiscard]] element_type* at(int slot) const { return pages + (table[slot / page] * page + slot % page) * stride; }
  [[nodiscard]] static constexpr float scale(int) { return 1.0f; }
};
struct paged_cache {
  static constexpr fkv::length_domain domain = fkv::length_domain::sequence;
  static constexpr int page = paged_vectors::page;
  fkv::cache_shape extents{};
  std::int32_t const* row_lengths = nullptr;
  std::int32_t const* table = nullptr;  // [row][page of the row]
  fkv::half* pages = nullptr;

  [[nodiscard]] fkv::cache_shape const& shape() const { return extents; }
  [[nodiscard]] int length(fkv::row_index at) const { return row_lengths[at.sequence]; }
  [[nodiscard]] paged_vectors keys(fkv::row_index at) const {
    int const of_row = fkv::detail::kernels::divide_up(extents.capacity, page);
    return {table + extents.row(at) * of_row, pages, extents.key_head_dim + extents.value_head_dim};
  }
  [[nodiscard]] paged_vectors values(fkv::row_index at) const {
    auto made = keys(at);
    made.pages += extents.key_head_dim;
    return made;
  }
  [[nodiscard]] fkv::status check() const { return {}; }
};
static_assert(fkv::kv_cache<paged_cache>);

template <class A, class B>
bool same_token(A const& a, B const& b, fkv::row_index at, int slot) {
  auto const keys = static_cast<std::size_t>(a.shape().key_head_dim) * sizeof(fkv::half);
  auto const values = static_cast<std::size_t>(a.shape().value_head_dim) * sizeof(fkv::half);
  return std::memcmp(a.keys(at).at(slot), b.keys(at).at(slot), keys) == 0 &&
         std::memcmp(a.values(at).at(slot), b.values(at).at(slot), values) == 0;
}

template <class Compaction>
void check_pages(std::uint64_t seed, history past) {
  std::vector<std::int32_t> budgets;
  auto given = problem<bench_of<Compaction, fkv::half>>(seed, shape_of(93, 72, 12), past, budgets);
  auto const dense = given.cache.view();
  auto const& shape = given.shape;
  std::vector<std::int32_t> table(static_cast<std::size_t>(shape.num_rows() * 19));
  std::iota(table.begin(), table.end(), 0);
  for (std::size_t i = table.size(); i > 1; --i) std::swap(table[i - 1], table[given.random.bits() % i]);
  testing::guarded<fkv::half> pages(table.size() * paged_cache::page * static_cast<std::size_t>(72 + 12));
  paged_cache const cache{shape, given.cache.lengths.data(), table.data(), pages.data()};
  given.each_row([&](fkv::row_index at) {
    for (int slot = 0; slot < shape.capacity; ++slot) {
      std::copy_n(dense.key(at, slot), shape.key_head_dim, cache.keys(at).at(slot));
      std::copy_n(dense.value(at, slot), shape.value_head_dim, cache.values(at).at(slot));
    }
  });
  auto right = given;
  cut_on_host(right);
  cut_by_kernel<Compaction, 128, 8>(testing::scheduled(static_cast<int>(seed)), given, cache);
  CHECK(pages.intact());
  CHECK(differences(given, right) == 0);
  int wrong = 0;
  given.each_row([&](fkv::row_index at) {
    for (int slot = 0; slot < given.new_length(at); ++slot) wrong += !same_token(cache, right.cache.view(), at, slot);
  });
  CHECK(wrong == 0);
}

/// Brings the scores: each thread those of other slots than it will choose among.
struct late_scores {
  enum sync : int { brought };
  template <class Context>
  struct shared {
    std::uint32_t words[5000];  // so that lists have no room
  };
  float const* from = nullptr;
  float* to = nullptr;
  int capacity = 0;

  template <class Context>
  void operator()(Context const& c, shared<Context>& memory, kernels::visited_row const& row, int first,
                  int last) const {
    for (int slot = first + c.rank(); slot < last; slot += Context::threads) {
      memory.words[slot] = 1;
      to[row.row * capacity + slot] = from[row.row * capacity + slot];
    }
    c.sync(brought);
  }
};

/// Whether the kernel with a stage gives the host's results.
bool stage_works(testing::block_faults const& faults, std::uint64_t seed) {
  std::vector<std::int32_t> budgets;
  auto given = problem<bench_of<fkv::fill_holes, float>>(1, shape_of(300, 4, 4), history::pristine, budgets);
  auto right = given;
  cut_on_host(right);
  auto const scores = given.scores;
  std::fill(given.scores.values.begin(), given.scores.values.end(), 0.0f);
  auto exec = testing::scheduled(static_cast<int>(seed));
  exec.options.faults = faults;
  late_scores const stage{scores.values.data(), given.scores.values.data(), scores.capacity};
  cut_by_kernel<fkv::fill_holes, 512, 32>(exec, given, given.cache.view(), stage);
  return differences(given, right) == 0;
}

}  // namespace

TEST_CASE("evict kernel: holes are filled as the host does") {
  check<fkv::fill_holes, float, 128, 8>(1, 131, 160, 40);
  check<fkv::fill_holes, fkv::bfloat16, 256, 8>(11, 1500, 3, 5);
  check<fkv::fill_holes, fkv::half, 256, 16>(21, 2300, 8, 20);
}

TEST_CASE("evict kernel: tokens close up as the host has them") {
  check<fkv::ordered, float, 128, 8>(2, 131, 160, 40);
  check<fkv::ordered, fkv::float8_e4m3, 256, 16>(12, 2300, 17, 1);
  check<fkv::ordered, fkv::bfloat16, 512, 32>(22, 5000, 8, 3);
}

TEST_CASE("evict kernel: slots become empty as they do on the host") {
  check<fkv::slot_list, float, 128, 8>(3, 900, 1, 1);
  check<fkv::slot_list, float, 512, 32>(13, 5000, 1, 1);
}

TEST_CASE("evict kernel: a cache in pages") {
  for (std::uint64_t seed = 40; seed < 44; ++seed) {
    CAPTURE(seed);
    check_pages<fkv::fill_holes>(seed, history::filled);
    check_pages<fkv::ordered>(seed, history::ordered);
  }
}

TEST_CASE("evict kernel: a stage before the choice, and the barrier that it ends in") {
  using chooser = chooser_of<fkv::fill_holes, 512, 32>;
  using kernel = kernels::evict_kernel<fkv::dense_cache<float>, fkv::fill_holes, chooser, late_scores>;
  int shown = 0;
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    CHECK(stage_works({}, seed));
    shown += !stage_works({.skipped_sync = late_scores::brought, .in = &typeid(kernel)}, seed);
  }
  CHECK(shown > 0);
}
