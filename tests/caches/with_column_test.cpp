// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include <foresightkv/foresightkv.hpp>

#include "support/paged_memory.hpp"
#include "support/policy_bench.hpp"

namespace fkv = foresightkv;
using testing::history;
using testing::paging;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 2,
                                 .num_kv_heads = 3,
                                 .group = 2,
                                 .key_head_dim = 12,
                                 .value_head_dim = 12,
                                 .capacity = 70};
constexpr fkv::eviction_config config{.budget = 40, .interval = 8, .recent_tokens = 5, .sink_tokens = 2};

/// TrimKV: the logarithm of a gate, times the token's age.
struct retention {
  using reads = fkv::statistics<>;
  template <class Lanes, class Token>
  FORESIGHTKV_HOST_DEVICE float operator()(Lanes const&, Token const& token) const {
    return token.column(0) * static_cast<float>(token.next_position() - 1 - token.position());
  }
};
/// Reads the last value of a token through its row.
struct last_value {
  using reads = fkv::statistics<>;
  static constexpr bool needs_time_order = false;
  static constexpr int scratch_rows = 0;
  template <class Block, class Row>
  FORESIGHTKV_HOST_DEVICE void operator()(Block const& block, Row const& row, float* scores) const {
    block.for_each(row.length(), [&](int slot) { scores[slot] = row.column(slot, row.group() - 1); });
  }
};

/// Evicts twice, and follows every token's values: `at(row, slot)` is where they stand.
template <class Scorer, class Compaction, class Element, class Cache, class At, class Expected>
void check(testing::owned_cache<Element>& memory, Cache const& cache, int width, At const& at,
           Expected const& expected_score) {
  using policy_type = fkv::policy<fkv::eviction_config, Scorer, fkv::top_k, Compaction>;
  testing::random_source random(5);
  auto const value = [&](fkv::row_index row, int position, int i) {
    return -0.001f * static_cast<float>(
                         (position * 131 + row.layer * 17 + row.kv_head * 29 + row.sequence * 7 + i * 53) % 997 + 1);
  };
  auto const each_row = [&](auto const& body) {
    for (int row = 0; row < shape.num_rows(); ++row) body(fkv::row_index{row / 6, row / 3 % 2, row % 3});
  };
  each_row([&](fkv::row_index row) {
    for (int slot = 0; slot < 64; ++slot)
      for (int i = 0; i < width; ++i) at(row, slot)[i] = value(row, slot, i);
  });
  REQUIRE(cache.check().ok());
  testing::owned_state<policy_type> const state(shape, shape.capacity);
  fkv::sequence_list const list{nullptr, nullptr, 2, shape.capacity};
  auto work = testing::workspace_for<policy_type>(shape, list, 0);
  std::vector<std::int32_t> new_lengths(2);
  testing::owned_selection lists(shape, shape.capacity);
  std::fill(memory.lengths.begin(), memory.lengths.end(), 64);
  REQUIRE(fkv::evict(testing::exec,
                     fkv::batch{policy_type{config, {}, {}, {}, {}}, cache, list, state.view, work.view()},
                     fkv::observation<float>{}, {new_lengths.data(), lists.view()})
              .ok());
  int wrong = 0;
  each_row([&](fkv::row_index row) {
    int const number = shape.row(row);
    std::vector<std::pair<float, int>> scores;
    for (int position = 2; position < 59; ++position)
      scores.push_back({expected_score(value, row, position), position});
    std::stable_sort(scores.begin(), scores.end(), [](auto const& a, auto const& b) { return a.first < b.first; });
    std::vector<int> gone;
    for (int i = 0; i < 24; ++i) gone.push_back(scores[static_cast<std::size_t>(i)].second);
    std::sort(gone.begin(), gone.end());
    wrong += lists.evicted_of(number) != gone;
    for (int slot = 0; slot < state.view.seen_length[number]; ++slot) {
      int const position = state.view.position[state.view.column(number, slot)];
      for (int i = 0; position >= 0 && i < width; ++i) wrong += at(row, slot)[i] != value(row, position, i);
    }
  });
  CHECK(wrong == 0);
  CHECK(memory.intact());
}

auto const age_times_gate = [](auto const& value, fkv::row_index row, int position) {
  return value(row, position, 0) * static_cast<float>(63 - position);
};
auto const second_value = [](auto const& value, fkv::row_index row, int position) { return value(row, position, 1); };

}  // namespace

TEST_CASE("with_column: values beside tokens move with them, and scorers read them") {
  for (auto const order : {testing::layout::hnd, testing::layout::nhd, testing::layout::layer_pointers}) {
    testing::owned_cache<fkv::half> memory(shape, 64, order);
    testing::guarded<float> gates(static_cast<std::size_t>(shape.num_rows() * shape.capacity * 2));
    auto const layout =
        order == testing::layout::nhd ? fkv::cache_strides::nhd(shape, 2) : fkv::cache_strides::hnd(shape, 2);
    auto const cache = fkv::with_column(memory.view(), gates.data(), 2, layout);
    auto const at = [&](fkv::row_index row, int slot) { return gates.data() + layout.of(row) + slot * layout.token; };
    check<retention, fkv::ordered>(memory, cache, 2, at, age_times_gate);
    check<retention, fkv::fill_holes>(memory, cache, 2, at, age_times_gate);
    check<retention, fkv::slot_list>(memory, cache, 2, at, age_times_gate);
    check<last_value, fkv::fill_holes>(memory, cache, 2, at, second_value);
    CHECK(gates.intact());
  }
}

TEST_CASE("with_column: beside tokens in pages, and pages beside rows") {
  testing::random_source random(6);
  testing::owned_cache<float> memory(shape, 64);
  testing::paged_memory<float, 16> pages(random, shape, 16, paging::vllm);
  std::fill(pages.lengths.begin(), pages.lengths.end(), 64);
  auto const tokens = pages.view();
  testing::guarded<float> gates(static_cast<std::size_t>(2 * pages.num_pages * 16 * 3));
  fkv::paged_layout<16> const layout{
      fkv::page_strides::nhd(shape, pages.num_pages, 16, 1), tokens.key_layout.table, {}};
  auto const at = [&](fkv::row_index row, int slot) {
    return gates.data() + ((row.layer * pages.num_pages + pages.page(row, slot / 16)) * 16 + slot % 16) * 3 +
           row.kv_head;
  };
  check<retention, fkv::ordered>(memory, fkv::with_column(tokens, gates.data(), 1, layout), 1, at, age_times_gate);
  std::fill(memory.lengths.begin(), memory.lengths.end(), 64);
  check<retention, fkv::fill_holes>(memory, fkv::with_column(memory.view(), gates.data(), 1, layout), 1, at,
                                    age_times_gate);
  CHECK(gates.intact());
  CHECK(pages.intact());
}

template <class Cache>
concept gives_layers = requires(Cache const cache) {
  cache.with_layers(nullptr, nullptr);
};
static_assert(gives_layers<fkv::dense_cache<float>>);
static_assert(!gives_layers<fkv::column_cache<fkv::dense_cache<float>>>, "it would lose its column");

TEST_CASE("with_column: what the host can see is refused by name") {
  using fkv::argument, fkv::errc;
  testing::owned_cache<float> memory(shape, 64);
  testing::guarded<float> gates(static_cast<std::size_t>(shape.num_rows() * shape.capacity));
  auto const sound = fkv::with_column(memory.view(), gates.data(), 1, fkv::cache_strides::hnd(shape, 1));
  REQUIRE(sound.check().ok());
  auto const refused = [&](errc code, argument where, auto const& spoil) {
    auto cache = sound;
    spoil(cache);
    CHECK(cache.check().code == code);
    CHECK(cache.check().where == where);
  };
  refused(errc::null_pointer, argument::column, [](auto& c) { c.column_data = nullptr; });
  refused(errc::misaligned, argument::column,
          [](auto& c) { c.column_data = reinterpret_cast<float*>(reinterpret_cast<char*>(c.column_data) + 2); });
  refused(errc::invalid_shape, argument::column, [](auto& c) { c.column_width = 0; });
  refused(errc::invalid_shape, argument::column, [](auto& c) { c.column_width = 2; });
  refused(errc::null_pointer, argument::keys, [](auto& c) { c.key_data = nullptr; });
}
