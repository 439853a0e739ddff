// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <foresightkv/caches/dense.hpp>
#include <foresightkv/verbs/observe.hpp>

#include "support/token_bench.hpp"
#include "support/vector_file.hpp"

namespace fkv = foresightkv;
using testing::history;
using testing::random_source;

namespace {

using all_statistics = fkv::statistics<fkv::maximum, fkv::minimum, fkv::sum, fkv::last<1>, fkv::last<8>, fkv::last<32>,
                                       fkv::sum_of_squares>;

// A policy that stores nothing but positions.
using position_policy = fkv::detail::observer<fkv::statistics<>>;

/// Rows, a window, and where its statistics go.
template <class Element, class Query, fkv::log_base Base, class List = all_statistics>
struct bench : testing::token_bench<position_policy, Element, fkv::length_domain::row> {
  using base = testing::token_bench<position_policy, Element, fkv::length_domain::row>;
  using base::cache, base::positions, base::random, base::row_end, base::shape, base::slots, base::state;

  testing::owned_window<Query, Base> window;
  testing::owned_statistics<List> out;

  bench(std::uint64_t seed, int longest, int most_queries) : base(seed, longest) { rebuild(most_queries); }
  bench(std::uint64_t seed, fkv::cache_shape const& extents, int most_queries) : base(seed, extents) {
    rebuild(most_queries);
  }

  void rebuild(int most_queries) {
    window = {shape, most_queries, random.chance(0.5), random};
    out = {shape, shape.capacity};
  }

  fkv::status observe(fkv::observation<Query, Base> const& seen, testing::execution exec = testing::exec) {
    testing::owned_workspace work(fkv::observe_bytes<List>(exec, shape, base::list(), seen.max_queries));
    fkv::status const done = fkv::observe(exec, cache.view(), base::list(), seen, state.view, out.view(), work.view());
    CHECK(work.memory.intact());
    CHECK((out.values.intact() && cache.intact() && state.intact() && window.intact()));
    return done;
  }

  /// The largest difference from the oracle, over every row that the list names.
  double worst() {
    testing::worst_difference difference;
    auto const wanted = oracle::describe_list(List{});
    base::each_row([&](fkv::row_index at) {
      if (!base::listed(at.sequence)) return;
      int const row = shape.row(at);
      auto const tokens = testing::oracle_row(cache.view(), at, positions[static_cast<std::size_t>(row)]);
      for (int j = 0; j < shape.group; ++j) {
        auto const seen = window.seen(at, j, tokens, row_end[static_cast<std::size_t>(row)]);
        for (std::size_t slot = 0; slot < tokens.length(); ++slot)
          for (std::size_t s = 0; s < wanted.size(); ++s) {
            // Sums of many queries are held to a relative error.
            double const expected = oracle::evaluate(wanted[s], seen, slot);
            double const size = std::max(1.0, std::fabs(expected));
            difference.add(out.at(row, static_cast<int>(slot), static_cast<int>(s), j) / size, expected / size);
          }
      }
    });
    return difference.value();
  }
  void fill_lse(double masked) {
    window.has_lse = true;
    base::each_row([&](fkv::row_index at) {
      auto const row = static_cast<std::size_t>(shape.row(at));
      window.fill_lse(at, testing::oracle_row(cache.view(), at, positions[row]), row_end[row], masked, random);
    });
  }
};

constexpr double tolerance = 2e-5;

/// A user's statistic that depends on the order of queries: each halves what the older ones left.
struct fading {
  static constexpr float initial = 0.0f;
  FORESIGHTKV_HOST_DEVICE static constexpr float fold(float a, float p, int) { return 0.5f * a + p; }
};

/// One random case of everything at once.
template <class Element, class Query, fkv::log_base Base>
void check_random(std::uint64_t seed, bool long_window = false, int most_queries = 150) {
  CAPTURE(seed);
  random_source choice(seed + 1000);
  bool const is_long = choice.chance(0.2) || long_window;
  bench<Element, Query, Base> made(seed, is_long ? choice.integer(150, 300) : choice.integer(1, 70),
                                   long_window ? choice.integer(64, most_queries) : choice.integer(0, 40));
  made.place(static_cast<history>(choice.integer(0, long_window ? 2 : 3)));
  auto& window = made.window;
  if (choice.chance(long_window ? 0.1 : 0.4)) {
    window.has_counts = true;
    for (auto& count : window.query_count) count = choice.chance(0.25) ? 0 : choice.integer(0, window.max_queries);
  }
  auto const end_of = [&](int sequence) {
    return made.row_end[static_cast<std::size_t>(made.shape.row({0, sequence, 0}))];
  };
  for (int s = 0; s < made.shape.num_sequences; ++s) {
    auto const place = static_cast<std::size_t>(s);
    window.window_end[place] = end_of(s) - choice.integer(0, 12);
    window.first_position[place] = window.window_end[place] - window.count(s) - choice.integer(0, 9);
  }
  window.has_end = choice.chance(0.4);
  window.has_first = window.has_end && choice.chance(0.5);
  window.soft_cap = choice.chance(long_window ? 0.1 : 0.3) ? static_cast<float>(choice.uniform(1.0, 6.0)) : 0.0f;
  window.scale = choice.chance(0.3) ? static_cast<float>(choice.uniform(0.02, 0.3)) : 0.0f;
  window.has_sinks = choice.chance(0.3);
  if (choice.chance(0.5)) made.fill_lse(choice.chance(long_window ? 0.2 : 0.5) ? 0.2 : 0.0);
  REQUIRE(made.observe(window.view()).ok());
  double const worst = made.worst();
  CHECK(worst <= tolerance);
}

}  // namespace

TEST_CASE("observe: statistics of random windows, float") {
  for (std::uint64_t seed = 0; seed < 60; ++seed) check_random<float, float, fkv::log_base::natural>(seed);
}

TEST_CASE("observe: statistics of random windows, half with base-2 log-sum-exps") {
  for (std::uint64_t seed = 100; seed < 130; ++seed) check_random<fkv::half, fkv::half, fkv::log_base::two>(seed);
}

TEST_CASE("observe: statistics of random windows, bfloat16 keys and float queries") {
  for (std::uint64_t seed = 200; seed < 230; ++seed) check_random<fkv::bfloat16, float, fkv::log_base::natural>(seed);
}

TEST_CASE("observe: statistics of random windows, fp8 keys and bfloat16 queries") {
  for (std::uint64_t seed = 300; seed < 320; ++seed)
    check_random<fkv::float8_e4m3, fkv::bfloat16, fkv::log_base::natural>(seed);
}

// Matrix units have tiles of queries and a shorter way through those that every token of a tile is seen by.
TEST_CASE("observe: statistics of windows of several tiles") {
  for (std::uint64_t seed = 400; seed < 406; ++seed) {
    check_random<fkv::bfloat16, fkv::bfloat16, fkv::log_base::natural>(seed, true);
    check_random<fkv::half, fkv::half, fkv::log_base::two>(seed + 10, true);
    check_random<fkv::float8_e5m2, fkv::half, fkv::log_base::natural>(seed + 20, true);
  }
  check_random<fkv::half, fkv::half, fkv::log_base::natural>(430, true, 700);
}

namespace {

using float_bench = bench<float, float, fkv::log_base::natural>;

}  // namespace

TEST_CASE_TEMPLATE("observe: a fold that depends on the order of queries sees the oldest first", Element, float,
                   fkv::half) {
  bench<Element, Element, fkv::log_base::natural, fkv::statistics<fading>> made(31, 60, 30);
  made.place(history::ordered);
  REQUIRE(made.observe(made.window.view()).ok());
  testing::worst_difference difference;
  made.each_row([&](fkv::row_index at) {
    int const row = made.shape.row(at);
    auto const tokens = testing::oracle_row(made.cache.view(), at, made.positions[static_cast<std::size_t>(row)]);
    for (int j = 0; j < made.shape.group; ++j) {
      auto const seen = made.window.seen(at, j, tokens, made.row_end[static_cast<std::size_t>(row)]);
      for (std::size_t slot = 0; slot < tokens.length(); ++slot) {
        double wanted = 0.0;
        for (auto const& of_query : seen.probability) wanted = 0.5 * wanted + of_query[slot];
        difference.add(made.out.at(row, static_cast<int>(slot), 0, j), wanted);
      }
    }
  });
  CHECK(difference.value() <= tolerance);
}

TEST_CASE("observe: a cache type that fixes the key dimension gives the same bytes") {
  fkv::cache_shape const shape{1, 2, 2, 3, 72, 5, 60};
  bench<fkv::half, fkv::half, fkv::log_base::natural> made(21, shape, 70);
  made.place(history::ordered);
  REQUIRE(made.observe(made.window.view()).ok());
  auto const wanted = made.out.values;
  auto const free = made.cache.view();
  auto const observe = [&]<int KeyHeadDim>() {
    using cache_type = fkv::dense_cache<fkv::half, fkv::half, fkv::length_domain::row, KeyHeadDim>;
    cache_type const fixed{free.key_data,   free.value_data,   free.row_lengths, free.extents,
                           free.key_layout, free.value_layout, free.key_layers,  free.value_layers};
    testing::owned_workspace work(fkv::observe_bytes<all_statistics>(testing::exec, shape, made.list(), 70));
    return fkv::observe(testing::exec, fixed, made.list(), made.window.view(), made.state.view, made.out.view(),
                        work.view());
  };
  for (float& value : made.out.values) value = -1.0f;
  REQUIRE(observe.template operator()<72>().ok());
  CHECK(made.worst() <= tolerance);
  made.each_row([&](fkv::row_index at) {
    auto const row = static_cast<std::size_t>(shape.row(at) * made.out.view().capacity);
    auto const first = row * static_cast<std::size_t>(all_statistics::size * shape.group);
    auto const count = static_cast<std::size_t>(made.length(at) * all_statistics::size * shape.group);
    CHECK(std::equal(wanted.begin() + first, wanted.begin() + first + count, made.out.values.begin() + first));
  });
  CHECK(observe.template operator()<71>().code == fkv::errc::invalid_shape);
}

TEST_CASE("observe: every group size, with an odd head_dim") {
  for (int group = 1; group <= 16; ++group) {
    CAPTURE(group);
    fkv::cache_shape const shape{.num_layers = 1,
                                 .num_sequences = 1,
                                 .num_kv_heads = 2,
                                 .group = group,
                                 .key_head_dim = 2 * group + 1,
                                 .value_head_dim = 1,
                                 .capacity = 33};
    float_bench made(static_cast<std::uint64_t>(group), shape, 9);
    made.place(history::pristine);
    REQUIRE(made.observe(made.window.view()).ok());
    CHECK(made.worst() <= tolerance);
  }
}

TEST_CASE_TEMPLATE("observe: queries of all sequences one behind the other give the bits of queries apart", Element,
                   float, fkv::half) {
  for (bool const with_lse : {false, true}) {
    bench<Element, Element, fkv::log_base::natural> made(77, fkv::cache_shape{2, 4, 2, 3, 40, 8, 60}, 20);
    made.place(history::ordered);
    auto& window = made.window;
    window.has_counts = true;
    std::vector<std::int32_t> const counts{7, 0, 20, 13};
    std::copy(counts.begin(), counts.end(), window.query_count.begin());
    if (with_lse) made.fill_lse(0.1);
    for (float& value : made.out.values) value = -1.0f;  // behind the rows' ends
    REQUIRE(made.observe(window.view()).ok());
    auto const wanted = made.out.values;

    testing::guarded<std::int32_t> starts(5, 3);  // the first three queries are nobody's
    for (std::size_t s = 0; s < 4; ++s) starts[s + 1] = starts[s] + counts[s];
    int const total = starts[4], heads = window.heads();
    testing::guarded<Element> queries(static_cast<std::size_t>(2 * total * heads * 40));
    testing::guarded<float> lse(static_cast<std::size_t>(2 * total * heads));
    made.each_row([&](fkv::row_index at) {
      for (int j = 0; j < 3; ++j)
        for (int r = 0; r < counts[static_cast<std::size_t>(at.sequence)]; ++r) {
          int const place =
              (at.layer * total + starts[static_cast<std::size_t>(at.sequence)] + r) * heads + at.kv_head * 3 + j;
          std::copy_n(window.view().query(at, at.kv_head * 3 + j, r), 40, queries.data() + place * 40);
          lse[static_cast<std::size_t>(place)] = window.log_sum(at, j, r);
        }
    });
    auto packed = fkv::observation<Element>::packed(queries.data(), starts.data(), made.shape, total, 20);
    if (with_lse) packed = packed.with_lse(lse.data());
    for (float& value : made.out.values) value = -1.0f;
    REQUIRE(made.observe(packed).ok());
    CHECK(made.out.values.same_bytes(wanted));
    CHECK((queries.intact() && starts.intact() && lse.intact()));
    for (int s = 0; s < 4; ++s) CHECK(made.state.view.flags[s] == 0);

    // Starts that descend, that are too far apart, or below 0: their sequence has no window.
    for (auto const& bad : {std::vector<std::int32_t>{0, 5, 4, 9, 12}, {0, 21, 22, 23, 24}, {-1, 2, 3, 4, 5}}) {
      std::copy(bad.begin(), bad.end(), starts.begin());
      std::fill_n(made.state.view.flags, 4, 0u);
      REQUIRE(made.observe(packed).ok());
      for (int s = 0; s < 4; ++s) {
        auto const i = static_cast<std::size_t>(s);
        bool const broken = bad[i] < 0 || bad[i + 1] < bad[i] || bad[i + 1] - bad[i] > 20;
        CHECK((made.state.view.flags[s] == static_cast<std::uint32_t>(fkv::sequence_flag::bad_window)) == broken);
      }
    }
  }
}

TEST_CASE("observe: causality by position, for rows shorter and longer than the window") {
  for (int length : {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100})
    for (history const kind : {history::pristine, history::ordered, history::filled, history::holes}) {
      CAPTURE(length);
      float_bench made(static_cast<std::uint64_t>(length), length, 40);  // more queries than tokens
      made.place(kind);
      REQUIRE(made.observe(made.window.view()).ok());
      CHECK(made.worst() <= tolerance);
    }
}

TEST_CASE("observe: a query sees no token behind it, whatever that token holds") {
  float_bench made(7, 50, 12);
  made.place(history::pristine);
  REQUIRE(made.observe(made.window.view()).ok());
  auto const before = made.out.values;
  // Tokens behind the first query change; what the first query gave the others may not. Only it is observed.
  made.window.has_counts = true;
  for (auto& count : made.window.query_count) count = 1;
  made.window.has_end = true;
  auto const end_of = [&](int s) { return made.row_end[static_cast<std::size_t>(made.shape.row({0, s, 0}))]; };
  for (int s = 0; s < made.shape.num_sequences; ++s)
    made.window.window_end[static_cast<std::size_t>(s)] = end_of(s) / 2;
  REQUIRE(made.observe(made.window.view()).ok());
  auto const first = made.out.values;
  auto const cache = made.cache.view();
  made.each_row([&](fkv::row_index at) {
    for (int slot = end_of(at.sequence) / 2; slot < made.cache.length(at); ++slot)
      for (int d = 0; d < made.shape.key_head_dim; ++d) cache.key(at, slot)[d] = 50.0f;
  });
  REQUIRE(made.observe(made.window.view()).ok());
  CHECK(made.out.values.same_bytes(first));
  CHECK_FALSE(made.out.values.same_bytes(before));
}

TEST_CASE_TEMPLATE("observe: a window in chunks gives the statistics of the whole", Element, float, fkv::half) {
  for (std::uint64_t seed = 400; seed < 416; ++seed) {
    CAPTURE(seed);
    random_source choice(seed);
    bench<Element, Element, fkv::log_base::natural> made(seed, 60, 37);
    made.place(static_cast<history>(choice.integer(0, 3)));
    made.window.has_sinks = choice.chance(0.5);
    if (choice.chance(0.5)) made.fill_lse(0.1);
    auto& window = made.window;
    auto const whole = window.view();
    int const total = window.max_queries;
    std::vector<std::int32_t> ends, firsts(static_cast<std::size_t>(made.shape.num_sequences)), counts(firsts.size());
    for (int s = 0; s < made.shape.num_sequences; ++s)
      ends.push_back(made.row_end[static_cast<std::size_t>(made.shape.row({0, s, 0}))]);
    for (int from = 0; from < total;) {
      int const count = std::min(choice.integer(1, 16), total - from);
      auto chunk = whole;
      chunk.queries += from * chunk.strides.token;
      if (chunk.lse != nullptr) chunk.lse += from * chunk.lse_strides.token;
      chunk.max_queries = count;
      chunk.window_end = ends.data();
      chunk.first_position = firsts.data();
      chunk.continues = from > 0;
      for (std::size_t s = 0; s < firsts.size(); ++s) firsts[s] = ends[s] - total + from;
      REQUIRE(made.observe(chunk).ok());
      from += count;
    }
    CHECK(made.worst() <= tolerance);
  }
}

TEST_CASE_TEMPLATE("observe: every sequence has chunks of its own, of any size, and tokens join between them", Element,
                   float, fkv::half) {
  for (std::uint64_t seed = 420; seed < 440; ++seed) {
    CAPTURE(seed);
    random_source choice(seed);
    bench<Element, Element, fkv::log_base::natural> made(seed, 60, 37);
    auto const& shape = made.shape;
    for (int s = 0; s < shape.num_sequences; ++s)
      made.place(s, history::pristine, choice.chance(0.3) ? 37 : choice.integer(37, 60));
    if (choice.chance(0.5)) made.fill_lse(0.1);
    auto const sequences = static_cast<std::size_t>(shape.num_sequences);
    int const total = made.window.max_queries;
    auto const whole = made.window.view();
    auto const lengths = made.cache.lengths;
    auto queries = made.window.queries;
    auto lse = made.window.lse;
    std::vector<std::int32_t> ends, done(sequences, 0), counts(sequences), firsts(sequences);
    for (int s = 0; s < shape.num_sequences; ++s)
      ends.push_back(made.row_end[static_cast<std::size_t>(shape.row({0, s, 0}))]);
    bool const joins = choice.chance(0.5);
    for (bool first = true; std::any_of(done.begin(), done.end(), [&](int d) { return d < total; }); first = false) {
      for (std::size_t s = 0; s < sequences; ++s) {
        counts[s] = choice.chance(0.4) ? 0 : choice.integer(0, std::min(16, total - done[s]));
        firsts[s] = ends[s] - total + done[s];
      }
      // Each sequence goes on where it was: its queries move to the front.
      auto chunk = whole;
      made.each_row([&](fkv::row_index at) {
        auto const s = static_cast<std::size_t>(at.sequence);
        for (int j = 0; j < shape.group; ++j)
          for (int r = 0; r < counts[s]; ++r) {
            int const head = at.kv_head * shape.group + j;
            auto const place = whole.query(at, head, r) - whole.queries;
            std::copy_n(whole.query(at, head, done[s] + r), shape.key_head_dim, queries.data() + place);
            if (chunk.lse != nullptr)
              lse[static_cast<std::size_t>(&made.window.log_sum(at, j, r) - made.window.lse.data())] =
                  made.window.log_sum(at, j, done[s] + r);
          }
        int const newest = firsts[s] + counts[s];
        int const full = lengths[static_cast<std::size_t>(shape.row(at))];
        made.cache.length(at) = joins ? std::clamp(newest, 0, full) : full;
      });
      chunk.queries = queries.data();
      if (chunk.lse != nullptr) chunk.lse = lse.data();
      chunk.query_count = counts.data();
      chunk.window_end = ends.data();
      chunk.first_position = firsts.data();
      chunk.continues = !first;
      REQUIRE(made.observe(chunk).ok());
      for (std::size_t s = 0; s < sequences; ++s) done[s] += counts[s];
    }
    made.cache.lengths = lengths;
    CHECK(made.worst() <= tolerance);
  }
}

TEST_CASE_TEMPLATE("observe: a later chunk of no queries changes nothing, a first one gives zeros", Element, float,
                   fkv::half) {
  bench<Element, Element, fkv::log_base::natural> made(11, 40, 8);
  made.place(history::ordered);
  REQUIRE(made.observe(made.window.view()).ok());
  auto const before = made.out.values;
  auto none = made.window.view();
  none.max_queries = 0;
  none.queries = nullptr;
  none.continues = true;
  REQUIRE(made.observe(none).ok());
  CHECK(made.out.values.same_bytes(before));
  none.continues = false;
  REQUIRE(made.observe(none).ok());
  made.window.has_counts = true;
  for (auto& count : made.window.query_count) count = 0;
  CHECK(made.worst() == 0.0);
}

TEST_CASE_TEMPLATE("observe: a chunk without a query leaves tokens that joined before it with zeros", Element, float,
                   fkv::half) {
  bench<Element, Element, fkv::log_base::natural> made(25, 60, 8);
  auto& window = made.window;
  for (int s = 0; s < made.shape.num_sequences; ++s) {
    made.place(s, history::pristine, 40);
    auto const place = static_cast<std::size_t>(s);
    window.window_end[place] = made.row_end[static_cast<std::size_t>(made.shape.row({0, s, 0}))];
    window.first_position[place] = window.window_end[place] - 13;
  }
  window.has_end = window.has_first = true;
  for (float& value : made.out.values) value = 7.0f;
  auto const lengths = made.cache.lengths;
  made.each_row([&](fkv::row_index at) { made.cache.length(at) -= 5; });
  REQUIRE(made.observe(window.view()).ok());
  made.cache.lengths = lengths;
  std::vector<std::int32_t> const counts(static_cast<std::size_t>(made.shape.num_sequences));
  auto firsts = counts;
  for (std::size_t s = 0; s < firsts.size(); ++s) firsts[s] = window.window_end[s] - 5;
  auto none = window.view();
  none.query_count = counts.data();
  none.first_position = firsts.data();
  none.continues = true;
  REQUIRE(made.observe(none).ok());
  CHECK(made.worst() <= tolerance);
}

TEST_CASE_TEMPLATE("observe: a window may begin in a later chunk before all cached tokens", Element, float, fkv::half) {
  constexpr fkv::cache_shape shape{.num_layers = 1,
                                   .num_sequences = 1,
                                   .num_kv_heads = 1,
                                   .group = 1,
                                   .key_head_dim = 16,
                                   .value_head_dim = 16,
                                   .capacity = 8};
  testing::owned_state<position_policy> state(shape, 8);
  state.view.step[0] = 1;
  state.view.seen_length[0] = 2;
  state.view.next_position[0] = 7;
  state.view.position[0] = 5;
  state.view.position[1] = 6;
  random_source random(26);
  testing::guarded<Element> keys(128), queries(32);
  random.fill_normal<Element>(keys);
  random.fill_normal<Element>(queries);
  std::vector<std::int32_t> const length{2}, first{5}, end{7}, none{0};
  using list = fkv::statistics<fkv::minimum, fkv::sum>;
  auto const cache = fkv::dense_cache<Element>::hnd(keys.data(), keys.data(), length.data(), shape);
  auto const observe = [&](fkv::observation<Element> const& window, std::vector<float>& out) {
    fkv::sequence_list const all{nullptr, nullptr, 1, 8};
    testing::owned_workspace work(fkv::observe_bytes<list>(testing::exec, shape, all, 2));
    CHECK(fkv::observe(testing::exec, cache, all, window, state.view, fkv::statistics_view<list>{out.data(), 8},
                       work.view())
              .ok());
  };
  auto window = fkv::observation<Element>::hnd(queries.data(), shape, 2);
  window.first_position = first.data();
  window.window_end = end.data();
  std::vector<float> whole(16, 7.0f), parts(16, 7.0f);
  observe(window, whole);
  auto nothing = window;
  nothing.query_count = none.data();
  observe(nothing, parts);
  window.continues = true;
  observe(window, parts);
  CHECK(whole[0] > 0.0f);
  CHECK(parts == whole);
}

TEST_CASE("observe: a later chunk of no statistics reads none") {
  bench<float, float, fkv::log_base::natural, fkv::statistics<>> made(23, 40, 8);
  made.place(history::ordered);
  auto later = made.window.view();
  later.continues = true;
  CHECK(made.observe(later).ok());
  fkv::statistics_view<fkv::statistics<>> const nowhere{nullptr, made.shape.capacity};
  testing::owned_workspace work(
      fkv::observe_bytes<fkv::statistics<>>(testing::exec, made.shape, made.list(), later.max_queries));
  CHECK(fkv::observe(testing::exec, made.cache.view(), made.list(), later, made.state.view, nowhere, work.view()).ok());
}

TEST_CASE("observe: masked queries give nothing, a fully masked window zeros") {
  float_bench made(12, 40, 8);
  made.place(history::filled);
  made.fill_lse(1.0);
  REQUIRE(made.observe(made.window.view()).ok());
  bool all_zero = true;
  made.each_row([&](fkv::row_index at) {
    int const row = made.shape.row(at);
    for (int slot = 0; slot < made.cache.length(at); ++slot)
      for (int s = 0; s < all_statistics::size; ++s)
        for (int j = 0; j < made.shape.group; ++j) all_zero = all_zero && made.out.at(row, slot, s, j) == 0.0f;
  });
  CHECK(all_zero);
}

TEST_CASE("observe: what a query does not see has no share, however low the logits of the others") {
  fkv::cache_shape const shape{.group = 1, .key_head_dim = 1, .value_head_dim = 1, .capacity = 3};
  for (float const scale : {1e20f, 3e26f}) {
    CAPTURE(scale);
    bench<float, float, fkv::log_base::natural, fkv::statistics<fkv::sum>> made(1, shape, 1);
    made.cache.length({0, 0, 0}) = 3;
    auto const& state = made.state.view;
    state.step[0] = 1;
    state.seen_length[0] = 3;
    state.next_position[0] = 10;
    float const keys[] = {1.0f, -1.0f * scale, -1.0001f * scale};
    std::int32_t const positions[] = {9, 1, 2};  // the first came later and moved into a hole
    for (int slot = 0; slot < 3; ++slot) {
      *made.cache.view().key({0, 0, 0}, slot) = keys[slot];
      state.position[state.column(0, slot)] = positions[slot];
    }
    made.window.queries[0] = 1e11f;
    made.window.has_first = made.window.has_end = true;
    made.window.first_position[0] = 5;
    made.window.window_end[0] = 6;
    REQUIRE(made.observe(made.window.view()).ok());
    CHECK(made.out.at(0, 0, 0, 0) == 0.0f);
    CHECK(made.out.at(0, 1, 0, 0) == 1.0f);
    CHECK(made.out.at(0, 2, 0, 0) == 0.0f);
    CHECK(state.flags[0] == 0);
  }
}

#if !defined(__FAST_MATH__)  // which knows no NaN
TEST_CASE_TEMPLATE("observe: a key that is no number masks who sees it, and its sequence says so", Element, float,
                   fkv::half) {
  bench<Element, Element, fkv::log_base::natural, fkv::statistics<fkv::sum>> made(31, 40, 6);
  while (made.shape.num_sequences < 2)
    made = bench<Element, Element, fkv::log_base::natural, fkv::statistics<fkv::sum>>(made.random.bits(), 40, 6);
  made.place(history::pristine);
  made.place(0, history::pristine, 30);
  made.place(1, history::pristine, 30);
  made.cache.view().key({0, 1, 0}, 3)[0] = fkv::element_traits<Element>::store(std::numeric_limits<float>::quiet_NaN());
  auto const flag = static_cast<std::uint32_t>(fkv::sequence_flag::not_finite);
  REQUIRE(made.observe(made.window.view()).ok());
  CHECK(made.state.view.flags[0] == 0);
  CHECK(made.state.view.flags[1] == flag);
  for (int slot = 0; slot < 30; ++slot) CHECK(made.out.at(made.shape.row({0, 1, 0}), slot, 0, 0) == 0.0f);

  // A log-sum-exp that the engine hands over says itself which query is masked.
  made.state.view.flags[1] = 0;
  made.window.has_lse = true;
  for (float& sum : made.window.lse) sum = std::numeric_limits<float>::quiet_NaN();
  REQUIRE(made.observe(made.window.view()).ok());
  CHECK(made.state.view.flags[1] == 0);
}
#endif

TEST_CASE("observe: rows of sequences that the list does not name keep every byte") {
  float_bench made(13, 40, 8);
  while (made.shape.num_sequences < 3) made = float_bench(made.random.bits(), 40, 8);
  made.place(history::ordered);
  auto const before = made.out.values;
  made.slots = {2, 0};
  REQUIRE(made.observe(made.window.view()).ok());
  CHECK(made.worst() <= tolerance);
  bool untouched = true;
  made.each_row([&](fkv::row_index at) {
    int const width = made.shape.capacity * all_statistics::size * made.shape.group;
    untouched = untouched && (at.sequence != 1 || made.same_row(before, made.out.values, at, width));
  });
  CHECK(untouched);
}

TEST_CASE("observe: one statistic alone is the same bits as among others, and so is a fresh state") {
  float_bench all(14, 60, 20);
  all.place(history::pristine);
  REQUIRE(all.observe(all.window.view()).ok());
  bench<float, float, fkv::log_base::natural, fkv::statistics<fkv::last<8>>> one(14, 60, 20);
  one.place(history::pristine);
  testing::owned_workspace work(
      fkv::observe_bytes<fkv::statistics<fkv::last<8>>>(testing::exec, one.shape, one.list(), 20));
  REQUIRE(fkv::observe(testing::exec, one.cache.view(), one.list(), one.window.view(), fkv::row_state{}, one.out.view(),
                       work.view())
              .ok());
  bool same = true;
  constexpr int place = all_statistics::index<fkv::last<8>>();
  all.each_row([&](fkv::row_index at) {
    for (int slot = 0; slot < all.cache.length(at); ++slot)
      for (int j = 0; j < all.shape.group; ++j)
        same = same && all.out.at(all.shape.row(at), slot, place, j) == one.out.at(one.shape.row(at), slot, 0, j);
  });
  CHECK(same);
}

TEST_CASE("observe: data that breaks a rule flags its sequence and leaves it alone") {
  float_bench made(15, 30, 6);
  while (made.shape.num_sequences < 3) made = float_bench(made.random.bits(), 30, 6);
  made.place(history::ordered);
  auto const rule = [&](fkv::sequence_flag expected, auto const& spoil) {
    float_bench broken = made;
    spoil(broken);
    auto const before = broken.out.values;
    REQUIRE(broken.observe(broken.window.view()).ok());
    CHECK(broken.state.view.flags[0] == 0);
    CHECK(broken.state.view.flags[1] == static_cast<std::uint32_t>(expected));
    CHECK(broken.state.view.flags[2] == 0);
    bool untouched = true;
    made.each_row([&](fkv::row_index at) {
      int const width = made.shape.capacity * all_statistics::size * made.shape.group;
      untouched = untouched && (at.sequence != 1 || made.same_row(before, broken.out.values, at, width));
    });
    CHECK(untouched);
    broken.slots = {0, 2};
    CHECK(broken.worst() <= tolerance);
  };
  fkv::row_index const last_row{made.shape.num_layers - 1, 1, made.shape.num_kv_heads - 1};
  for (int const length : {-1, made.most + 1, 0x7fffffff})
    rule(fkv::sequence_flag::bad_length, [&](float_bench& broken) { broken.cache.length(last_row) = length; });
  for (int const count : {-1, 7, 0x7fffffff})
    rule(fkv::sequence_flag::bad_window, [&](float_bench& broken) {
      broken.window.has_counts = true;
      broken.window.query_count[1] = count;
    });
  auto const placed = [&](std::int32_t first, std::int32_t end) {
    rule(fkv::sequence_flag::bad_window, [&](float_bench& broken) {
      broken.window.has_first = broken.window.has_end = true;
      for (int s = 0; s < broken.shape.num_sequences; ++s) {
        auto const sequence = static_cast<std::size_t>(s);
        broken.window.window_end[sequence] = s == 1 ? end : 20;
        broken.window.first_position[sequence] = s == 1 ? first : 14;
      }
    });
  };
  placed(15, 20);  // 6 queries from position 15 on end behind the window
  placed(14, std::numeric_limits<std::int32_t>::min());
  placed(std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int32_t>::max());
  placed(std::numeric_limits<std::int32_t>::min(), 20);
  rule(fkv::sequence_flag::length_mismatch, [&](float_bench& broken) {
    broken.state.view.seen_length[made.shape.row(last_row)] = made.cache.length(last_row) + 1;
  });
}

TEST_CASE("observe: what the host can see is refused before anything is written") {
  float_bench made(16, 30, 6);
  made.place(history::ordered);
  auto const before = made.out.values;
  auto const list = made.list();
  auto const window = made.window.view();
  auto const cache = made.cache.view();
  std::size_t const bytes = fkv::observe_bytes<all_statistics>(testing::exec, made.shape, list, 6);
  testing::owned_workspace work(bytes);
  auto const refused = [&](fkv::errc expected, auto const& tokens, fkv::sequence_list const& visited, auto const& seen,
                           fkv::row_state const& state, fkv::statistics_view<all_statistics> const& out,
                           fkv::workspace scratch) {
    fkv::status const done = fkv::observe(testing::exec, tokens, visited, seen, state, out, scratch);
    CHECK(done.code == expected);
    CHECK(made.out.values.same_bytes(before));
    CHECK(made.state.view.flags[0] == 0);
  };
  auto const change = [](auto value, auto const& edit) {
    edit(value);
    return value;
  };
  auto const out = made.out.view();
  fkv::row_state const state = made.state.view;
  using fkv::errc;
  refused(errc::workspace_too_small, cache, list, window, state, out, {work.memory.data(), bytes - 1});
  refused(errc::null_pointer, cache, list, window, state, out, {nullptr, bytes});
  refused(errc::null_pointer, cache, list, window, state, {nullptr, out.capacity}, work.view());
  refused(errc::invalid_shape, cache, list, window, state, {out.data, -1}, work.view());
  refused(errc::null_pointer, change(cache, [](auto& c) { c.row_lengths = nullptr; }), list, window, state, out,
          work.view());
  refused(errc::invalid_shape, change(cache, [](auto& c) { c.extents.group = 0; }), list, window, state, out,
          work.view());
  refused(errc::invalid_shape, cache, change(list, [](auto& l) { l.max_count = -1; }), window, state, out, work.view());
  refused(errc::invalid_shape, cache, change(list, [](auto& l) { l.max_length = -1; }), window, state, out,
          work.view());
  refused(errc::null_pointer, cache, list, change(window, [](auto& w) { w.queries = nullptr; }), state, out,
          work.view());
  refused(errc::invalid_shape, cache, list, change(window, [](auto& w) { w.max_queries = -1; }), state, out,
          work.view());
  refused(errc::invalid_shape, cache, list, change(window, [](auto& w) { w.softmax_scale = -1.0f; }), state, out,
          work.view());
  refused(errc::invalid_shape, cache, list, change(window, [](auto& w) { w.soft_cap = std::nanf(""); }), state, out,
          work.view());
  refused(
      errc::misaligned, cache, list,
      change(window,
             [](auto& w) { w.queries = reinterpret_cast<float const*>(reinterpret_cast<char const*>(w.queries) + 1); }),
      state, out, work.view());
  refused(errc::null_pointer, cache, list, window, change(state, [](auto& s) { s.position = nullptr; }), out,
          work.view());
  refused(errc::invalid_shape, cache, list, window, change(state, [](auto& s) { s.group = 0; }), out, work.view());
  refused(errc::invalid_shape, cache, list, window, change(state, [](auto& s) { s.num_kv_heads += 1; }), out,
          work.view());
}

TEST_CASE("observe: a list of no sequences, and threads, change no result") {
  float_bench made(17, 60, 20);
  made.place(history::filled);
  auto const untouched = made.out.values;
  auto none = made;
  none.slots.clear();
  REQUIRE(none.observe(none.window.view()).ok());
  CHECK(none.out.values.same_bytes(untouched));
  REQUIRE(made.observe(made.window.view(), testing::scheduled(1)).ok());
  auto const alone = made.out.values;
  REQUIRE(made.observe(made.window.view(), testing::scheduled(3)).ok());
  CHECK(made.out.values.same_bytes(alone));
}
