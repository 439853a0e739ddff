// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <vector>

#include <foresightkv/caches/dense.hpp>
#include <foresightkv/verbs/freed_pages.hpp>

#include "support/paged_memory.hpp"

namespace fkv = foresightkv;
using fkv::length_domain;
using testing::paging;

namespace {

constexpr fkv::cache_shape shape{.num_layers = 2,
                                 .num_sequences = 3,
                                 .num_kv_heads = 2,
                                 .group = 1,
                                 .key_head_dim = 4,
                                 .value_head_dim = 4,
                                 .capacity = 40};
constexpr fkv::sequence_list everyone{nullptr, nullptr, 3, 0};

template <class Memory>
struct pages_bench {
  testing::random_source random{1};
  Memory memory;
  testing::owned_page_list freed;

  pages_bench(int page_size, paging kind)
      : memory(random, shape, page_size, kind),
        freed(shape.num_sequences * memory.tables_per_sequence(), memory.row_pages) {}

  fkv::status list(std::vector<std::int32_t> const& new_lengths, fkv::sequence_list const& list = everyone) {
    return fkv::freed_pages(testing::exec, memory.view(), list, new_lengths.data(), freed.view());
  }
  [[nodiscard]] std::vector<int> pages(int table, int first, int last) const {
    auto const start = memory.pages.begin() + table * memory.row_pages;
    return {start + first, start + last};
  }
};

}  // namespace

TEST_CASE("freed_pages: what lies behind the last page that is needed, in the table's order") {
  pages_bench<testing::paged_memory<float>> made(8, paging::vllm);
  made.memory.lengths = testing::guarded<std::int32_t>(std::vector<std::int32_t>{40, 33, 8});
  REQUIRE(made.list({16, 32, 8}).ok());
  CHECK(made.freed.of(0) == made.pages(0, 2, 5));
  CHECK(made.freed.of(1) == made.pages(1, 4, 5));
  CHECK(made.freed.of(2).empty());
  REQUIRE(made.list({17, 33, 0}).ok());
  CHECK(made.freed.of(0) == made.pages(0, 3, 5));
  CHECK(made.freed.of(1).empty());
  CHECK(made.freed.of(2) == made.pages(2, 0, 1));
  CHECK(made.freed.intact());
}

TEST_CASE("freed_pages: rows that share a table free what the longest of them leaves") {
  pages_bench<testing::paged_memory<float, 0, length_domain::row>> shared(8, paging::hnd);
  std::fill(shared.memory.lengths.begin(), shared.memory.lengths.end(), 30);
  std::vector<std::int32_t> new_lengths(12, 4);
  new_lengths[static_cast<std::size_t>(shape.row({1, 0, 1}))] = 20;
  REQUIRE(shared.list(new_lengths).ok());
  CHECK(shared.freed.of(0) == shared.pages(0, 3, 4));
  CHECK(shared.freed.of(1) == shared.pages(1, 1, 4));

  pages_bench<testing::paged_memory<float, 0, length_domain::row>> alone(8, paging::row_tables);
  std::fill(alone.memory.lengths.begin(), alone.memory.lengths.end(), 30);
  REQUIRE(alone.list(new_lengths).ok());
  for (int table = 0; table < 12; ++table)  // [sequence][layer][kv_head]
    CHECK(alone.freed.of(table) == alone.pages(table, table == 3 ? 3 : 1, 4));
  CHECK(alone.freed.counts[0] == 3);
}

TEST_CASE("freed_pages: the values' pages, where their table is another") {
  pages_bench<testing::paged_memory<float>> made(8, paging::tensorrt_llm);
  made.memory.lengths = testing::guarded<std::int32_t>(std::vector<std::int32_t>{40, 40, 40});
  REQUIRE(made.list({24, 40, 40}).ok());
  auto const blocks = made.pages(0, 3, 5);
  REQUIRE(made.freed.of(0).size() == 2);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(made.freed.pages[i] == blocks[i] * 4);
    CHECK(made.freed.value_pages[i] == blocks[i] * 4 + 1);
  }
}

TEST_CASE("freed_pages: sequences that are not listed, and lengths that are none") {
  pages_bench<testing::paged_memory<float>> made(8, paging::nhd);
  made.memory.lengths = testing::guarded<std::int32_t>(std::vector<std::int32_t>{40, 0x7fffffff, -9});
  std::vector<std::int32_t> const slots{2, 1, 7, -1, 1};
  REQUIRE(made.list({8, 8, 8}, {slots.data(), nullptr, 5, 0}).ok());
  CHECK(made.freed.counts[0] == -7);
  CHECK(made.freed.of(1).empty());
  CHECK(made.freed.of(2).empty());
  for (int const none : {-5, 41, 0x7fffffff}) {
    REQUIRE(made.list({none, 8, 8}).ok());
    CHECK(made.freed.of(0).empty());
  }
  REQUIRE(made.list({40, 8, 8}).ok());
  CHECK(made.freed.of(0).empty());
  CHECK(made.freed.intact());
}

TEST_CASE("freed_pages: what the host can see is refused, nothing written") {
  using fkv::argument, fkv::errc;
  pages_bench<testing::paged_memory<float>> made(8, paging::nhd);
  made.memory.lengths = testing::guarded<std::int32_t>(std::vector<std::int32_t>{40, 40, 40});
  std::vector<std::int32_t> const lengths(3, 8);
  auto const refused = [&](errc code, argument where, auto const& cache, fkv::sequence_list const& list,
                           std::int32_t const* new_lengths, fkv::page_list const& out) {
    fkv::status const done = fkv::freed_pages(testing::exec, cache, list, new_lengths, out);
    CHECK(done.code == code);
    CHECK(done.where == where);
  };
  auto const cache = made.memory.view();
  auto out = made.freed.view();
  refused(errc::null_pointer, argument::new_lengths, cache, everyone, nullptr, out);
  refused(errc::invalid_shape, argument::sequences, cache, {nullptr, nullptr, -1, 0}, lengths.data(), out);
  out.capacity = 4;
  refused(errc::invalid_shape, argument::pages, cache, everyone, lengths.data(), out);
  out.capacity = 5;
  out.pages = nullptr;
  refused(errc::null_pointer, argument::pages, cache, everyone, lengths.data(), out);
  refused(errc::null_pointer, argument::pages, cache, everyone, lengths.data(), {made.freed.pages.data()});
  std::vector<float> token(1);
  auto const dense = fkv::dense_cache<float>::hnd(token.data(), token.data(), lengths.data(), shape);
  refused(errc::unsupported, argument::pages, dense, everyone, lengths.data(), made.freed.view());
  CHECK(made.freed.counts[0] == -7);
}
