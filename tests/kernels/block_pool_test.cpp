// SPDX-License-Identifier: Apache-2.0
// The memory of the tests on a device, as far as it needs none.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "support/block_pool.hpp"
#include "support/random.hpp"

namespace {

using testing::block_pool;

struct pool_of {
  explicit pool_of(std::size_t pages) : memory((pages + 1) * block_pool::page_size) {
    pool->start(memory.data(), memory.size());
  }
  std::byte* take(std::size_t size, std::size_t alignment = 16) {
    return static_cast<std::byte*>(pool->allocate(size, alignment));
  }
  std::vector<std::byte> memory;
  std::unique_ptr<block_pool> pool = std::make_unique<block_pool>();
};

}  // namespace

TEST_CASE("block_pool: blocks of any size and alignment, none on another") {
  pool_of made(48);
  testing::random_source random(3);
  struct block {
    std::byte* data;
    std::size_t size;
    std::byte mark;
  };
  std::vector<block> live;
  auto const drop = [&](std::size_t place) {
    block const gone = live[place];
    REQUIRE(std::all_of(gone.data, gone.data + gone.size, [&](std::byte byte) { return byte == gone.mark; }));
    made.pool->deallocate(gone.data);
    live.erase(live.begin() + static_cast<std::ptrdiff_t>(place));
  };
  for (int round = 0; round < 3000; ++round) {
    if (live.size() > 20 || (!live.empty() && random.chance(0.4))) {
      drop(random.bits() % live.size());
      continue;
    }
    std::size_t const size = random.bits() % (std::size_t{1} << random.integer(1, round % 100 == 0 ? 21 : 14));
    std::size_t const alignment = std::size_t{1} << random.integer(0, 8);
    std::byte* const data = made.take(size, alignment);
    REQUIRE(data != nullptr);
    REQUIRE(made.pool->owns(data));
    REQUIRE(reinterpret_cast<std::uintptr_t>(data) % alignment == 0);
    auto const mark = static_cast<std::byte>(round);
    std::memset(data, static_cast<int>(mark), size);
    live.push_back({data, size, mark});
  }
  while (!live.empty()) drop(0);
  CHECK(made.pool->broken() == 0);
}

TEST_CASE("block_pool: what is written beside a block shows when it is given back") {
  struct {
    std::size_t size;
    std::ptrdiff_t at;
  } const writes[] = {{100, 100}, {100, -1}, {100, 163}, {0, 0}, {3 << 20, 3 << 20}, {3 << 20, -4}, {4096, 4096 + 500}};
  int broken = 0;
  pool_of made(24);
  for (auto const& write : writes) {
    CAPTURE(write.at);
    std::byte* const data = made.take(write.size);
    data[write.at] = std::byte{0};
    made.pool->deallocate(data);
    CHECK(made.pool->broken() == ++broken);
  }
}

TEST_CASE("block_pool: what is read beside a block is no number") {
  pool_of made(4);
  std::byte* const data = made.take(40);
  for (int const at : {-4, 40, 44}) {
    float value = 0.0f;
    std::memcpy(&value, data + at, sizeof value);
    CHECK(std::isnan(value));
  }
  made.pool->deallocate(data);
}

TEST_CASE("block_pool: nothing where nothing is left, and none before it is open") {
  pool_of made(2);
  CHECK(made.take(4 * block_pool::page_size) == nullptr);
  std::byte* const page = made.take(block_pool::page_size - 200);
  std::byte* const other = made.take(block_pool::page_size - 200);
  CHECK((page != nullptr && other != nullptr));
  CHECK(made.take(block_pool::page_size - 200) == nullptr);
  made.pool->deallocate(page);
  CHECK(made.take(block_pool::page_size - 200) == page);
  auto const closed = std::make_unique<block_pool>();
  CHECK_FALSE(closed->open());
  CHECK_FALSE(closed->owns(page));
}
