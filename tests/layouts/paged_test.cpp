// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <set>
#include <vector>

#include <foresightkv/detail/one_lane.hpp>
#include <foresightkv/layouts/paged.hpp>

namespace fkv = foresightkv;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 3,
                                 .num_kv_heads = 4,
                                 .group = 1,
                                 .key_head_dim = 5,
                                 .value_head_dim = 6,
                                 .capacity = 40};

template <int PageSize>
int wrong_quotients() {
  int wrong = 0;
  for (int slot : {0, 1, PageSize - 1, PageSize, PageSize + 1, 1000003, 0x7fffffff})
    wrong += fkv::page_divider<PageSize>{}(slot) != slot / PageSize;
  return wrong;
}

}  // namespace

TEST_CASE("paged: pages of any size divide slots exactly") {
  int wrong = 0;
  std::vector<int> sizes;
  for (int size = 1; size <= 300; ++size) sizes.push_back(size);
  for (int size : {511, 512, 1000, 4095, 4096, 32767, 65535, 65536}) sizes.push_back(size);
  for (int const size : sizes) {
    fkv::page_divider<0> const divide(size);
    CHECK(divide.size() == size);
    auto const check = [&](std::int64_t slot) {
      if (slot >= 0 && slot <= 0x7fffffff) wrong += divide(static_cast<int>(slot)) != static_cast<int>(slot / size);
    };
    for (int slot = 0; slot < 3000; ++slot) check(slot);
    // Where rounding would show: beside multiples, up to the largest slot.
    for (std::int64_t multiple = size; multiple <= 0x7fffffff; multiple += 1 + multiple / 5) {
      std::int64_t const whole = multiple / size * size;
      check(whole - 1), check(whole), check(whole + 1);
    }
    check(0x7fffffff), check(0x7ffffffe);
  }
  CHECK(wrong == 0);
  CHECK(wrong_quotients<1>() + wrong_quotients<16>() + wrong_quotients<48>() + wrong_quotients<256>() == 0);
}

TEST_CASE("paged: distances of a pool's orders") {
  auto const hnd = fkv::page_strides::hnd(shape, 10, 8, 5);
  CHECK((hnd.token == 5 && hnd.kv_head == 40 && hnd.page == 160 && hnd.layer == 1600));
  auto const nhd = fkv::page_strides::nhd(shape, 10, 8, 5);
  CHECK((nhd.kv_head == 5 && nhd.token == 20 && nhd.page == 160 && nhd.layer == 1600));
  auto const alone = fkv::page_strides::one_head(10, 8, 5);
  CHECK((alone.kv_head == 0 && alone.token == 5 && alone.page == 40 && alone.layer == 400));
}

TEST_CASE("paged: a slot's address by hand, as elements and as bytes") {
  std::vector<std::int32_t> const pages{7, 0, 3};
  fkv::paged_map<16> const fixed{pages.data(), 160, 5, {}};
  CHECK(fixed(0) == 7 * 160);
  CHECK(fixed(15) == 7 * 160 + 15 * 5);
  CHECK(fixed(37) == 3 * 160 + 5 * 5);
  fkv::paged_map<0> const free{pages.data(), 160, 5, fkv::page_divider<0>(16)};
  for (int slot = 0; slot < 48; ++slot) CHECK(free(slot) == fixed(slot));
  CHECK(fixed.times(4)(37) == 4 * fixed(37));
  // Far pages: more elements than an int counts.
  std::vector<std::int32_t> const far{1000000};
  CHECK(fkv::paged_map<16>{far.data(), 16384, 128, {}}(1) == std::int64_t{1000000} * 16384 + 128);
  alignas(16) static std::byte bytes[64];
  using place = fkv::token_place<fkv::paged_map<16>>;
  CHECK(place{bytes, {pages.data(), 64, 16, {}}}.aligned_to(16));
  CHECK_FALSE(place{bytes, {pages.data(), 64, 24, {}}}.aligned_to(16));
  CHECK_FALSE(place{bytes, {pages.data(), 72, 16, {}}}.aligned_to(16));
  CHECK_FALSE(place{bytes + 8, {pages.data(), 64, 16, {}}}.aligned_to(16));
}

TEST_CASE("paged: tables of sequences, heads and rows") {
  std::vector<std::int32_t> entries(1000);
  auto const check = [&](fkv::page_table const& table, int tables, auto const& place) {
    CHECK(table.tables_of_sequence(shape) == tables);
    std::set<std::int32_t const*> seen;
    for (int layer = 0; layer < 2; ++layer)
      for (int sequence = 0; sequence < 3; ++sequence)
        for (int head = 0; head < 4; ++head) {
          CHECK(table.of({layer, sequence, head}) == entries.data() + place(layer, sequence, head));
          seen.insert(table.of({layer, sequence, head}));
        }
    CHECK(static_cast<int>(seen.size()) == 3 * tables);
  };
  check(fkv::page_table::per_sequence(entries.data(), 6, 10), 1, [](int, int s, int) { return s * 6; });
  check(fkv::page_table::per_head(shape, entries.data(), 6, 10), 4, [](int, int s, int h) { return (s * 4 + h) * 6; });
  check(fkv::page_table::per_row(shape, entries.data(), 6, 10), 8,
        [](int l, int s, int h) { return ((l * 3 + s) * 4 + h) * 6; });
  std::vector<std::int32_t> const starts{0, 2, 9, 11};
  auto const ragged = fkv::page_table::ragged(entries.data(), starts.data(), 10);
  check(ragged, 1, [&](int, int s, int) { return starts[static_cast<std::size_t>(s)]; });
  CHECK(ragged.entries(1) == 7);
  CHECK(ragged.entries(2) == 2);
}

TEST_CASE("paged: the longest of the rows that share a table") {
  auto const length = [](fkv::row_index at) { return 10 * at.layer + at.kv_head; };
  std::vector<std::int32_t> entries(1000);
  auto const per_sequence = fkv::page_table::per_sequence(entries.data(), 6, 10);
  CHECK(per_sequence.longest(shape, {0, 1, 0}, length) == 13);
  auto const per_head = fkv::page_table::per_head(shape, entries.data(), 6, 10);
  CHECK(per_head.longest(shape, per_head.first_row(shape, 1, 2), length) == 12);
  auto const per_row = fkv::page_table::per_row(shape, entries.data(), 6, 10);
  auto const row = per_row.first_row(shape, 1, 6);
  CHECK((row.layer == 1 && row.sequence == 1 && row.kv_head == 2));
  CHECK(per_row.longest(shape, row, length) == 12);
}

TEST_CASE("paged: entries that are no pages, and pages named twice") {
  fkv::detail::one_lane const lane;
  auto const are_pages = [&](std::vector<std::int32_t> const& entries, int count, int num_pages) {
    auto const table = fkv::page_table::per_sequence(entries.data(), 4, num_pages);
    return fkv::detail::are_pages(lane, table, entries.data(), count);
  };
  std::vector<std::int32_t> const sound{4, 0, 9, 2};
  CHECK(are_pages(sound, 4, 10));
  CHECK_FALSE(are_pages(sound, 4, 9));
  CHECK(are_pages(sound, 2, 9));
  std::vector<std::int32_t> const negative{4, -1}, twice{4, 0, 4};
  CHECK_FALSE(are_pages(negative, 2, 10));
  CHECK_FALSE(are_pages(twice, 3, 10));
  CHECK(are_pages(twice, 2, 10));
  CHECK(are_pages(sound, 0, 10));
  // Every sixth, from the second on.
  std::vector<std::int32_t> const offsets{7, 1, 13}, odd{7, 2};
  auto table = fkv::page_table::per_sequence(offsets.data(), 3, 18);
  table.every = 6;
  table.offset = 1;
  CHECK(fkv::detail::are_pages(lane, table, offsets.data(), 3));
  CHECK_FALSE(fkv::detail::are_pages(lane, table, odd.data(), 2));
}
