// SPDX-License-Identifier: Apache-2.0
// Runs alone and, as other entries of ctest, under mpirun: what is checked holds for any number of processes.
#include <doctest/doctest.h>

#include <cstdint>
#include <cstdlib>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "io/temporary_folder.hpp"
#include "support/communicator.hpp"

namespace {

/// The program's one communicator: MPI begins and ends once.
support::communicator const& world() {
  static support::communicator const all;
  return all;
}

std::vector<std::int64_t> values_of(int rank, int count) {
  std::vector<std::int64_t> values;
  for (int i = 0; i < count; ++i) values.push_back(1000 * rank + i);
  return values;
}

}  // namespace

TEST_CASE("communicator: there are as many processes as were started") {
  char const* const expected = std::getenv("FORESIGHTKV_EXPECTED_PROCESSES");
  CHECK(world().size() == (expected == nullptr ? 1 : std::atoi(expected)));
  CHECK(world().rank() >= 0);
  CHECK(world().rank() < world().size());
  CHECK(world().first() == (world().rank() == 0));
  world().barrier();
}

TEST_CASE("communicator: gather orders by rank, broadcast reaches everyone from anyone") {
  for (int const count : {0, 1, 7, 5000}) {
    CAPTURE(count);
    auto const mine = values_of(world().rank(), count);
    std::vector<std::int64_t> all(world().first() ? mine.size() * static_cast<std::size_t>(world().size()) : 0);
    world().gather(std::span(mine), std::span(all));
    if (world().first()) {
      std::vector<std::int64_t> expected;
      for (int rank = 0; rank < world().size(); ++rank)
        for (auto const value : values_of(rank, count)) expected.push_back(value);
      CHECK(all == expected);
    }
    for (int root = 0; root < world().size(); ++root) {
      auto values = values_of(world().rank(), count);
      world().broadcast(std::span(values), root);
      CHECK(values == values_of(root, count));
    }
  }
  CHECK(world().least(5 - world().rank()) == 6 - world().size());
}

TEST_CASE("communicator: what is sent arrives in order") {
  int const next = (world().rank() + 1) % world().size();
  int const before = (world().rank() + world().size() - 1) % world().size();
  if (next == world().rank()) return;
  auto const send = [&] {
    for (int const count : {3, 2}) {
      auto const values = values_of(world().rank(), count);
      world().send(std::span(values), next);
    }
  };
  auto const receive = [&] {
    for (int const count : {3, 2}) {
      std::vector<std::int64_t> values(static_cast<std::size_t>(count));
      world().receive(std::span(values), before);
      CHECK(values == values_of(before, count));
    }
  };
  if (world().first()) send();
  receive();
  if (!world().first()) send();
}

TEST_CASE("together: all fail with the message of the lowest rank, and can go on") {
  int calls = 0;
  support::together(world(), [&] { ++calls; });
  CHECK(calls == 1);
  int const last = world().size() - 1;
  auto const message = test::message_of<std::runtime_error>([&] {
    support::together(world(), [&] {
      if (world().rank() >= last / 2) throw std::runtime_error("rank " + std::to_string(world().rank()));
    });
  });
  CHECK(message == "rank " + std::to_string(last / 2));
  support::together(world(), [&] { ++calls; });
  CHECK(calls == 2);
}
