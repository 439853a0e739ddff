// SPDX-License-Identifier: Apache-2.0
// Evictions and compactions into another cache: see moving_batch.
#include <doctest/doctest.h>

#include <cmath>
#include <type_traits>
#include <vector>

#include <foresightkv/foresightkv.hpp>

#include "support/paged_memory.hpp"
#include "support/policy_bench.hpp"

namespace fkv = foresightkv;
using fkv::length_domain;
using testing::history;
using testing::paging;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 3,
                                 .num_kv_heads = 2,
                                 .group = 3,
                                 .key_head_dim = 24,
                                 .value_head_dim = 24,
                                 .capacity = 75};
constexpr fkv::eviction_config config{.budget = 33, .interval = 8, .recent_tokens = 6, .sink_tokens = 2};

template <class Scorer, class Selector, class Compaction>
using policy_of = fkv::policy<fkv::eviction_config, Scorer, Selector, Compaction>;
using carrying = policy_of<testing::mixed_scorer, fkv::top_k, fkv::ordered>;
using sampling = policy_of<fkv::key_norm, fkv::sampled_top_k, fkv::fill_holes>;

/// Keeps all but a few of the tokens that should go, another number in each row.
struct reluctant {
  static constexpr length_domain domain = length_domain::row;
  template <class Row>
  FORESIGHTKV_HOST_DEVICE void operator()(Row& row) const {
    row.evict_lowest(1 + static_cast<int>(row.score(0) * 1e6f) % 5);
  }
};
using hesitating = policy_of<fkv::key_norm, reluctant, fkv::ordered>;

/// The memory behind a dense cache of any storages.
template <class Keys, class Values = Keys, length_domain Domain = length_domain::sequence>
struct stored {
  using view_type = fkv::dense_cache<Keys, Values, Domain>;
  fkv::cache_shape extents;
  testing::guarded<typename view_type::key_element> keys;
  testing::guarded<typename view_type::value_element> values;
  testing::guarded<float> key_scales, value_scales;  // as many as a storage of any kind has
  testing::guarded<std::int32_t> lengths;

  explicit stored(int room, fkv::cache_shape const& wanted = shape)
      : extents(wanted),
        keys(tokens() * 24),
        values(tokens() * 24),
        key_scales(tokens(), 0.25f),
        value_scales(tokens(), 0.5f),
        lengths(static_cast<std::size_t>(fkv::detail::num_lengths(Domain, extents)), room) {}
  [[nodiscard]] std::size_t tokens() const { return static_cast<std::size_t>(extents.num_rows() * extents.capacity); }
  [[nodiscard]] view_type view() {
    auto made = view_type::hnd(keys.data(), values.data(), lengths.data(), extents);
    if constexpr (requires { made.with_key_scales(key_scales.data()); }) made = made.with_key_scales(key_scales.data());
    if constexpr (requires { made.with_value_scales(value_scales.data()); })
      made = made.with_value_scales(value_scales.data());
    return made;
  }
  [[nodiscard]] bool same(stored const& other) const {
    return keys.same_bytes(other.keys) && values.same_bytes(other.values) && key_scales.same_bytes(other.key_scales) &&
           value_scales.same_bytes(other.value_scales) && lengths.same_bytes(other.lengths);
  }
  [[nodiscard]] bool intact() const {
    return keys.intact() && values.intact() && key_scales.intact() && value_scales.intact() && lengths.intact();
  }
};

/// The memory behind a paged cache, with room for so many tokens.
template <class Element, length_domain Domain = length_domain::sequence>
struct pages : testing::paged_memory<Element, 0, Domain> {
  pages(testing::random_source& random, int tokens, paging kind, int room, fkv::cache_shape const& extents = shape)
      : testing::paged_memory<Element, 0, Domain>(random, extents, tokens, kind) {
    std::fill(this->lengths.begin(), this->lengths.end(), room);
    this->publish();
  }
  [[nodiscard]] bool same(pages const& other) const {
    return this->keys.same_bytes(other.keys) && this->values.same_bytes(other.values) &&
           this->tables.same_bytes(other.tables) && this->lengths.same_bytes(other.lengths);
  }
};

/// What stands at a token has not been written, or is copied to where it should not count.
template <class Cache>
void take_over(Cache const& from, Cache const& to, fkv::row_index at, int slot) {
  for (int part = 0; part < fkv::detail::num_parts(from); ++part)
    std::memcpy(fkv::detail::part_place(to, at, part)(slot), fkv::detail::part_place(from, at, part)(slot),
                static_cast<std::size_t>(fkv::detail::part_bytes(from, part)));
}

/// Whether a token of one cache is that of another, byte by byte.
struct same_bytes {
  template <class Source, class Target>
  bool operator()(Source const& source, fkv::row_index at, int from, Target const& target, int to) const {
    return std::memcmp(source.keys(at).at(from), target.keys(at).at(to),
                       sizeof(*target.keys(at).at(to)) * std::size_t{24}) == 0 &&
           std::memcmp(source.values(at).at(from), target.values(at).at(to),
                       sizeof(*target.values(at).at(to)) * std::size_t{24}) == 0;
  }
};
/// Whether it is that number, as the target has it: multiplied, divided, rounded to nearest.
struct same_numbers {
  template <class Source, class Target>
  bool operator()(Source const& source, fkv::row_index at, int from, Target const& target, int to) const {
    return same(source.keys(at), from, target.keys(at), to) && same(source.values(at), from, target.values(at), to);
  }
  template <class From, class To>
  static bool same(From const& source, int from, To const& target, int to) {
    using element = typename To::element_type;
    float scale = target.scale(to), largest = 0.0f;
    bool right = true;
    for (int d = 0; d < 24; ++d)
      largest = std::max(largest, std::fabs(fkv::to_float(source.at(from)[d]) * source.scale(from)));
    if constexpr (!To::one_scale && !std::is_empty_v<typename To::storage_row>)
      right = scale == std::max(largest / (std::is_same_v<element, std::int8_t> ? 127.0f : 448.0f), 0x1p-126f);
    for (int d = 0; d < 24; ++d) {
      float const value = fkv::to_float(source.at(from)[d]) * source.scale(from) / scale;
      float expected = 0.0f;
      if constexpr (std::is_same_v<element, std::int8_t>)
        expected = std::clamp(std::nearbyint(value), -127.0f, 127.0f);
      else
        expected = fkv::to_float(fkv::element_traits<element>::store(value));
      right = right && fkv::to_float(target.at(to)[d]) == expected;
    }
    return right;
  }
};

/// Columns of a row as they should be after its kept tokens closed up: `before` and `cut` are states before, and after
/// the same eviction in place.
template <class Bench>
int column_differences(Bench const& made, fkv::row_state const& cut, fkv::row_index at, std::vector<int> const& kept) {
  fkv::row_state const& now = made.state.view;
  int const row = now.row(at);
  int wrong = now.seen_length[row] != cut.seen_length[row] || now.next_position[row] != cut.next_position[row] ||
              now.step[row] != cut.step[row];
  if (now.step[row] == 0 || now.seen_length[row] < static_cast<int>(kept.size())) return wrong;
  for (int i = 0; i < static_cast<int>(kept.size()); ++i) {
    int const position =
        made.positions[static_cast<std::size_t>(row)][static_cast<std::size_t>(kept[static_cast<std::size_t>(i)])];
    wrong += now.position[now.column(row, i)] != position;
    int slot = 0;
    while (slot < cut.seen_length[row] && cut.position[cut.column(row, slot)] != position) ++slot;
    if (slot == cut.seen_length[row]) return wrong + 1;
    for (int w = 0; w < now.num_carried * now.group; ++w)
      wrong += now.carried_at(row, i)[w] != cut.carried_at(row, slot)[w];
  }
  return wrong;
}

/// Evicts in place from the dense cache of a bench, and from a source with the same tokens into a target, and counts
/// what differs from what it should be. The bench's state describes the target then.
template <class Bench, class Source, class Target, class Same>
int differences(Bench& made, Source& source, Target& target, Same const& same_token) {
  using policy_type = typename Bench::policy_type;
  auto cut = made;
  REQUIRE(cut.evict().ok());
  auto const untouched = source;
  auto expected = target;
  auto const from = source.view();
  auto const to = target.view();
  testing::owned_workspace work(
      fkv::evict_into_bytes(testing::exec, policy_type{}, shape, made.list(), made.window.max_queries));
  fkv::batch const rows{made.policy, from, made.list(), made.state.view, work.view()};
  fkv::eviction_output const output{made.new_lengths.data(), made.lists.view()};
  REQUIRE(fkv::evict(testing::exec, rows.into(to), made.window.view(), output).ok());
  CHECK(work.memory.intact());
  CHECK(made.intact());
  CHECK(target.intact());
  int wrong = !source.same(untouched) + !made.lists.same(cut.lists) + !made.new_lengths.same_bytes(cut.new_lengths);
  for (int s = 0; s < shape.num_sequences; ++s) wrong += made.state.view.flags[s] != cut.state.view.flags[s];
  auto const all = expected.view();
  made.each_row([&](fkv::row_index at) {
    if (!made.listed(at.sequence)) return;
    auto const kept = made.lists.kept_of(shape.row(at), made.tokens(at));
    wrong += static_cast<int>(kept.size()) != made.new_length(at);
    for (int i = 0; i < static_cast<int>(kept.size()); ++i) {
      wrong += !same_token(from, at, kept[static_cast<std::size_t>(i)], to, i);
      take_over(to, all, at, i);
    }
    wrong += column_differences(made, cut.state.view, at, kept);
  });
  wrong += !target.same(expected);  // not a byte beside
  if constexpr (std::is_same_v<typename policy_type::compaction_type, fkv::ordered>)
    wrong += !testing::same_state(made.state.view, cut.state.view);
  return wrong;
}

template <class Policy, class Element = float, length_domain Domain = length_domain::sequence>
testing::policy_bench<Policy, Element, Domain> bench_of(std::uint64_t seed, history last = history::ordered) {
  testing::policy_bench<Policy, Element, Domain> made(seed, Policy{config, {}, {}, {}, {}}, shape, 5);
  made.place(0, history::pristine, 70);
  made.place(1, last, 60);
  made.place(2, last, 20);  // within its budget
  return made;
}
/// A dense cache is a source, too.
template <class Element, length_domain Domain>
struct dense_source : testing::owned_cache<Element, Domain> {
  [[nodiscard]] bool same(dense_source const& other) const {
    return this->same_tokens(other) && this->lengths.same_bytes(other.lengths);
  }
};
template <class Policy, class Element, length_domain Domain>
dense_source<Element, Domain> source_of(testing::policy_bench<Policy, Element, Domain> const& made) {
  return {made.cache};
}
template <class Policy, class Element, length_domain Domain>
pages<Element, Domain> paged_source_of(testing::policy_bench<Policy, Element, Domain>& made, int tokens, paging kind) {
  pages<Element, Domain> source(made.random, tokens, kind, 0);
  source.load(made.cache);
  return source;
}

}  // namespace

TEST_CASE("evict into: what stays goes to another layout, bit by bit; the state is that of an eviction in place") {
  std::uint64_t seed = 0;
  for (paging const kind : testing::all_pagings)
    for (int const tokens : {1, 7, 16}) {
      CAPTURE(static_cast<int>(kind));
      CAPTURE(tokens);
      auto made = bench_of<carrying>(++seed);
      auto dense = source_of(made);
      pages<float> target(made.random, tokens, kind, 33);
      CHECK(differences(made, dense, target, same_bytes{}) == 0);
      auto again = bench_of<carrying>(seed);
      auto paged = paged_source_of(again, tokens, kind);
      stored<float> rows(33 + tokens);
      CHECK(differences(again, paged, rows, same_bytes{}) == 0);
      auto other = bench_of<carrying>(seed);
      auto from = paged_source_of(other, 16, paging::nhd);
      pages<float> to(other.random, tokens, kind, 40);
      CHECK(differences(other, from, to, same_bytes{}) == 0);
    }
}

TEST_CASE("evict into: sampled choices, rows of many histories, capacities that differ") {
  for (std::uint64_t seed = 1; seed < 7; ++seed) {
    CAPTURE(seed);
    auto made = bench_of<sampling, fkv::bfloat16>(seed, seed % 2 == 0 ? history::ordered : history::filled);
    auto source = source_of(made);
    auto extents = shape;
    extents.capacity = seed < 3 ? 33 : 200;
    stored<fkv::bfloat16> target(33, extents);
    CHECK(differences(made, source, target, same_bytes{}) == 0);
    if (seed == 1) {  // some of the sequences
      auto some = bench_of<sampling, fkv::bfloat16>(seed);
      some.slots = {2, 0};
      CHECK(differences(some, source, target, same_bytes{}) == 0);
      CHECK(some.new_lengths[1] == -7);
    }
  }
}

TEST_CASE("evict into: other element types and scales") {
  for (std::uint64_t seed = 1; seed < 4; ++seed) {
    CAPTURE(seed);
    auto const into = [&](auto target) {
      auto made = bench_of<sampling, fkv::bfloat16>(seed);
      auto source = source_of(made);
      CHECK(differences(made, source, target, same_numbers{}) == 0);
    };
    into(stored<fkv::scaled_by_token<std::int8_t>>(40));
    into(stored<fkv::scaled_by_token<fkv::float8_e4m3>, float>(33));
    into(stored<fkv::scaled_by_head<fkv::float8_e4m3>, fkv::scaled_by_tensor<std::int8_t>>(75));
    into(stored<fkv::half, fkv::scaled_by_head<fkv::bfloat16>>(50));
  }
}

namespace {

/// Tokens of one storage, evicted from into a target of another, without queries.
template <class Policy, class Source, class Target>
void evict_stored(Source& source, Target& target, testing::owned_state<Policy> const& state) {
  fkv::sequence_list const list{nullptr, nullptr, 3, 75};
  testing::owned_workspace work(fkv::evict_into_bytes(testing::exec, Policy{}, shape, list, 0));
  testing::guarded<std::int32_t> new_lengths(target.lengths.size());
  Policy const policy{config, {}, {}, {}, {}};
  fkv::batch const rows{policy, source.view(), list, state.view, work.view()};
  REQUIRE(fkv::evict(testing::exec, rows.into(target.view()), fkv::observation<float>{}, {new_lengths.data()}).ok());
  for (int const length : new_lengths) CHECK(length == 33);
}
template <class Source, class Target, class Same>
int moved_wrongly(Source& source, Target& target, Same const& same) {
  using policy_type = policy_of<fkv::streaming_llm, fkv::top_k, fkv::ordered>;
  testing::owned_state<policy_type> const state(shape, 40);
  evict_stored(source, target, state);
  auto const from = source.view();
  auto const to = target.view();
  int wrong = 0;
  for (int row = 0; row < shape.num_rows(); ++row) {
    fkv::row_index const at{row / 6, row / 2 % 3, row % 2};
    for (int i = 0; i < 33; ++i) wrong += !same(from, at, state.view.position[state.view.column(row, i)], to, i);
  }
  return wrong;
}
template <class Storage>
stored<Storage> random_tokens(std::uint64_t seed) {
  testing::random_source random(seed);
  stored<Storage> made(70);
  for (auto* elements : {&made.keys, &made.values})
    for (auto& element : *elements)
      element = fkv::element_traits<std::remove_cvref_t<decltype(element)>>::store(40.0f * random.normal());
  for (auto* scales : {&made.key_scales, &made.value_scales})
    for (float& scale : *scales) scale = static_cast<float>(random.uniform(0.01, 0.1));
  return made;
}

}  // namespace

TEST_CASE("evict into: a storage that is the same moves as bytes, with its scales; scales that differ convert") {
  using int8_tokens = fkv::scaled_by_token<std::int8_t>;
  auto const source = random_tokens<int8_tokens>(3);
  auto from = source;
  auto const same_scaled = [](auto const& a, fkv::row_index at, int i, auto const& b, int j) {
    return same_bytes{}(a, at, i, b, j) && a.keys(at).scale(i) == b.keys(at).scale(j) &&
           a.values(at).scale(i) == b.values(at).scale(j);
  };
  stored<int8_tokens> same_type(33);
  CHECK(moved_wrongly(from, same_type, same_scaled) == 0);
  stored<int8_tokens, int8_tokens, length_domain::row> another_type(33);
  CHECK(moved_wrongly(from, another_type, same_scaled) == 0);
  CHECK(from.same(source));

  auto by_head = random_tokens<fkv::scaled_by_head<fkv::float8_e4m3>>(4);
  stored<fkv::scaled_by_head<fkv::float8_e4m3>> same_scales(33), other_scales(33);
  same_scales.key_scales = by_head.key_scales;
  same_scales.value_scales = by_head.value_scales;
  CHECK(moved_wrongly(by_head, same_scales, same_bytes{}) == 0);
  CHECK(moved_wrongly(by_head, other_scales, same_numbers{}) == 0);
  stored<fkv::bfloat16> plain(33);
  CHECK(moved_wrongly(by_head, plain, same_numbers{}) == 0);
}

TEST_CASE("evict into: a scale per token of tokens of zeros, of infinities, of no numbers") {
  auto source = random_tokens<float>(5);
  float const nan = std::nanf("");
  fkv::row_index const at{1, 2, 0};
  auto const cache = source.view();
  for (int d = 0; d < 24; ++d) cache.key(at, 0)[d] = 0.0f;
  for (int d = 0; d < 24; ++d) cache.key(at, 1)[d] = d < 2 ? 0x1p-140f : 0.0f;
  for (int d = 0; d < 24; ++d) cache.value(at, 0)[d] = d == 3 ? HUGE_VALF : d == 5 ? nan : d == 6 ? -12.7f : 0.2f;
  for (int d = 0; d < 24; ++d) cache.value(at, 1)[d] = d % 2 == 0 ? nan : -HUGE_VALF;
  stored<fkv::scaled_by_token<std::int8_t>, fkv::scaled_by_token<fkv::float8_e4m3>> target(33);
  stored<fkv::scaled_by_token<fkv::float8_e5m2>, fkv::scaled_by_token<std::int8_t>> other(33);
  (void)moved_wrongly(source, target, same_bytes{});
  (void)moved_wrongly(source, other, same_bytes{});
  auto const narrow = target.view();
  auto const wide = other.view();
  int wrong = 0;
  for (int d = 0; d < 24; ++d) {
    wrong += narrow.key(at, 0)[d] != 0 || narrow.key(at, 1)[d] != 0;
    wrong += (wide.key(at, 0)[d].bits & 0x7f) != 0;
    int const value = wide.value(at, 0)[d];
    wrong += value != (d == 3 ? 127 : d == 5 ? 0 : d == 6 ? -127 : 2);
    wrong += wide.value(at, 1)[d] != (d % 2 == 0 ? 0 : -127);
    int const bits = narrow.value(at, 1)[d].bits;
    wrong += d % 2 == 0 ? (bits & 0x7f) != 0x7f : bits != 0xfe;
  }
  CHECK(wrong == 0);
  CHECK(narrow.keys(at).scale(0) == 0x1p-126f);
  CHECK(narrow.keys(at).scale(1) == 0x1p-126f);
  CHECK(wide.values(at).scale(0) == 12.7f / 127.0f);
  CHECK(wide.values(at).scale(1) == 0x1p-126f);
}

TEST_CASE("evict into: padded batches, columns of the engine's own, latent rows") {
  using policy_type = policy_of<fkv::streaming_llm, fkv::top_k, fkv::ordered>;
  testing::random_source random(6);
  testing::guarded<std::int32_t> starts(std::vector<std::int32_t>{5, 0, 3}), ends(std::vector<std::int32_t>{1, 42, 0});
  auto const source = random_tokens<float>(6);
  auto tokens = source, other = random_tokens<float>(7);
  testing::guarded<float> gates(tokens.tokens() * 3), moved_gates(gates.size());
  random.fill_normal<float>(gates);
  std::fill(tokens.lengths.begin(), tokens.lengths.end(), 70);
  std::fill(other.lengths.begin(), other.lengths.end(), 33);
  struct {
    fkv::column_cache<fkv::padded_cache<float>> cache;
    testing::guarded<std::int32_t>& lengths;
    [[nodiscard]] auto view() const { return cache; }
  } padded{fkv::with_column(fkv::padded_cache<float>::hnd(tokens.keys.data(), tokens.values.data(), starts.data(),
                                                          tokens.lengths.data(), shape),
                            gates.data(), 3, fkv::cache_strides::hnd(shape, 3)),
           tokens.lengths},
      to{padded.cache, other.lengths};
  auto same = [](auto const& a, fkv::row_index at, int i, auto const& b, int j) {
    return same_bytes{}(a, at, i, b, j) && std::memcmp(a.column(at).at(i), b.column(at).at(j), 12) == 0;
  };
  // The same type, and another.
  to.cache = fkv::with_column(
      fkv::padded_cache<float>::nhd(other.keys.data(), other.values.data(), ends.data(), other.lengths.data(), shape),
      moved_gates.data(), 3, fkv::cache_strides::nhd(shape, 3));
  CHECK(moved_wrongly(padded, to, same) == 0);
  struct {
    fkv::column_cache<fkv::dense_cache<float>> cache;
    testing::guarded<std::int32_t>& lengths;
    [[nodiscard]] auto view() const { return cache; }
  } dense{fkv::with_column(other.view(), moved_gates.data(), 3, fkv::cache_strides::hnd(shape, 3)), other.lengths};
  CHECK(moved_wrongly(padded, dense, same) == 0);
  auto wide = dense;
  wide.cache.column_width = 2;
  testing::owned_state<policy_type> const state(shape, 40);
  fkv::sequence_list const list{nullptr, nullptr, 3, 75};
  testing::owned_workspace work(fkv::evict_into_bytes(testing::exec, policy_type{}, shape, list, 0));
  fkv::batch const rows{policy_type{config, {}, {}, {}, {}}, padded.cache, list, state.view, work.view()};
  testing::guarded<std::int32_t> new_lengths(3);
  auto const done = fkv::evict(testing::exec, rows.into(wide.cache), fkv::observation<float>{}, {new_lengths.data()});
  CHECK(done.code == fkv::errc::invalid_shape);
  CHECK(done.where == fkv::argument::column);
  CHECK(tokens.same(source));

  // Latent rows: values are a part of what moves already.
  using latent = fkv::latent_cache<float>;
  auto extents = shape;
  extents.value_head_dim = 16;
  stored<float> target(33);
  struct {
    latent cache;
    testing::guarded<std::int32_t>& lengths;
    [[nodiscard]] auto view() const { return cache; }
  } from{latent::latent(tokens.keys.data(), tokens.lengths.data(), extents, 4), tokens.lengths},
      into{latent::latent(target.keys.data(), target.lengths.data(), extents, 4), target.lengths};
  auto const same_latent = [](auto const& a, fkv::row_index at, int i, auto const& b, int j) {
    return std::memcmp(a.keys(at).at(i), b.keys(at).at(j), 24 * sizeof(float)) == 0;
  };
  testing::owned_state<policy_type> const columns(shape, 40);
  fkv::batch const latents{policy_type{config, {}, {}, {}, {}}, from.cache, list, columns.view, work.view()};
  REQUIRE(fkv::evict(testing::exec, latents.into(into.cache), fkv::observation<float>{}, {new_lengths.data()}).ok());
  int wrong = 0;
  for (int row = 0; row < shape.num_rows(); ++row)
    for (int i = 0; i < 33; ++i) {
      fkv::row_index const at{row / 6, row / 2 % 3, row % 2};
      wrong += !same_latent(from.cache, at, columns.view.position[columns.view.column(row, i)], into.cache, i);
    }
  CHECK(wrong == 0);
}

TEST_CASE("evict into: rows that share a length need not share it in the target") {
  auto made = bench_of<hesitating, fkv::half, length_domain::row>(8);
  auto source = source_of(made);
  pages<fkv::half, length_domain::row> target(made.random, 8, paging::row_tables, 75);
  CHECK(differences(made, source, target, same_bytes{}) == 0);

  // From a cache whose rows are equally long.
  auto rows = bench_of<hesitating, fkv::half, length_domain::row>(9, history::pristine);
  testing::owned_cache<fkv::half> equal(shape, 0, testing::layout::hnd);
  equal.keys = rows.cache.keys;
  equal.values = rows.cache.values;
  rows.cache.order = testing::layout::hnd;
  for (int s = 0; s < 3; ++s) equal.lengths[static_cast<std::size_t>(s)] = rows.cache.length({0, s, 0});
  dense_source<fkv::half, length_domain::sequence> from{equal};
  CHECK(differences(rows, from, target, same_bytes{}) == 0);
}

namespace {

/// What is said of the sequences of a call into pages of 16, two of a head's rows to a table, after `spoil`.
struct refusal {
  std::vector<std::uint32_t> flags;
  std::vector<std::int32_t> new_lengths, freed_counts;
  bool untouched[3] = {};
};
template <class Spoil>
refusal refused(Spoil const& spoil, bool dry_run = false, bool compacts = false) {
  auto made = bench_of<hesitating, float, length_domain::row>(11);
  auto source = paged_source_of(made, 16, paging::hnd);
  source.owners = testing::guarded<std::int32_t>(static_cast<std::size_t>(source.num_pages), 5);  // only read
  pages<float, length_domain::row> target(made.random, 16, paging::head_tables, 75);
  target.owners = testing::guarded<std::int32_t>(static_cast<std::size_t>(target.num_pages), 1);
  auto const before = target;
  spoil(target);
  auto const state = made.state;
  testing::owned_workspace work(fkv::evict_into_bytes(testing::exec, hesitating{}, shape, made.list(), 5));
  fkv::batch const rows{made.policy, source.view(), made.list(), made.state.view, work.view()};
  testing::owned_page_list freed(6, target.row_pages);
  if (compacts) {
    REQUIRE(fkv::score(testing::exec, rows, made.window.view(), made.scores.view()).ok());
    REQUIRE(fkv::select(testing::exec, rows, made.scores.view(), made.lists.view()).ok());
    REQUIRE(fkv::compact(testing::exec, rows.into(target.view()), made.lists.view(), made.new_lengths.data()).ok());
  } else {
    fkv::eviction_output const output{made.new_lengths.data(), made.lists.view(), dry_run, freed.view()};
    REQUIRE(fkv::evict(testing::exec, rows.into(target.view()), made.window.view(), output).ok());
  }
  CHECK(target.intact());
  CHECK(freed.intact());
  CHECK(work.memory.intact());
  refusal said;
  said.flags.assign(made.state.view.flags, made.state.view.flags + 3);
  said.new_lengths.assign(made.new_lengths.begin(), made.new_lengths.end());
  said.freed_counts.assign(freed.counts.begin(), freed.counts.end());
  auto fresh = before;
  for (int s = 0; s < 3; ++s) {
    said.untouched[s] = true;
    target.each_slot([&](fkv::row_index at, int slot) {
      if (at.sequence == s)
        said.untouched[s] = said.untouched[s] && *target.token(at, slot, false) == *fresh.token(at, slot, false) &&
                            *target.token(at, slot, true) == *fresh.token(at, slot, true);
    });
    made.each_row(s, [&](fkv::row_index at) {
      int const row = shape.row(at);
      said.untouched[s] =
          said.untouched[s] && testing::same_columns(made.state.view, state.view, row, 75) && made.new_length(at) == -7;
    });
  }
  return said;
}
constexpr std::uint32_t bits(fkv::sequence_flag flag) { return static_cast<std::uint32_t>(flag); }

}  // namespace

TEST_CASE("evict into: what the target lacks flags a sequence, and nothing of it is written") {
  using fkv::sequence_flag;
  auto const only_second = [](refusal const& said, sequence_flag flag) {
    CHECK(said.flags == std::vector<std::uint32_t>{0, bits(flag), 0});
    CHECK(said.untouched[1]);
    CHECK(!said.untouched[0]);
    CHECK(!said.untouched[2]);
    for (int table = 0; table < 6; ++table)
      CHECK((said.freed_counts[static_cast<std::size_t>(table)] == -7) == (table / 2 == 1));
  };
  auto const length = [](fkv::row_index at) { return static_cast<std::size_t>(shape.row(at)); };
  only_second(refused([&](auto& target) { target.lengths[length({1, 1, 1})] = -1; }), sequence_flag::bad_length);
  only_second(refused([&](auto& target) { target.lengths[length({1, 1, 0})] = 76; }), sequence_flag::bad_length);
  only_second(refused([&](auto& target) { target.lengths[length({0, 1, 1})] = 40; }), sequence_flag::bad_length);
  only_second(refused([&](auto& target) { target.entry({0, 1, 1}, 4) = -1; }), sequence_flag::bad_table);
  only_second(refused([&](auto& target) {
                target.entry({0, 1, 0}, 3) = target.entry({0, 1, 0}, 0);
              }),
              sequence_flag::bad_table);
  auto const shared = [](auto& target) { target.owners[static_cast<std::size_t>(target.page({0, 1, 1}, 0))] = 2; };
  only_second(refused(shared), sequence_flag::shared_page);
  CHECK(refused(
            [&](auto& target) {
              target.entry({0, 1, 1}, 4) = -1;
            },
            false, true)
            .flags[1] == bits(sequence_flag::bad_table));
  refusal const listed = refused([&](auto& target) { target.lengths[length({0, 1, 1})] = 40; }, false, true);
  CHECK(listed.flags == std::vector<std::uint32_t>{0, bits(sequence_flag::bad_length), 0});
  CHECK(listed.untouched[1]);
  CHECK(!listed.untouched[0]);
  // A row that is not cut goes too, and has to fit.
  refusal const short_row = refused([&](auto& target) { target.lengths[length({1, 2, 1})] = 19; });
  CHECK(short_row.flags == std::vector<std::uint32_t>{0, 0, bits(sequence_flag::bad_length)});
  CHECK(short_row.untouched[2]);

  // In a dry run lengths and freed pages are those of a run, and nobody owns anything.
  refusal const whole = refused([](auto&) {}), dry = refused(shared, true);
  CHECK(whole.flags == std::vector<std::uint32_t>{0, 0, 0});
  CHECK(dry.flags == whole.flags);
  CHECK(dry.new_lengths == whole.new_lengths);
  CHECK(dry.freed_counts == whole.freed_counts);
}

TEST_CASE("evict into: a row that the state cannot store keeps its sequence where it is") {
  auto made = bench_of<hesitating, float, length_domain::row>(12);
  testing::owned_state<hesitating> const state(shape, 66);  // some rows of sequence 0 keep more
  stored<float, float, length_domain::row> target(75);
  auto const before = target;
  testing::owned_workspace work(fkv::evict_into_bytes(testing::exec, hesitating{}, shape, made.list(), 5));
  made.slots = {0};
  fkv::batch const rows{made.policy, made.cache.view(), made.list(), state.view, work.view()};
  REQUIRE(fkv::evict(testing::exec, rows.into(target.view()), made.window.view(), {made.new_lengths.data()}).ok());
  CHECK(state.view.flags[0] == bits(fkv::sequence_flag::state_overflow));
  CHECK(target.same(before));
  for (int const length : made.new_lengths) CHECK(length == -7);
  for (int row = 0; row < shape.num_rows(); ++row) CHECK(state.view.step[row] == 0);
}

TEST_CASE("evict into: pages of the target come back, from the new length to its room") {
  auto made = bench_of<carrying>(13);
  auto source = source_of(made);
  pages<float> target(made.random, 8, paging::tensorrt_llm, 75);
  testing::owned_workspace work(fkv::evict_into_bytes(testing::exec, carrying{}, shape, made.list(), 5));
  testing::owned_page_list freed(3, target.row_pages);
  fkv::batch const rows{made.policy, source.view(), made.list(), made.state.view, work.view()};
  REQUIRE(fkv::evict(testing::exec, rows.into(target.view()), made.window.view(),
                     {.new_lengths = made.new_lengths.data(), .freed = freed.view()})
              .ok());
  for (int s = 0; s < 3; ++s) {
    std::vector<int> expected;
    for (int i = s == 2 ? 3 : 5; i < 10; ++i) expected.push_back(target.page({0, s, 0}, i) * 4);
    CHECK(freed.of(s) == expected);
  }
}

TEST_CASE("compact into: given lists move tokens to another cache; rows that lose none are copied") {
  for (std::uint64_t seed = 1; seed < 4; ++seed) {
    auto made = bench_of<carrying>(seed);
    auto source = source_of(made);
    auto const untouched = source;
    auto cut = made;
    cut.run_stages();
    auto const rows_of = [&](auto& work) {
      return fkv::batch{made.policy, source.view(), made.list(), made.state.view, work.view()};
    };
    auto work = testing::workspace_for<carrying>(shape, made.list(), 5);
    REQUIRE(made.observe().ok());
    REQUIRE(made.carry(made.observed()).ok());
    REQUIRE(made.score(made.observed()).ok());
    REQUIRE(made.select().ok());
    made.each_row(2, [&](fkv::row_index at) {  // of a row that is not cut nobody reads the list
      std::fill_n(made.lists.kept.data() + shape.row(at) * 75, 75, -5);
    });
    pages<float> target(made.random, 16, paging::vllm, 48);
    REQUIRE(fkv::compact(testing::exec, rows_of(work).into(target.view()), made.lists.view(), made.new_lengths.data())
                .ok());
    CHECK(made.new_lengths.same_bytes(cut.new_lengths));
    CHECK(testing::same_state(made.state.view, cut.state.view));
    CHECK(source.same(untouched));
    int wrong = 0;
    auto const to = target.view();
    auto const moved = cut.cache.view();
    made.each_row([&](fkv::row_index at) {
      for (int i = 0; i < made.new_length(at); ++i) wrong += !same_bytes{}(moved, at, i, to, i);
    });
    CHECK(wrong == 0);
  }
}

TEST_CASE("evict into: what the host can see") {
  using policy_type = carrying;
  auto made = bench_of<policy_type>(14);
  auto source = source_of(made);
  source.order = testing::layout::hnd;
  stored<float> target(40);
  pages<float> pool(made.random, 16, paging::hnd, 40);
  auto work = testing::owned_workspace(fkv::evict_into_bytes(testing::exec, policy_type{}, shape, made.list(), 5));
  auto const into = [&](auto const& from, auto const& to, std::int32_t* new_lengths, std::size_t bytes) {
    fkv::batch const rows{made.policy, from, made.list(), made.state.view, {work.memory.data(), bytes}};
    auto const evicted = fkv::evict(testing::exec, rows.into(to), made.window.view(), {new_lengths});
    auto const compacted = fkv::compact(testing::exec, rows.into(to), made.lists.view(), new_lengths);
    if (bytes == work.memory.size()) {
      CHECK(evicted == compacted);
      CHECK(evicted.where == compacted.where);
    }
    return evicted;
  };
  auto const check = [&](fkv::status done, fkv::errc code, fkv::argument where) {
    CHECK(done.code == code);
    CHECK(done.where == where);
  };
  using fkv::argument, fkv::errc;
  auto const from = source.view();
  auto const to = target.view();
  auto* const lengths = made.new_lengths.data();
  std::size_t const enough = work.memory.size();
  for (int which = 0; which < 6; ++which) {
    auto other = to;
    int* const extents[] = {&other.extents.num_layers,   &other.extents.num_sequences,  &other.extents.num_kv_heads,
                            &other.extents.key_head_dim, &other.extents.value_head_dim, &other.extents.group};
    --*extents[which];
    check(into(from, other, lengths, enough), errc::invalid_shape, argument::target);
  }
  auto missing = to;
  missing.value_data = nullptr;
  check(into(from, missing, lengths, enough), errc::null_pointer, argument::values);
  check(into(from, from, lengths, enough), errc::overlap, argument::target);
  auto close = to;
  close.value_data = source.keys.data() + 100;
  check(into(from, close, lengths, enough), errc::overlap, argument::target);
  check(into(pool.view(), pool.view(), lengths, enough), errc::overlap, argument::target);
  check(into(from, to, target.lengths.data(), enough), errc::overlap, argument::new_lengths);
  check(into(from, to, source.lengths.data(), enough), errc::overlap, argument::new_lengths);
  check(into(from, to, nullptr, enough), errc::null_pointer, argument::new_lengths);
  check(into(from, to, lengths, enough - 1), errc::workspace_too_small, argument::workspace);
  fkv::page_list const none{lengths, lengths, 9};
  fkv::batch const rows{made.policy, pool.view(), made.list(), made.state.view, work.view()};
  check(fkv::evict(testing::exec, rows.into(to), made.window.view(), {.new_lengths = lengths, .freed = none}),
        errc::unsupported, argument::pages);
}
