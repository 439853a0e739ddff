// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "emulation/block_bodies.hpp"
#include "emulation/block_faults.hpp"
#include "support/random.hpp"

namespace testing {

// What holds of both contexts; Grid is fiber_grid or thread_grid. Checks that are made to fail return how
// many results are wrong.

using words = std::vector<std::uint32_t>;

inline words random_words(std::size_t count, std::uint64_t seed) {
  random_source random(seed);
  words made(count);
  for (auto& word : made) word = static_cast<std::uint32_t>(random.bits());
  return made;
}

inline int differences(words const& a, words const& b) {
  int count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) count += a[i] != b[i];
  return count;
}

template <class Grid>
int wrong_neighbours(grid_options const& options, int blocks, int rounds) {
  constexpr int threads = bodies::neighbours::threads;
  words values = random_words(static_cast<std::size_t>(blocks * threads), options.seed);
  words wanted = values;
  for (int block = 0; block < blocks; ++block) bodies::neighbours::expect(wanted.data() + block * threads, rounds);
  auto const report = Grid::run(options, blocks, bodies::neighbours{values.data(), rounds});
  if (options.faults.skipped_sync < 0) CHECK(report.syncs == 3u);
  CHECK(report.warp_syncs == 0u);
  return differences(values, wanted);
}

template <class Grid>
int wrong_lane_neighbours(grid_options const& options, int rounds) {
  constexpr int threads = bodies::lane_neighbours::threads;
  words values = random_words(threads, options.seed);
  words wanted = values;
  for (int round = 0; round < rounds; ++round) {
    words const before = wanted;
    for (std::size_t i = 0; i < threads; ++i) wanted[i] += 3 * before[i / 32 * 32 + (i + 1) % 32];
  }
  auto const report = Grid::run(options, 1, bodies::lane_neighbours{values.data(), rounds});
  CHECK(report.syncs == 0u);
  if (options.faults.skipped_warp_sync < 0) CHECK(report.warp_syncs == 3u);
  return differences(values, wanted);
}

template <class Grid>
int wrong_block_neighbours(grid_options const& options, int clusters, int rounds) {
  constexpr std::size_t threads = bodies::block_neighbours::threads, cluster = bodies::block_neighbours::cluster;
  words values = random_words(static_cast<std::size_t>(clusters) * cluster * threads, options.seed);
  words wanted = values;
  for (int round = 0; round < rounds; ++round) {
    words const before = wanted;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      std::size_t const block = i / threads, next = block / cluster * cluster + (block + 1) % cluster;
      wanted[i] += 3 * before[next * threads + i % threads];
    }
  }
  auto const report =
      Grid::run(options, clusters * static_cast<int>(cluster), bodies::block_neighbours{values.data(), rounds});
  CHECK(report.syncs == 0u);
  if (options.faults.skipped_cluster_sync < 0) CHECK(report.cluster_syncs == 7u);
  return differences(values, wanted);
}

template <class Grid>
int wrong_scans(grid_options const& options, int blocks) {
  constexpr int threads = bodies::scans::threads;
  auto const places = static_cast<std::size_t>(blocks * threads);
  random_source random(options.seed);
  std::vector<std::uint64_t> values(places), sums(3 * places), totals(3 * static_cast<std::size_t>(blocks));
  for (auto& value : values) value = random.bits() >> 48;
  (void)Grid::run(options, blocks, bodies::scans{values.data(), sums.data(), totals.data()});
  int wrong = 0;
  for (std::size_t block = 0; block < static_cast<std::size_t>(blocks); ++block)
    for (std::size_t power = 0; power < 3; ++power) {
      std::uint64_t sum = 0;
      for (std::size_t i = block * threads; i < (block + 1) * threads; ++i) {
        wrong += sums[3 * i + power] != sum;
        sum += power == 0 ? values[i] : power == 1 ? values[i] * values[i] : values[i] * values[i] * values[i];
      }
      wrong += totals[3 * block + power] != sum;
    }
  return wrong;
}

template <class Grid>
int wrong_copies(grid_options const& options, int stages) {
  words const source = random_words(static_cast<std::size_t>(stages * bodies::copy_ring::threads * 4), options.seed);
  words sums(bodies::copy_ring::threads), wanted;
  bodies::copy_ring const body{source.data(), sums.data(), stages};
  body.expect(wanted);
  (void)Grid::run(options, 1, body);
  return differences(sums, wanted);
}

template <class Grid>
void check_shuffles(grid_options const& options) {
  std::vector<int> values(64 * 32);
  (void)Grid::run(options, 1, bodies::shuffles{values.data()});
  int wrong = 0;
  for (int rank = 0; rank < 64; ++rank)
    for (int mask = 0; mask < 32; ++mask)
      wrong += values[static_cast<std::size_t>(rank * 32 + mask)] !=
               1000 * mask + 2 * (rank ^ mask) + 10000 * (rank / 32 * 32 + (rank + mask) % 32);
  CHECK(wrong == 0);
}

template <class Grid>
void check_votes(grid_options const& options) {
  words said(64 * 32), wanted;
  for (int rank = 0; rank < 64; ++rank)
    for (int question = 0; question < 32; ++question) {
      std::uint32_t votes = 0;
      for (int lane = 0; lane < 32; ++lane)
        votes |= static_cast<std::uint32_t>(bodies::votes::answer(rank / 32 * 32 + lane, question)) << lane;
      wanted.push_back(votes);
    }
  (void)Grid::run(options, 1, bodies::votes{said.data()});
  CHECK(said == wanted);
}

/// Sums of exact products in a given order are equal to the bit.
template <class Grid, class Element>
void check_products(grid_options const& options) {
  random_source random(options.seed);
  std::vector<Element> a(2 * 256), b(2 * 128);
  random.fill_normal<Element>(a);
  random.fill_normal<Element>(b);
  std::vector<float> sums(2 * 128);
  for (auto& sum : sums) sum = random.normal();
  std::vector<float> wanted = sums;
  for (std::size_t warp = 0; warp < 2; ++warp)
    for (std::size_t row = 0; row < 16; ++row)
      for (std::size_t column = 0; column < 8; ++column)
        for (std::size_t k = 0; k < 16; ++k)
          wanted[warp * 128 + row * 8 + column] += foresightkv::to_float(a[warp * 256 + row * 16 + k]) *
                                                   foresightkv::to_float(b[warp * 128 + k * 8 + column]);
  (void)Grid::run(options, 1, bodies::products<Element>{a.data(), b.data(), sums.data()});
  CHECK(std::memcmp(sums.data(), wanted.data(), sums.size() * sizeof(float)) == 0);
}

template <class Grid>
void check_counters(grid_options const& options) {
  words odd(3), untouched(3);
  std::uint32_t flags = 16u;
  (void)Grid::run(options, 3, bodies::counters{odd.data(), untouched.data(), &flags});
  CHECK(odd == words(3, 64u));
  CHECK(untouched == words(3, shared_poison));
  CHECK(flags == 31u);
}

template <class Grid>
void check_everything(grid_options const& options) {
  INFO("seed " << options.seed);
  CHECK(wrong_neighbours<Grid>(options, 5, 4) == 0);
  CHECK(wrong_lane_neighbours<Grid>(options, 4) == 0);
  CHECK(wrong_block_neighbours<Grid>(options, 3, 4) == 0);
  CHECK(wrong_scans<Grid>(options, 3) == 0);
  CHECK(wrong_copies<Grid>(options, 5) == 0);
  check_shuffles<Grid>(options);
  check_votes<Grid>(options);
  check_products<Grid, foresightkv::half>(options);
  check_products<Grid, foresightkv::bfloat16>(options);
  check_counters<Grid>(options);
}

/// What a grid says to a body that breaks a rule; empty where it says nothing.
template <class Grid, class Body>
std::string complaint(grid_options const& options, int blocks, Body const& body) {
  try {
    (void)Grid::run(options, blocks, body);
  } catch (block_misuse const& misuse) {
    return misuse.what();
  }
  return {};
}

inline bool contains(std::string const& text, std::string const& part) { return text.find(part) != std::string::npos; }

/// A rule, a body that breaks it, and what is said.
template <class Grid, int Threads, int Cluster = 1, class Function>
void check_refused(grid_options const& options, std::string const& said, Function const& function) {
  std::string const text = complaint<Grid>(options, Cluster, bodies::body<Threads, Cluster>(function));
  INFO(text << " [seed " << options.seed << "]");
  CHECK(contains(text, said));
}

template <class Grid>
void check_misuse(grid_options const& options) {
  alignas(16) std::uint32_t source[8] = {};
  // Threads that do not make the same calls.
  check_refused<Grid, 64>(options, "sync(2)", [](auto const& c, auto&) { c.sync(c.rank() == 5 ? 2 : 1); });
  check_refused<Grid, 64>(options, "sync(1)", [](auto const& c, auto&) {
    if (c.rank() != 5) c.sync(1);
  });
  check_refused<Grid, 64>(options, "exclusive_sum", [](auto const& c, auto& memory) {
    int all = 0;
    if (c.rank() == 5) (void)c.exclusive_sum(memory.scan, 1, all);
    c.sync(1);
  });
  check_refused<Grid, 64>(options, "shuffle_xor(1)",
                          [](auto const& c, auto&) { (void)c.shuffle_xor(1, c.rank() == 5 ? 2 : 1); });
  check_refused<Grid, 64>(options, "a shuffle", [](auto const& c, auto&) {
    if (c.rank() == 5)
      (void)c.vote(true);
    else
      (void)c.shuffle(1, 1);
  });
  check_refused<Grid, 64>(options, "a vote", [](auto const& c, auto&) {
    if (c.rank() != 5) (void)c.vote(true);
    c.sync(0);
  });
  check_refused<Grid, 64>(options, "sync_warp(1)", [](auto const& c, auto&) {
    if (c.rank() == 37)
      c.sync_warp(1);
    else
      (void)c.shuffle_xor(1, 1);
  });
  check_refused<Grid, 64>(options, "shuffle_xor(1)", [](auto const& c, auto&) {
    if (c.rank() != 5) (void)c.shuffle_xor(1, 1);
    c.sync(0);
  });
  check_refused<Grid, 64>(options, "sync(0)", [](auto const& c, auto&) {
    if (c.rank() < 32) c.sync(0);
  });
  // Clusters.
  check_refused<Grid, 32, 2>(options, "sync_cluster(1)", [](auto const& c, auto&) {
    if (c.block() == 0) c.sync_cluster(1);
  });
  check_refused<Grid, 64, 2>(options, "sync_cluster(1)", [](auto const& c, auto&) {
    if (c.block() == 0 && c.rank() == 5)
      c.sync(1);
    else
      c.sync_cluster(1);
  });
  check_refused<Grid, 32, 2>(options, "sync_cluster(2)",
                             [](auto const& c, auto&) { c.sync_cluster(1 + c.cluster_rank()); });
  check_refused<Grid, 32, 2>(options, "no block",
                             [](auto const& c, auto& memory) { (void)c.of_cluster(memory.words, 2); });
  check_refused<Grid, 32, 2>(options, "not in shared memory",
                             [&](auto const& c, auto&) { (void)c.of_cluster(source, 1); });
  check_refused<Grid, 32, 2>(options, "not have begun",
                             [](auto const& c, auto& memory) { (void)c.of_cluster(memory.words, 1); });
  CHECK(contains(complaint<Grid>(options, 3, bodies::body<32, 2>([](auto const&, auto&) {})), "whole clusters"));
  // Scratch.
  check_refused<Grid, 64>(options, "used again", [&](auto const& c, auto& memory) {
    int all = 0;
    (void)c.exclusive_sum(memory.scan, 1, all);
    (void)c.exclusive_sum(memory.scan, 1, all);
  });
  // Copies.
  check_refused<Grid, 32>(options, "aligned",
                          [&](auto const& c, auto& memory) { c.template copy_async<16>(memory.words, source + 1); });
  check_refused<Grid, 32>(options, "aligned",
                          [&](auto const& c, auto& memory) { c.template copy_async<8>(memory.words + 1, source); });
  check_refused<Grid, 32>(options, "not from global",
                          [&](auto const& c, auto&) { c.template copy_async<4>(&source[1], source); });
  check_refused<Grid, 32>(options, "not commit", [&](auto const& c, auto& memory) {
    if (c.rank() == 3) c.template copy_async<4>(memory.words, source);
    c.template wait<0>();
  });
  check_refused<Grid, 32>(options, "not wait", [&](auto const& c, auto& memory) {
    if (c.rank() == 3) c.template copy_async<4>(memory.words, source);
    c.commit();
    c.template wait<1>();
  });
  // Addresses and numbers.
  check_refused<Grid, 32>(options, "not in shared memory", [&](auto const& c, auto&) { c.count(source); });
  check_refused<Grid, 32>(options, "not in global memory",
                          [&](auto const& c, auto& memory) { c.raise(memory.words, 1u); });
  check_refused<Grid, 32>(options, "no lane", [&](auto const& c, auto&) { (void)c.shuffle_xor(1, 32); });
  check_refused<Grid, 32>(options, "no lane", [&](auto const& c, auto&) { (void)c.shuffle(1, -1); });
  check_refused<Grid, 32>(options, "[0, 64)", [&](auto const& c, auto&) { c.sync(64); });
}

/// What a body throws comes out of the launch, and every thread's objects are destroyed.
template <class Grid>
void check_exception(grid_options const& options) {
  struct thrown {};
  std::atomic<int> alive{0};
  auto const body = bodies::body<64>([&](auto const& c, auto&) {
    ++alive;
    struct leaves {
      std::atomic<int>& count;
      ~leaves() { --count; }
    } const leaving{alive};
    c.sync(0);
    if (c.rank() == 40 && c.block() == 2) throw thrown{};
    c.sync(1);
  });
  CHECK_THROWS_AS((void)Grid::run(options, 8, body), thrown);
  CHECK(alive == 0);
  CHECK(wrong_neighbours<Grid>(options, 2, 2) == 0);  // the next grid is none the worse
}

}  // namespace testing
